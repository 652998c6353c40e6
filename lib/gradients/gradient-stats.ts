/** The norm of gradients, and whether they are finite. */
import { loadBackend } from '../backend/index.js';
import { outOfRange, wrongKind } from '../errors.js';
import { readOptions } from '../options.js';
import type { TensorLike } from '../tensor/tensor-like.js';
import { resolveHostArrays } from './host-arrays.js';
import { sumOf } from './norm.js';

/** Options of gradientStats(). */
export interface GradientStatsOptions {
  /** The norm is that of the gradients multiplied by this number. Default 1. */
  readonly scale?: number;
}

/** What gradientStats() measures. */
export interface GradientStats {
  /**
   * The square root of the sum of the squares of all elements, times |scale|. Infinity where that sum overflows
   * float64, which only gradients of float64 can bring about; NaN or Infinity where an element is not finite.
   */
  readonly norm: number;
  /** Whether no element is infinite or NaN. */
  readonly finite: boolean;
}

/**
 * The norm of gradients, all taken as one vector, and whether they are finite: one read of their memory, in double
 * precision. The sum has a fixed order, so that its bits are the same on every backend, instruction set and number of
 * threads.
 *
 * @param grads Tensors or typed arrays on the CPU, of any dtype and length: one, or a list
 * @throws TypeError for anything else, RangeError for memory that is gone or on a GPU, and for a scale that is not
 *   finite
 */
export function gradientStats(
  grads: TensorLike | readonly TensorLike[],
  options: GradientStatsOptions = {},
): GradientStats {
  const { scale = 1 } = readOptions(options, 'options', ['scale']);
  if (typeof scale !== 'number') throw wrongKind('a number', 'scale', scale);
  if (!Number.isFinite(scale)) throw outOfRange('a finite number', 'scale', scale);
  const { dtypes, storages } = resolveHostArrays(grads, 'grads', 'read');
  const sums = new Float64Array(storages.length);
  const finite = loadBackend().backend.sumsOfSquares(storages, dtypes, sums);
  return { norm: Math.sqrt(sumOf(sums)) * Math.abs(scale), finite };
}
