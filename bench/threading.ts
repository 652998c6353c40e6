/**
 * npm run bench:threading: bound.step() on OpenMP and on the team, in turns: medians on the machine as it is, and
 * means beside a process that keeps one processor busy, where a barrier can wait out whole time slices.
 *
 *     npm run bench:threading -- [--rounds N]
 */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { parseArgs } from 'node:util';
import { AdamW, backendInfo, setThreading, type Threading } from '../lib/index.js';
import { OPTIONS, tensorArrays } from './arrays.js';
import { summarise } from './statistics.js';

const LISTS: readonly { title: string; lengths: readonly number[] }[] = [
  { title: '1 x 100,000', lengths: [100_000] },
  { title: '1 x 4 Mi', lengths: [4 * 2 ** 20] },
  { title: '1,000 x 1,024', lengths: new Array<number>(1000).fill(1024) },
  { title: '10,000 x 64', lengths: new Array<number>(10_000).fill(64) },
];
const TURN = 80e6; // nanoseconds

const { values } = parseArgs({ options: { rounds: { type: 'string', default: '11' } } });
const rounds = Number(values.rounds);
const { threads, threading } = backendInfo();

/** A step of each list, ready to run. */
const steps = LISTS.map(({ lengths }, i) => {
  const name = `${i}`;
  const { weights, grads, states } = tensorArrays({ name, title: name, lengths, config: 'float32', byDefault: true });
  const indices = weights.map((_, tensor) => tensor);
  return new AdamW(OPTIONS).bind(indices, weights, grads, states);
});

/** Milliseconds of each step of a turn. */
function takeTurn(step: () => unknown): number[] {
  const times: number[] = [];
  const start = process.hrtime.bigint();
  for (let before = start; before - start < TURN; ) {
    step();
    const now = process.hrtime.bigint();
    times.push(Number(now - before) / 1e6);
    before = now;
  }
  return times;
}

const median = (values: readonly number[]): number => summarise(values).median;
const mean = (values: readonly number[]): number => values.reduce((sum, value) => sum + value, 0) / values.length;

/** The median over the rounds of what `figure` makes of a turn, for each runtime and list. */
function measure(title: string, figure: (times: readonly number[]) => number): void {
  const found = new Map<Threading, number[][]>(threading.available.map((runtime) => [runtime, LISTS.map(() => [])]));
  for (let round = 0; round < rounds; round++) {
    const order = round % 2 === 0 ? threading.available : [...threading.available].reverse();
    for (const [i, bound] of steps.entries()) {
      for (const runtime of order) {
        setThreading(runtime);
        takeTurn(() => bound.step()); // caches, threads and the machine's clock settle
        found.get(runtime)?.[i].push(figure(takeTurn(() => bound.step())));
      }
    }
  }
  setThreading(null);
  for (const [runtime, lists] of found) {
    const row = lists.map((figures) => median(figures).toFixed(3).padStart(15));
    console.log(`${runtime.padEnd(8)}${title.padEnd(28)}${row.join('')}`);
  }
}

if (!Number.isInteger(rounds) || rounds < 1) {
  console.error(`Expected a whole number of at least 1 for --rounds but received ${JSON.stringify(values.rounds)}`);
  process.exitCode = 1;
} else {
  console.log(`${threads} threads, ${threading.library ?? threading.reason}; ms of a step`);
  console.log(' '.repeat(36) + LISTS.map(({ title }) => title.padStart(15)).join(''));
  measure('medians', median);
  const busy = spawn(process.execPath, ['--eval', 'for (;;);'], { stdio: 'ignore' });
  await once(busy, 'spawn');
  try {
    measure('means beside a busy process', mean);
  } finally {
    busy.kill();
  }
}
