// Builds bench/native/roof.cc, which the benchmark runs in the same process as
// the steps for comparison, into build-bench/. Without CMake or a compiler it
// says so in one line and succeeds: the benchmark lists it as absent.
import { spawnSync } from 'node:child_process';
import { createRequire } from 'node:module';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';

const require = createRequire(import.meta.url);
const root = fileURLToPath(new URL('..', import.meta.url));
const cmakeJs = join(dirname(require.resolve('cmake-js/package.json')), 'bin/cmake-js');

const args = [cmakeJs, 'compile', '--out', 'build-bench', '--target', 'roof'];
const { status, stdout, stderr } = spawnSync(process.execPath, args, { cwd: root, encoding: 'utf8' });
if (status !== 0) {
  const lines = `${stdout}\n${stderr}`.split('\n');
  const telling = lines.find((line) => /\berror:|CMake Error|not installed|not found/i.test(line)) ?? 'unknown reason';
  console.log(`bench: the roof was not built (${telling.trim()})`);
}
