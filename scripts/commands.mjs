// Commands that scripts run, and tools that come as Python packages.
import { spawnSync } from 'node:child_process';
import { existsSync, mkdirSync, readdirSync, renameSync, rmSync } from 'node:fs';
import { dirname, join, relative } from 'node:path';
import { fileURLToPath } from 'node:url';

export const root = fileURLToPath(new URL('..', import.meta.url));

/** An error for a command that failed: the first line of what it said that tells of an error, else the last. */
export function failure(command, output, otherwise) {
  const lines = output.split('\n').filter((line) => line.trim() !== '');
  const telling = lines.find((line) => /error|not found/i.test(line)) ?? lines.at(-1) ?? otherwise;
  return new Error(`${relative(root, command) || command}: ${telling.trim()}`);
}

/** What a command prints. Throws if it fails. */
export function run(command, args) {
  const result = spawnSync(command, args, { cwd: root, encoding: 'utf8', maxBuffer: 1 << 30 });
  if (result.error) throw new Error(`${command} does not start (${result.error.message})`);
  if (result.status !== 0)
    throw failure(command, `${result.stdout ?? ''}${result.stderr ?? ''}`, `status ${result.status}`);
  return result.stdout;
}

/** Where the packages of an environment are, which is created in the folder if it does not exist yet. */
export function sitePackages(folder, packages) {
  if (!existsSync(folder)) {
    const unfinished = `${folder}.unfinished`;
    mkdirSync(dirname(folder), { recursive: true });
    rmSync(unfinished, { recursive: true, force: true });
    run('python3', ['-m', 'venv', unfinished]);
    run(join(unfinished, 'bin/python'), ['-m', 'pip', 'install', '--quiet', ...packages]);
    renameSync(unfinished, folder);
  }
  const python = readdirSync(join(folder, 'lib')).find((name) => name.startsWith('python'));
  return join(folder, 'lib', python, 'site-packages');
}
