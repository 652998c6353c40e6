/** Runs the contenders of a case in turns, round after round, so that changes of the machine's speed affect all. */
import { Bench } from 'tinybench';
import type { Device } from '../lib/index.js';
import { type Arrays, hashAfter, plainArrays, tensorArrays } from './arrays.js';
import type { Case } from './cases.js';
import { type CaseContext, type Contender, HASHED_STEPS, type Runner } from './contenders/contender.js';

const TURN = 80e6; // nanoseconds that a turn is meant to take
const SAMPLE = 2e6; // and at least a sample of it
const SLOW_STEP = 400e6; // a step that takes longer has a turn in some rounds only
const SLOWEST_STEP = 5e9; // one that takes longer has none
const MOST_SAMPLES = 20;
const WARM_UP_BELOW = 20e6; // a step that takes longer needs no warm-up in each turn

export interface Measurement {
  readonly name: string;
  readonly kind: Contender['kind'];
  /** Nanoseconds per step: the median of its turn in each round, undefined where it had none. */
  readonly rounds: readonly (number | undefined)[];
  /** Whether its weights equal those of this package; undefined where they need not. */
  readonly sameBits?: boolean;
}

export interface CaseResult {
  readonly case: Case;
  readonly measurements: readonly Measurement[];
  readonly absent: readonly { readonly name: string; readonly reason: string }[];
}

export interface Watcher {
  /** Before each turn. */
  turn(done: number, total: number, contender: string): void;
}

interface Ready {
  readonly contender: Contender;
  readonly runner: Runner;
  /** Approximate nanoseconds per step. */
  readonly estimate: number;
  readonly rounds: (number | undefined)[];
}

export async function measureCase(
  of: Case,
  contenders: readonly Contender[],
  options: { rounds: number; threads: number; device?: Device | 'auto' },
  watcher: Watcher,
): Promise<CaseResult> {
  const context = createContext(of, options.threads, options.device ?? 'cpu');
  const ready: Ready[] = [];
  const absent: { name: string; reason: string }[] = [];
  const total = contenders.length * (options.rounds + 1);
  for (const [i, contender] of contenders.entries()) {
    watcher.turn(i, total, contender.name);
    const opened = await openRunner(contender, context);
    if (typeof opened === 'string') absent.push({ name: contender.name, reason: opened });
    else ready.push({ contender, ...opened, rounds: [] });
  }
  for (let round = 0; round < options.rounds; round++) {
    // In a different order each round, so that none always runs with the caches that the same other one left behind.
    for (const [i, next] of shuffle(ready, round).entries()) {
      watcher.turn(contenders.length + round * contenders.length + i, total, next.contender.name);
      const stride = Math.min(options.rounds, Math.ceil(next.estimate / SLOW_STEP));
      next.rounds.push(round % stride === 0 ? await takeTurn(next) : undefined);
    }
  }
  const measurements = ready.map(({ contender: { name, kind }, runner, rounds }) => ({
    name,
    kind,
    rounds,
    ...(runner.hash === undefined ? {} : { sameBits: runner.hash === context.hash() }),
  }));
  for (const { runner } of ready) await runner.close?.();
  return { case: of, measurements, absent };
}

/** Fisher-Yates shuffle with a linear congruential generator, the same in every run. */
function shuffle<T>(list: readonly T[], seed: number): T[] {
  const shuffled = [...list];
  let state = seed + 1;
  for (let i = shuffled.length - 1; i > 0; i--) {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    const k = Math.floor((state / 2 ** 32) * (i + 1));
    [shuffled[i], shuffled[k]] = [shuffled[k], shuffled[i]];
  }
  return shuffled;
}

function createContext(of: Case, threads: number, device: Device | 'auto'): CaseContext {
  let tensors: { arrays: Arrays; hash: string } | undefined;
  let plain: Arrays | undefined;
  const makeTensors = (): { arrays: Arrays; hash: string } => {
    const arrays = tensorArrays(of, device);
    return { arrays, hash: hashAfter(HASHED_STEPS, arrays) };
  };
  return {
    case: of,
    threads,
    tensors: () => {
      tensors ??= makeTensors();
      return tensors.arrays;
    },
    plain: () => {
      plain ??= plainArrays(of);
      return plain;
    },
    hash: () => {
      tensors ??= makeTensors();
      return tensors.hash;
    },
  };
}

/** Opens a contender and estimates the time of a step; returns the reason as a string if it cannot run. */
async function openRunner(
  contender: Contender,
  context: CaseContext,
): Promise<{ runner: Runner; estimate: number } | string> {
  try {
    const runner = await contender.open(context);
    if (typeof runner === 'string') return runner;
    const first = await runner.run(1);
    if (first > SLOWEST_STEP) {
      await runner.close?.();
      return `a step takes ${(first / 1e9).toFixed(0)} s`;
    }
    // The first step may create what later ones reuse.
    if (first > SLOW_STEP) return { runner, estimate: await runner.run(1) };
    return { runner, estimate: await runner.run(Math.max(1, Math.min(100, Math.round(SAMPLE / first)))) };
  } catch (error) {
    return error instanceof Error ? error.message : String(error);
  }
}

/** The median of the samples of a turn, each of enough steps for the resolution of the clock. */
async function takeTurn({ contender, runner, estimate }: Ready): Promise<number> {
  const steps = Math.max(1, Math.round(SAMPLE / estimate));
  const bench = new Bench({
    iterations: Math.max(1, Math.min(MOST_SAMPLES, Math.round(TURN / (steps * estimate)))),
    time: 0,
    warmup: estimate < WARM_UP_BELOW,
    warmupIterations: 1,
    warmupTime: 0,
    throws: true,
  });
  const sample = async () => ({ overriddenDuration: (await runner.run(steps)) / 1e6 });
  const [task] = await bench.add(contender.name, sample, { async: true }).run();
  if (!('latency' in task.result)) throw new Error(`${contender.name}: ${task.result.state}`);
  return task.result.latency.p50 * 1e6;
}
