/** The typed arrays and buffers of the caller that host tensors are made over, validated. */

import { checkInteger, type Named, nameOf, outOfRange, outOfRangeIn, wrongKind } from '../errors.js';
import { bytesOf, checkDType, type DType, type Float16ArrayLike, type Storage, viewOf } from '../numerics/dtype.js';
import {
  bufferLength,
  checkBuffer,
  typedArrayBuffer,
  typedArrayByteOffset,
  typedArrayLength,
  typedArrayName,
} from '../numerics/typed-arrays.js';

/** Which memory a tensor is made over; as of Tensor.from(). */
export interface HostStorageOptions {
  readonly dtype?: DType;
  readonly byteOffset?: number;
  readonly length?: number;
}

/** Memory of the host and the dtype of its elements. */
export interface HostStorage {
  readonly dtype: DType;
  readonly storage: Storage;
}

/** Part of a bare buffer, or all of it. */
export function storageOfBuffer(buffer: ArrayBufferLike, options: HostStorageOptions): HostStorage {
  checkBuffer(buffer, bufferLength(buffer), () => 'data');
  const dtype = checkDType(options.dtype, 'dtype');
  const size = bytesOf(dtype);
  const byteOffset = checkInteger(options.byteOffset ?? 0, 'byteOffset');
  if (byteOffset % size !== 0) throw outOfRange(`a multiple of ${size}`, 'byteOffset', byteOffset);
  const available = bufferLength(buffer) - byteOffset;
  if (available < 0) throw outOfRange(`at most ${bufferLength(buffer)}`, 'byteOffset', byteOffset);
  if (options.length === undefined && available % size !== 0) {
    throw outOfRangeIn(`a multiple of ${size} bytes`, 'data', `${available} bytes`);
  }
  const length = checkInteger(options.length ?? available / size, 'length');
  if (length * size > available) throw outOfRange(`at most ${Math.floor(available / size)}`, 'length', length);
  return { dtype, storage: viewOf(dtype, buffer, byteOffset, length) };
}

/** A typed array. */
export function storageOfArray(data: unknown, options: HostStorageOptions): HostStorage {
  for (const name of ['byteOffset', 'length'] as const) {
    if (options[name] !== undefined) throw wrongKind('nothing beside a typed array', name, options[name]);
  }
  if (typedArrayName(data) === 'Uint16Array') {
    if (options.dtype !== 'float16' && options.dtype !== 'bfloat16') {
      throw wrongKind("'float16' or 'bfloat16' beside a Uint16Array", 'dtype', options.dtype);
    }
    return { dtype: options.dtype, storage: checkedStorage(data as Uint16Array, { name: 'data' }) };
  }
  const dtype = dtypeOfArray(data);
  if (dtype === undefined) {
    throw wrongKind(
      'a Float32Array, Float64Array, Float16Array, Uint16Array, ArrayBuffer or SharedArrayBuffer',
      'data',
      data,
    );
  }
  if (options.dtype !== undefined && options.dtype !== dtype) {
    throw wrongKind(`'${dtype}', the dtype of the array,`, 'dtype', options.dtype);
  }
  return { dtype, storage: checkedStorage(data as Storage | Float16ArrayLike, { name: 'data' }) };
}

/** The dtype that a bare typed array stands for; undefined for a Uint16Array, which may hold either half. */
export function dtypeOfArray(array: unknown): DType | undefined {
  switch (typedArrayName(array)) {
    case 'Float32Array':
      return 'float32';
    case 'Float64Array':
      return 'float64';
    case 'Float16Array':
      return 'float16';
    default:
      return undefined;
  }
}

/** The array itself, or the bits of a Float16Array, after its buffer was validated. */
export function checkedStorage(array: Storage | Float16ArrayLike, named: Named, i?: number): Storage {
  const buffer = typedArrayBuffer(array);
  const length = typedArrayLength(array);
  checkBuffer(buffer, length, () => nameOf(named, i));
  if (typedArrayName(array) !== 'Float16Array') return array as Storage;
  return new Uint16Array(buffer, typedArrayByteOffset(array), length);
}
