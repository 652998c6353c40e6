// Format and lint: Biome for TypeScript and JSON, clang-format for C++.
//
//   node scripts/lint.mjs            checks
//   node scripts/lint.mjs --write    fixes what can be fixed
import { spawnSync } from 'node:child_process';
import { existsSync, readdirSync } from 'node:fs';
import { createRequire } from 'node:module';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';

const require = createRequire(import.meta.url);
const root = fileURLToPath(new URL('..', import.meta.url));
const write = process.argv.includes('--write');

function run(command, args) {
  const { status, error } = spawnSync(command, args, { cwd: root, stdio: 'inherit' });
  if (error) {
    console.error(`lint: ${command} does not start (${error.message})`);
    return false;
  }
  return status === 0;
}

const biome = join(dirname(require.resolve('@biomejs/biome/package.json')), 'bin/biome');
const sources = ['native', 'test', 'bench']
  .filter((folder) => existsSync(join(root, folder)))
  .flatMap((folder) => readdirSync(join(root, folder), { recursive: true }).map((file) => join(folder, file)))
  .filter((file) => /\.(cc|h|cu|cuh)$/.test(file));

const results = [
  run(process.execPath, [biome, 'check', ...(write ? ['--write'] : []), '--error-on-warnings', '.']),
  run('clang-format', [...(write ? ['-i'] : ['--dry-run', '--Werror']), ...sources]),
];
process.exitCode = results.every(Boolean) ? 0 : 1;
