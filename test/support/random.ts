/** Numbers that look random and are the same in every run. */
import { type DType, Tensor } from '../../lib/index.js';

/** Numbers in [0, 1): mulberry32, a small generator by Tommy Ettinger. */
export function randomFrom(seed: number): () => number {
  let state = seed | 0;
  return () => {
    state = (state + 0x6d2b79f5) | 0;
    let z = Math.imul(state ^ (state >>> 15), state | 1);
    z ^= z + Math.imul(z ^ (z >>> 7), z | 61);
    return ((z ^ (z >>> 14)) >>> 0) / 2 ** 32;
  };
}

/** Weights: between -1 and 1. */
export function randomWeights(random: () => number, length: number): Float64Array {
  return Float64Array.from({ length }, () => 2 * random() - 1);
}

/** Gradients: of both signs, from about 1e-4 to 10. */
export function randomGrads(random: () => number, length: number): Float64Array {
  return Float64Array.from({ length }, () => (2 * random() - 1) * 10 ** (5 * random() - 4));
}

/** Random values of a dtype on the host. */
export function randomTensor(dtype: DType, length: number, seed = 1): Tensor {
  return Tensor.zeros(length, { dtype }).set(randomWeights(randomFrom(seed), length));
}
