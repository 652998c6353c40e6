// What only a real GPU can show, each as one number against a bound: the probable faults of two reviews that were
// made without one. scripts/check-gpu.sh runs it.
//
//   node scripts/gpu-probes.mjs [--elements N] [--report]
//
// --report prints the numbers and compares nothing (over the stand-in they mean nothing).
import { parseArgs } from 'node:util';

const { values } = parseArgs({
  options: { elements: { type: 'string', default: String(64 * 2 ** 20) }, report: { type: 'boolean', default: false } },
});
const elements = Number(values.elements);

const started = performance.now();
const { AdamW, Tensor, synchronize } = await import('../dist/lib/index.js');
const one = Tensor.zeros(1, { device: 'cuda' });
const firstUse = performance.now() - started;

const ROUNDS = 15;

/** The least time of a call, in milliseconds, from and to an idle GPU. */
function least(call) {
  const times = Array.from({ length: ROUNDS }, () => {
    synchronize('cuda');
    const start = performance.now();
    call();
    synchronize('cuda');
    return performance.now() - start;
  });
  return Math.min(...times);
}

const zeros = (options = {}) => Tensor.zeros(elements, { device: 'cuda', ...options });

function filled() {
  const tensor = zeros();
  const block = Float32Array.from({ length: elements }, (_, i) => ((i * 7919) % 1009) / 1009 + 1e-3);
  return tensor.set(block);
}

/** The time of a step. */
function timeOf(weight, grad) {
  const optimizer = new AdamW({ learningRate: 1e-3 });
  const bound = optimizer.bind([0], [weight], [grad], [optimizer.createState(0, weight)]);
  const time = least(() => bound.step());
  bound.dispose();
  return time;
}

const grad = filled();
const usual = timeOf(filled(), grad);

function misaligned() {
  const owner = Tensor.zeros(elements + 1, { device: 'cuda' });
  return Tensor.fromDevicePointer(owner.pointer + 4n, { shape: elements, dtype: 'float32', owner });
}

/** Of a copy to the host beside a step, to both one after the other: 1 if nothing overlaps. */
async function overlap() {
  const optimizer = new AdamW({ learningRate: 1e-3 });
  const weight = filled();
  const bound = optimizer.bind([0], [weight], [grad], [optimizer.createState(0, weight)]);
  const [source, target] = [zeros(), Tensor.zeros(elements, { pinned: true })];
  const timed = async (call) => {
    synchronize('cuda');
    const start = performance.now();
    await call();
    synchronize('cuda');
    return performance.now() - start;
  };
  const steps = () => {
    for (let i = 0; i < 20; i++) bound.step();
  };
  await timed(() => target.copyAsync(source));
  const copy = await timed(() => target.copyAsync(source));
  const alone = await timed(async () => steps());
  const both = await timed(() => {
    steps();
    return target.copyAsync(source);
  });
  return both / (copy + alone);
}

const PROBES = [
  ['first use, with the device code loaded (ms; drivers that translate it take seconds)', () => firstUse, 3000],
  ['toArray() of one element (ms)', () => least(() => one.toArray()), 0.06],
  ['a step over zeros, to one over numbers (rows of an embedding)', () => timeOf(zeros(), zeros()) / usual, 1.05],
  [
    'a step with a misaligned gradient, to an aligned one',
    () => timeOf(filled(), misaligned().copyFrom(grad)) / usual,
    1.3,
  ],
  ['steps beside copyAsync(), to both in turn', overlap, 0.9],
];

let failed = 0;
for (const [name, probe, bound] of PROBES) {
  const number = await probe();
  const isWithin = number <= bound;
  if (!isWithin) failed++;
  console.log(
    `${name}: ${number.toPrecision(3)}${values.report ? '' : `, at most ${bound}${isWithin ? '' : ': FAILED'}`}`,
  );
}
process.exitCode = failed > 0 && !values.report ? 1 : 0;
