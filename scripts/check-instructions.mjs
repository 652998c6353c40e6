// Counts instructions under callgrind and compares them with recorded bounds:
// a check of speed that does not depend on the machine's.
//
//   node scripts/check-instructions.mjs             compares
//   node scripts/check-instructions.mjs --record    writes bench/instructions/recorded.json
//
// Native: a step on one thread, baseline and AVX2 (valgrind 3.19 knows no
// AVX-512), in instructions an element. JavaScript: a call of each path through
// the package, addon included, in instructions a tensor. Each is the difference
// of N and 2 N, so that the start cancels out. The headroom is for other
// compilers and other versions of Node, not for slower code.
import { execFile, spawn } from 'node:child_process';
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';

const root = fileURLToPath(new URL('..', import.meta.url));
const RECORDED = join(root, 'bench/instructions/recorded.json');
const HEADROOM = { native: 1.15, javascript: 1.4 };

const NATIVE_STEPS = 50;
const NATIVE = ['baseline', 'avx2'].flatMap((isa) => [
  { isa, dtypes: 'float32', tensors: 1, length: 4096 },
  { isa, dtypes: 'float32', tensors: 64, length: 64 },
  { isa, dtypes: 'bfloat16', tensors: 1, length: 4096 },
  { isa, dtypes: 'float16+master', tensors: 1, length: 4096 },
]);

const TENSORS = 100; // as in bench/instructions/calls.ts
/** How many calls of each path: enough for the engine to have compiled what it will. */
const CALLS = {
  'bound.step()': 6000,
  'fusedStep(lists)': 6000,
  'fusedStep(lists), other gradients': 2000,
  multiAdamwUpdate: 1000,
};
const NODE_FLAGS = ['--single-threaded', '--predictable', '--hash-seed=1', '--random-seed=1'];

function fail(message) {
  console.error(`instructions: ${message}`);
  process.exit(1);
}

/** All instructions of a command. */
async function count(command) {
  const env = { ...process.env, FUSED_ADAMW_ISA: 'avx2', OMP_NUM_THREADS: '1', NODE_OPTIONS: '' };
  const child = spawn('valgrind', ['--tool=callgrind', '--callgrind-out-file=/dev/null', ...command], {
    cwd: root,
    env,
    stdio: ['ignore', 'ignore', 'pipe'],
  });
  let text = '';
  child.stderr.on('data', (data) => {
    text += data;
  });
  const status = await new Promise((resolve) => {
    child.on('error', (error) => fail(`valgrind does not start (${error.message})`));
    child.on('close', resolve);
  });
  const found = /Collected : (\d+)/.exec(text);
  if (status !== 0 || !found) fail(`${command.join(' ')} ended with ${status}: ${text.trim().split('\n').at(-1)}`);
  return Number(found[1]);
}

/** Instructions of one more repetition. */
async function countEach(commandOf, times) {
  const [once, twice] = await Promise.all([count(commandOf(times)), count(commandOf(2 * times))]);
  return (twice - once) / times;
}

async function buildSteps() {
  const folder = 'build-bench/instructions';
  try {
    await promisify(execFile)('cmake', ['-S', '.', '-B', folder], { cwd: root });
    await promisify(execFile)('cmake', ['--build', folder, '--target', 'count_steps'], { cwd: root });
  } catch (error) {
    fail(`count_steps is not built (${error.message.trim().split('\n')[0]})`);
  }
  return join(root, folder, 'count_steps');
}

async function countAll() {
  const counts = { native: {}, javascript: {} };
  const program = await buildSteps();
  for (const { isa, dtypes, tensors, length } of NATIVE) {
    const command = (steps) => [program, isa, dtypes, `${tensors}`, `${length}`, `${steps}`];
    const perStep = await countEach(command, NATIVE_STEPS);
    counts.native[`${isa}, ${tensors} x ${length} ${dtypes}`] = perStep / (tensors * length);
  }
  for (const [path, times] of Object.entries(CALLS)) {
    const command = (calls) => [process.execPath, ...NODE_FLAGS, 'dist/bench/instructions/calls.js', path, `${calls}`];
    counts.javascript[path] = (await countEach(command, times)) / TENSORS;
  }
  return counts;
}

const counts = await countAll();
if (process.argv.includes('--record')) {
  const rounded = (table) => Object.fromEntries(Object.entries(table).map(([name, n]) => [name, +n.toFixed(2)]));
  const record = { native: rounded(counts.native), javascript: rounded(counts.javascript) };
  writeFileSync(RECORDED, `${JSON.stringify(record, null, 2)}\n`);
}
const recorded = JSON.parse(readFileSync(RECORDED, 'utf8'));
let failures = 0;
for (const [kind, unit] of [
  ['native', 'an element'],
  ['javascript', 'a tensor'],
]) {
  for (const [name, value] of Object.entries(counts[kind])) {
    const bound = recorded[kind][name] * HEADROOM[kind];
    const isWithin = value <= bound;
    if (!isWithin) failures++;
    const verdict = isWithin ? 'at most' : 'MORE THAN';
    console.log(`${name}: ${value.toFixed(2)} instructions ${unit}, ${verdict} ${bound.toFixed(2)}`);
  }
}
if (failures > 0) fail(`${failures} above their bounds (bench/instructions/recorded.json)`);
