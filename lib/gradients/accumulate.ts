/** Sums of gradients over micro-batches. */
import { ACCUMULATIONS } from '../backend/abi.js';
import { loadBackend } from '../backend/index.js';
import { findOverlap } from '../backend/overlaps.js';
import { nameOf, outOfRange, outOfRangeIn, wrongKind, wrongKindIn } from '../errors.js';
import { readOptions } from '../options.js';
import type { TensorLike } from '../tensor/tensor-like.js';
import { checkAlike, resolveHostArrays } from './host-arrays.js';

/** Options of accumulate(). */
export interface AccumulateOptions {
  /** Multiplies the gradients: 1 / n for the mean of n micro-batches. Default 1. */
  readonly scale?: number;
}

/**
 * Adds gradients to others, `into = into + scale * grads`, in one pass over memory. Both operations are rounded to
 * float64 for float64 arrays, else to float32; halves are rounded to nearest even when they are stored.
 *
 * @param into Tensors or typed arrays on the CPU, of any length, written: one, or a list
 * @param grads one for each, of its length, only read: of its dtype or, beside float32, of float16 or bfloat16
 * @throws TypeError for the wrong kind of value or dtype, RangeError for lengths that differ, memory that is gone or on
 *   a GPU, arrays that share memory, and a scale that is not finite; then nothing has changed
 */
export function accumulate(
  into: TensorLike | readonly TensorLike[],
  grads: TensorLike | readonly TensorLike[],
  options: AccumulateOptions = {},
): void {
  const { scale = 1 } = readOptions(options, 'options', ['scale']);
  if (typeof scale !== 'number') throw wrongKind('a number', 'scale', scale);
  checkAlike(grads, 'grads', into, 'into');
  const sums = resolveHostArrays(into, 'into', 'written');
  const added = resolveHostArrays(grads, 'grads', 'read');
  const isList = Array.isArray(into);
  const named = (name: string, i: number): string => (isList ? nameOf({ name }, i) : name);
  sums.dtypes.forEach((dtype, i) => {
    const possible = ACCUMULATIONS.filter((one) => one.into === dtype).map((one) => one.grad as string);
    if (!possible.includes(added.dtypes[i])) {
      throw wrongKindIn(possible.join(' or '), named('grads', i), added.dtypes[i]);
    }
    if (added.lengths[i] !== sums.lengths[i]) {
      throw outOfRangeIn(`length ${sums.lengths[i]}`, named('grads', i), `length ${added.lengths[i]}`);
    }
  });
  const isFloat32 = sums.dtypes.some((dtype) => dtype !== 'float64');
  if (!Number.isFinite(isFloat32 ? Math.fround(scale) : scale)) throw outOfRange('a finite number', 'scale', scale);
  const overlap = findOverlap({ lists: [sums.storages] }, added.storages);
  if (overlap) {
    const other = overlap.other === 'grad' ? 'grads' : 'into';
    const shared = `memory shared with ${named(other, overlap.otherTensor)}`;
    throw outOfRangeIn('memory of its own', named('into', overlap.writtenTensor), shared);
  }
  loadBackend().backend.accumulate(sums.storages, added.storages, sums.dtypes, added.dtypes, scale);
}
