/** Measures a step beside a plain stream of the same bytes, in turns. */
import { loadBackend } from '../../lib/backend/index.js';
import { AdamW, Tensor } from '../../lib/index.js';

export interface Speed {
  /** Float32 weights of the step. */
  readonly weights: number;
  /** What a step reads (weight, gradient, mean, variance) and writes (weight, mean, variance). */
  readonly bytes: number;
  /** Median milliseconds of a step. */
  readonly step: number;
  /** The same of a stream that reads and writes as much; null where there is no native code for it. */
  readonly stream: number | null;
  /** Speed of the step in parts of the stream's. */
  readonly ratio: number | null;
}

const BYTES = 28; // of a weight
const WARM_UP = 2;

export function measureSpeed(seconds: number): Speed {
  // Far more than caches hold, where that is little of the memory that is left.
  const weights = process.availableMemory() > 2 ** 31 ? 2 ** 24 : 2 ** 21;
  const [weight, grad, mean, variance] = [0.5, 0.001, 0, 0].map((value) => {
    const tensor = Tensor.zeros(weights);
    tensor.data.fill(value);
    return tensor;
  });
  const { addon } = loadBackend();
  const bound = new AdamW().bind(0, weight, grad, { mean, variance });
  // It changes the values of the arrays to others that steps are as fast with.
  const stream = () => addon?.stream(weight.data, grad.data, mean.data, variance.data);
  const [steps, streams]: [number[], number[]] = [[], []];
  const end = performance.now() + 1000 * seconds;
  do {
    steps.push(timed(() => bound.step()));
    streams.push(timed(stream));
  } while (performance.now() < end || steps.length <= WARM_UP);
  bound.dispose();
  const [step, plain] = [steps, streams].map((times) => median(times.slice(WARM_UP)));
  return addon
    ? { weights, bytes: BYTES * weights, step, stream: plain, ratio: plain / step }
    : { weights, bytes: BYTES * weights, step, stream: null, ratio: null };
}

function timed(body: () => void): number {
  const start = performance.now();
  body();
  return performance.now() - start;
}

function median(values: number[]): number {
  const sorted = values.sort((a, b) => a - b);
  return sorted[Math.floor(sorted.length / 2)];
}
