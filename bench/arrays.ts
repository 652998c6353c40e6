/** The arrays of a case: the same numbers for every contender, also in Python (peers/peers.py). */
import { createHash } from 'node:crypto';
import { AdamW, type AdamWState, type Device, Tensor, type TensorLike } from '../lib/index.js';
import type { Case, Config } from './cases.js';

export interface Arrays {
  readonly weights: readonly TensorLike[];
  readonly grads: readonly TensorLike[];
  readonly states: readonly AdamWState[];
}

export const OPTIONS = { learningRate: 0.001, beta1: 0.9, beta2: 0.999, epsilon: 1e-6, wd: 0.01 } as const;

const PATTERN = 65536;

/** The first values of array `which` of a tensor, in [-0.5, 0.5); they repeat from there. */
function patternOf(length: number, tensor: number, which: 0 | 1): Float32Array {
  const pattern = new Float32Array(Math.min(length, PATTERN));
  for (let k = 0; k < pattern.length; k++) {
    pattern[k] = ((k * 2654435761 + tensor * 40503 + which * 12345) % 2 ** 32) / 2 ** 32 - 0.5;
  }
  return pattern;
}

/** Memory of this package on a device, as Tensor.zeros() and createState() place it. */
export function tensorArrays({ lengths, config }: Case, device: Device | 'auto' = 'cpu'): Arrays {
  const dtype = dtypeOf(config);
  const filled = (which: 0 | 1) =>
    lengths.map((length, i) => fill(Tensor.zeros(length, { dtype }), patternOf(length, i, which)).to(device));
  const weights = filled(0);
  const grads = filled(1);
  return { weights, grads, states: statesOf(config, weights) };
}

/** Arrays where the engine and malloc place them; half-precision ones are Tensors over Uint16Arrays. */
export function plainArrays({ lengths, config }: Case): Arrays {
  const zeros = (length: number, dtype: 'float32' | 'float64' | 'bfloat16' | 'float16'): TensorLike => {
    if (dtype === 'float32') return new Float32Array(length);
    if (dtype === 'float64') return new Float64Array(length);
    return Tensor.from(new Uint16Array(length), { dtype });
  };
  const dtype = dtypeOf(config);
  const hasMaster = config.endsWith('+master');
  const stateDType = hasMaster ? 'float32' : hasBfloat16States(config) ? 'bfloat16' : dtype;
  const filled = (which: 0 | 1) => lengths.map((length, i) => fill(zeros(length, dtype), patternOf(length, i, which)));
  const weights = filled(0);
  const grads = filled(1);
  const states = lengths.map((length, i) => ({
    mean: touch(zeros(length, stateDType)),
    variance: touch(zeros(length, stateDType)),
    master: hasMaster ? fill(zeros(length, 'float32'), patternOf(length, i, 0)) : null,
  }));
  return { weights, grads, states };
}

function dtypeOf(config: Config): 'float32' | 'float64' | 'bfloat16' | 'float16' {
  return config.split('+')[0] as 'float32' | 'float64' | 'bfloat16' | 'float16';
}

function hasBfloat16States(config: Config): boolean {
  return config === 'bfloat16' || config === 'float32+bfloat16 states';
}

function statesOf(config: Config, weights: readonly TensorLike[]): AdamWState[] {
  const optimizer = new AdamW({
    multiPrecision: config.endsWith('+master'),
    stateDtype: hasBfloat16States(config) ? 'bfloat16' : null,
  });
  const states = weights.map((weight, i) => optimizer.createState(i, weight));
  for (const { mean, variance } of states) {
    touch(mean);
    touch(variance);
  }
  return states;
}

/** The memory of an array: half-precision values as bits. */
export function dataOf(array: TensorLike): Float32Array | Float64Array | Uint16Array {
  return (array instanceof Tensor ? array.data : array) as Float32Array | Float64Array | Uint16Array;
}

function fill<A extends TensorLike>(array: A, pattern: Float32Array): A {
  const data = dataOf(array);
  if (array instanceof Tensor) {
    const first = Tensor.zeros(pattern.length, { dtype: array.dtype }).set(pattern);
    data.set(first.data);
  } else {
    data.set(pattern);
  }
  for (let done = pattern.length; done < data.length; done *= 2) {
    data.copyWithin(done, 0, Math.min(done, data.length - done));
  }
  return array;
}

/** Writes zeros, because the pages of host memory that was never written to are all the same page of zeros. */
function touch<A extends TensorLike>(array: A): A {
  if (!(array instanceof Tensor) || array.device === 'cpu') dataOf(array).fill(0);
  return array;
}

/** SHA-256 of all weights after a number of steps, which change them. */
export function hashAfter(steps: number, { weights, grads, states }: Arrays): string {
  const optimizer = new AdamW(OPTIONS);
  const indices = weights.map((_, i) => i);
  for (let step = 0; step < steps; step++) optimizer.fusedStep(indices, weights, grads, states);
  optimizer.dispose();
  const hash = createHash('sha256');
  for (const weight of weights) hash.update(dataOf(weight instanceof Tensor ? weight.to('cpu') : weight));
  return hash.digest('hex');
}
