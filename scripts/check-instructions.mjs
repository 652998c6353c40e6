// Counts instructions under callgrind and compares them with recorded bounds:
// a check of speed that does not depend on the machine's.
//
//   node scripts/check-instructions.mjs             compares
//   node scripts/check-instructions.mjs --record    writes bench/instructions/recorded.json
//
// Native: a step on one thread, baseline and AVX2 (valgrind 3.19 knows no
// AVX-512), in instructions an element. JavaScript: a call of each path through
// the package, addon included, in instructions a tensor. Each program calls
// umask() before and after what is counted, and callgrind writes its counts at
// these calls, so that the start and the compiler's warm-up do not count. The
// headroom is for other compilers and other versions of Node, not for slower
// code.
import { execFile, spawn } from 'node:child_process';
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { availableParallelism, tmpdir } from 'node:os';
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
/** How many calls of each path are counted, and how many come before: enough for the engine to have compiled it. */
const CALLS = {
  'bound.step()': { warmUp: 4000, counted: 1000 },
  'fusedStep(lists)': { warmUp: 4000, counted: 1000 },
  'fusedStep(lists), other gradients': { warmUp: 1500, counted: 800 },
  multiAdamwUpdate: { warmUp: 600, counted: 400 },
};
const NODE_FLAGS = ['--single-threaded', '--predictable', '--hash-seed=1', '--random-seed=1'];

function fail(message) {
  console.error(`instructions: ${message}`);
  process.exit(1);
}

/** The instructions of a command between its two calls of umask(). */
async function count(command) {
  const folder = mkdtempSync(join(tmpdir(), 'fused-adamw-'));
  const output = join(folder, 'counts');
  const env = { ...process.env, FUSED_ADAMW_ISA: 'avx2', OMP_NUM_THREADS: '1', NODE_OPTIONS: '' };
  const options = ['--tool=callgrind', `--callgrind-out-file=${output}`, '--dump-before=umask'];
  const child = spawn('valgrind', [...options, ...command], { cwd: root, env, stdio: ['ignore', 'ignore', 'pipe'] });
  let text = '';
  child.stderr.on('data', (data) => {
    text += data;
  });
  const status = await new Promise((resolve) => {
    child.on('error', (error) => fail(`valgrind does not start (${error.message})`));
    child.on('close', resolve);
  });
  // The first part ends at the first call; what follows the second call is not numbered.
  const isComplete = status === 0 && existsSync(`${output}.2`) && !existsSync(`${output}.3`);
  const found = isComplete ? /^totals: (\d+)$/m.exec(readFileSync(`${output}.2`, 'utf8')) : null;
  rmSync(folder, { recursive: true });
  if (!found) fail(`${command.join(' ')} ended with ${status}: ${text.trim().split('\n').at(-1)}`);
  return Number(found[1]);
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

/** What is counted: the command, and how many units its instructions are divided by. */
function countings(program) {
  const native = NATIVE.map(({ isa, dtypes, tensors, length }) => ({
    kind: 'native',
    name: `${isa}, ${tensors} x ${length} ${dtypes}`,
    command: [program, isa, dtypes, `${tensors}`, `${length}`, `${NATIVE_STEPS}`],
    units: NATIVE_STEPS * tensors * length,
  }));
  const script = 'dist/bench/instructions/calls.js';
  const javascript = Object.entries(CALLS).map(([path, { warmUp, counted }]) => ({
    kind: 'javascript',
    name: path,
    command: [process.execPath, ...NODE_FLAGS, script, path, `${warmUp}`, `${counted}`],
    units: counted * TENSORS,
  }));
  return [...native, ...javascript];
}

async function countAll() {
  const counts = { native: {}, javascript: {} };
  const all = countings(await buildSteps());
  for (const { kind, name } of all) counts[kind][name] = 0; // the order in which they are shown
  const waiting = all.values();
  const work = async () => {
    for (const { kind, name, command, units } of waiting) counts[kind][name] = (await count(command)) / units;
  };
  await Promise.all(Array.from({ length: availableParallelism() }, work));
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
