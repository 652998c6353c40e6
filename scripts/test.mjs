// Builds what is stale, then runs mocha. A test file may be given by its source.
//
//   node scripts/test.mjs FILE... [options of mocha]
import { spawnSync } from 'node:child_process';
import { createRequire } from 'node:module';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';

const root = fileURLToPath(new URL('..', import.meta.url));
const mocha = join(dirname(createRequire(import.meta.url).resolve('mocha/package.json')), 'bin/mocha.js');

function run(...args) {
  const { status } = spawnSync(process.execPath, args, { cwd: root, stdio: 'inherit' });
  if (status !== 0) process.exit(status ?? 1);
}

const args = process.argv.slice(2).map((each) => each.replace(/^(?:\.\/)?(test\/.*)\.ts$/, 'dist/$1.js'));
if (!args.some((each) => each.endsWith('.test.js'))) {
  console.error('Expected a test file, for example test/30.optimizer.test.ts');
  process.exit(1);
}
run(join(root, 'scripts/build.mjs'));
run(mocha, ...args);
