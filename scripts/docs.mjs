// Writes the reference, docs/api/, from the docstrings. TypeDoc and the TypeScript that it needs are installed into
// scripts/docs/, apart from the package's own dependencies. Something public without a docstring fails.
//
//   node scripts/docs.mjs            writes
//   node scripts/docs.mjs --check    fails if docs/api/ is not what would be written
import { spawnSync } from 'node:child_process';
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join, relative } from 'node:path';
import { fileURLToPath } from 'node:url';

const root = fileURLToPath(new URL('..', import.meta.url));
const tools = join(root, 'scripts/docs');
const reference = join(root, 'docs/api');

function run(command, args) {
  const { status, error } = spawnSync(command, args, { cwd: root, stdio: ['ignore', 'inherit', 'inherit'] });
  if (status !== 0) throw new Error(`${[command, ...args].join(' ')} failed${error ? `: ${error.message}` : ''}`);
}

/** Installs what the lock file says, unless it is there. */
function installTools() {
  const installed = join(tools, 'node_modules/.package-lock.json');
  const versionsIn = (file) =>
    Object.entries(JSON.parse(readFileSync(file, 'utf8')).packages)
      .filter(([path]) => path !== '')
      .map(([path, { version }]) => `${path}@${version}`)
      .join();
  if (existsSync(installed) && versionsIn(installed) === versionsIn(join(tools, 'package-lock.json'))) return;
  run('npm', ['ci', '--prefix', tools, '--no-audit', '--no-fund']);
}

function write(folder) {
  const typedoc = join(tools, 'node_modules/typedoc/bin/typedoc');
  run(process.execPath, [typedoc, '--options', join(tools, 'typedoc.json'), '--logLevel', 'Warn', '--out', folder]);
}

/** The text of each file below a folder, by its path in it. */
function textsOf(folder) {
  const files = existsSync(folder) ? readdirSync(folder, { recursive: true, withFileTypes: true }) : [];
  return new Map(
    files
      .filter((file) => file.isFile())
      .map(({ parentPath, name }) => join(parentPath, name))
      .map((path) => [relative(folder, path), readFileSync(path, 'utf8')]),
  );
}

/** The files that differ between docs/api/ and what the docstrings say now. */
function stale() {
  const folder = mkdtempSync(join(tmpdir(), 'fused-adamw-docs-'));
  try {
    write(folder);
    const [actual, expected] = [textsOf(reference), textsOf(folder)];
    return [...new Set([...actual.keys(), ...expected.keys()])].filter(
      (file) => actual.get(file) !== expected.get(file),
    );
  } finally {
    rmSync(folder, { recursive: true });
  }
}

installTools();
if (process.argv.includes('--check')) {
  const files = stale();
  if (files.length > 0) {
    console.error(`docs: docs/api/ is not up to date (${files.join(', ')}): npm run docs writes it`);
    process.exitCode = 1;
  }
} else {
  write(reference);
}
