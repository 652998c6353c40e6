/** What is done with gradients outside of a step, in TypeScript, with the bits of native code. */
import type { DType, Storage } from '../numerics/dtype.js';
import { typedArrayLength } from '../numerics/typed-arrays.js';
import { codecOf } from './codec.js';

/** As in native/core/gradient-norm.h. */
const BLOCK = 4096;
const LANES = 16;

/**
 * Writes the sum of the squares of each gradient, in the order of native/core/gradient-norm.h.
 *
 * @returns whether all elements are finite
 */
export function sumsOfSquares(grads: readonly Storage[], dtypeOf: (i: number) => DType, sums: Float64Array): boolean {
  let allFinite = true;
  const lanes = new Float64Array(LANES);
  for (let i = 0; i < grads.length; i++) {
    const grad = grads[i];
    const { read } = codecOf(dtypeOf(i));
    const length = typedArrayLength(grad);
    let sum = 0;
    for (let first = 0; first < length; first += BLOCK) {
      for (let lane = 0; lane < LANES; lane++) lanes[lane] = 0;
      // biome-ignore lint/complexity/useMathMinMax: Math.min may have been replaced
      const end = first + BLOCK < length ? first + BLOCK : length;
      for (let k = first; k < end; k++) {
        const value = read(grad[k]);
        if (value - value !== 0) allFinite = false;
        lanes[k % LANES] += value * value;
      }
      for (let width = LANES / 2; width >= 1; width /= 2) {
        for (let lane = 0; lane < width; lane++) lanes[lane] += lanes[lane + width];
      }
      sum += lanes[0];
    }
    sums[i] = sum;
  }
  return allFinite;
}

/** into = into + scale * grad, with both operations rounded to the arithmetic type of `into`. */
export function accumulate(
  into: readonly Storage[],
  grads: readonly Storage[],
  intoDTypes: readonly DType[],
  gradDTypes: readonly DType[],
  scale: number,
): void {
  for (let i = 0; i < into.length; i++) {
    const sums = into[i];
    const grad = grads[i];
    const { read, write } = codecOf(intoDTypes[i]);
    const readGrad = codecOf(gradDTypes[i]).read;
    const length = typedArrayLength(sums);
    if (intoDTypes[i] === 'float64') {
      for (let k = 0; k < length; k++) sums[k] += scale * grad[k];
      continue;
    }
    const factor = Math.fround(scale);
    for (let k = 0; k < length; k++) {
      sums[k] = write(Math.fround(read(sums[k]) + Math.fround(factor * readGrad(grad[k]))));
    }
  }
}
