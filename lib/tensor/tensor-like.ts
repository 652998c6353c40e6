/** What is accepted as a tensor: Tensors and the typed arrays that say their dtype. */
import type { Memory } from '../backend/backend.js';
import type { DeviceMemory } from '../backend/cuda-addon.js';
import { type Named, nameOf, outOfRangeIn, wrongKind, wrongKindIn } from '../errors.js';
import { bytesOf, type DType, type Float16ArrayLike } from '../numerics/dtype.js';
import { typedArrayLength, typedArrayName } from '../numerics/typed-arrays.js';
import { ALIGNMENT } from './allocator.js';
import type { ResolvedDevice } from './device.js';
import { checkedStorage, dtypeOfArray } from './host-storage.js';
import { Tensor } from './tensor.js';

/** A tensor, or an array that is accepted as one of a single dimension. */
export type TensorLike = Tensor | Float32Array | Float64Array | Float16ArrayLike;

/**
 * A tensor or array that was validated.
 *
 * @internal
 */
export interface ResolvedTensor {
  readonly dtype: DType;
  readonly device: ResolvedDevice;
  /** Number of elements. */
  readonly length: number;
  readonly memory: Memory;
}

/**
 * What was passed under a name, validated: its dtype, its device, its length and
 * its memory, which is there and has a fixed size.
 *
 * @throws TypeError for anything but a tensor or an array that says its dtype,
 *   RangeError for memory that is gone or that can be resized
 * @internal
 */
export function resolve(value: unknown, named: Named, i?: number): ResolvedTensor {
  if (value instanceof Tensor) {
    if (value.disposed) throw outOfRangeIn('a live Tensor', nameOf(named, i), 'one that was disposed of');
    if (value.device === 'cpu') checkedStorage(value.data, named, i);
    return value;
  }
  const dtype = dtypeOfArray(value);
  if (dtype === undefined) throw notATensor(value, named, i);
  const memory = checkedStorage(value as Float32Array, named, i);
  return { dtype, device: 'cpu', length: typedArrayLength(memory), memory };
}

/**
 * The device of what may be a tensor, before it is validated.
 *
 * @internal
 */
export function deviceOf(value: unknown): ResolvedDevice {
  return value instanceof Tensor ? value.device : 'cpu';
}

/**
 * The dtype of what may be a tensor, before it is validated.
 *
 * @internal
 */
export function dtypeOf(value: unknown): DType | undefined {
  return value instanceof Tensor ? value.dtype : dtypeOfArray(value);
}

function notATensor(value: unknown, named: Named, i?: number): TypeError {
  if (typedArrayName(value) === 'Uint16Array') {
    return wrongKindIn(
      "a Tensor (make one with Tensor.from(array, { dtype: 'float16' }) or 'bfloat16')",
      nameOf(named, i),
      'a Uint16Array, which does not say its dtype',
    );
  }
  return wrongKind('a Tensor, Float32Array, Float64Array or Float16Array', nameOf(named, i), value);
}

/**
 * Zeros of another dtype beside a tensor: of its shape, on its device and, on a
 * GPU, at its address modulo 64, so that wide accesses of both begin at the same
 * elements.
 *
 * @internal
 */
export function zerosBeside<D extends DType>(like: TensorLike, dtype: D): Tensor<D> {
  if (!(like instanceof Tensor)) return Tensor.allocate([typedArrayLength(like)], dtype, 'cpu');
  if (like.device === 'cpu') return Tensor.allocate(like.shape, dtype, 'cpu');
  const { pointer } = like.memory as DeviceMemory;
  const firstElement = Number(pointer % BigInt(ALIGNMENT)) / bytesOf(like.dtype);
  return Tensor.allocate(like.shape, dtype, like.device, firstElement * bytesOf(dtype));
}
