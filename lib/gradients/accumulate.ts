/** Sums of gradients over micro-batches. */
import { ACCUMULATIONS, accumulationsOf } from '../backend/abi.js';
import type { Memory } from '../backend/backend.js';
import { cudaAddon } from '../backend/cuda.js';
import type { DeviceMemory } from '../backend/cuda-addon.js';
import { loadBackend } from '../backend/index.js';
import { findOverlap } from '../backend/overlaps.js';
import { nameOf, outOfRange, outOfRangeIn, wrongKind, wrongKindIn } from '../errors.js';
import type { Storage } from '../numerics/dtype.js';
import { readOptions } from '../options.js';
import { ordinalOf } from '../tensor/device.js';
import type { ResolvedTensor, TensorLike } from '../tensor/tensor-like.js';
import { checkAlike, resolveArrays } from './arrays.js';

/** Options of accumulate(). */
export interface AccumulateOptions {
  /** Multiplies the gradients: 1 / n for the mean of n micro-batches. Default 1. */
  readonly scale?: number;
}

/**
 * Adds gradients to others, `into = into + scale * grads`, in one pass over memory. Both operations are rounded to
 * float64 for float64 arrays, else to float32; halves are rounded to nearest even when they are stored. On a GPU this
 * does not wait: it comes after all steps and copies so far of this package, and before later ones.
 *
 * @param into Tensors or typed arrays, of any length, written: one, or a list
 * @param grads one for each, of its length and on its device, only read: of its dtype or, beside float32, of float16 or
 *   bfloat16
 * @throws TypeError for the wrong kind of value or dtype, RangeError for lengths or devices that differ, memory that is
 *   gone, arrays that share memory, and a scale that is not finite; then nothing has changed
 */
export function accumulate(
  into: TensorLike | readonly TensorLike[],
  grads: TensorLike | readonly TensorLike[],
  options: AccumulateOptions = {},
): void {
  const { scale = 1 } = readOptions(options, 'options', ['scale']);
  if (typeof scale !== 'number') throw wrongKind('a number', 'scale', scale);
  checkAlike(grads, 'grads', into, 'into');
  const sums = resolveArrays(into, 'into', 'written');
  const added = resolveArrays(grads, 'grads', 'read');
  const isList = Array.isArray(into);
  const named = (name: string, i: number): string => (isList ? nameOf({ name }, i) : name);
  sums.forEach(({ dtype, device, length }, i) => {
    const grad = added[i];
    const possible = ACCUMULATIONS.filter((one) => one.into === dtype).map((one) => one.grad as string);
    if (!possible.includes(grad.dtype)) throw wrongKindIn(possible.join(' or '), named('grads', i), grad.dtype);
    if (grad.length !== length) throw outOfRangeIn(`length ${length}`, named('grads', i), `length ${grad.length}`);
    if (grad.device !== device) {
      const expected = `memory on ${device}, as of ${named('into', i)},`;
      throw outOfRangeIn(expected, named('grads', i), `memory on ${grad.device}`);
    }
  });
  const isFloat32 = sums.some(({ dtype }) => dtype !== 'float64');
  if (!Number.isFinite(isFloat32 ? Math.fround(scale) : scale)) throw outOfRange('a finite number', 'scale', scale);
  const overlap = findOverlap({ lists: [sums.map(({ memory }) => memory)] }, memoriesOf(added));
  if (overlap) {
    const other = overlap.other === 'grad' ? 'grads' : 'into';
    const shared = `memory shared with ${named(other, overlap.otherTensor)}`;
    throw outOfRangeIn('memory of its own', named('into', overlap.writtenTensor), shared);
  }
  for (const device of new Set(sums.map((sum) => sum.device))) {
    const isOfDevice = (_: unknown, i: number): boolean => sums[i].device === device;
    const to = sums.filter(isOfDevice);
    const from = added.filter(isOfDevice);
    const [toDTypes, fromDTypes] = [to, from].map((arrays) => arrays.map(({ dtype }) => dtype));
    if (device === 'cpu') {
      const { backend } = loadBackend();
      backend.accumulate(memoriesOf<Storage>(to), memoriesOf<Storage>(from), toDTypes, fromDTypes, scale);
    } else {
      const dtypes = accumulationsOf(toDTypes, fromDTypes);
      const [written, read] = [memoriesOf<DeviceMemory>(to), memoriesOf<DeviceMemory>(from)];
      cudaAddon().accumulate(ordinalOf(device), written, read, dtypes, scale);
    }
  }
}

function memoriesOf<M extends Memory>(arrays: readonly ResolvedTensor[]): M[] {
  return arrays.map(({ memory }) => memory as M);
}
