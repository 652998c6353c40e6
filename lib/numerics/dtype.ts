/** The dtypes of a tensor and the typed arrays that hold them. */
import { checkOneOf } from '../errors.js';

/** The type of a tensor's elements: 2, 2, 4 and 8 bytes. Arithmetic is in float64 for float64, else in float32. */
export type DType = 'float16' | 'bfloat16' | 'float32' | 'float64';

/** Where a tensor's memory lies. */
export type Device = 'cpu' | 'cuda' | `cuda:${number}`;

/** The typed array behind a host tensor: both halves are kept as bits. */
export type DataOf<D extends DType> = D extends 'float32'
  ? Float32Array
  : D extends 'float64'
    ? Float64Array
    : D extends 'float16' | 'bfloat16'
      ? Uint16Array
      : never;

/** Memory of any dtype. */
export type Storage = Float32Array | Float64Array | Uint16Array;

/** A Float16Array, where the engine has it. */
export interface Float16ArrayLike {
  /** What tells it from other arrays. */
  readonly [Symbol.toStringTag]: 'Float16Array';
  /** Its memory. */
  readonly buffer: ArrayBufferLike;
  /** Bytes from the start of the buffer. */
  readonly byteOffset: number;
  /** Number of elements. */
  readonly length: number;
}

interface Kind {
  readonly bytes: number;
  readonly half: boolean;
  readonly view: (buffer: ArrayBufferLike, byteOffset: number, length: number) => Storage;
}

const KINDS: Readonly<Record<DType, Kind>> = {
  float16: { bytes: 2, half: true, view: (...at) => new Uint16Array(...at) },
  bfloat16: { bytes: 2, half: true, view: (...at) => new Uint16Array(...at) },
  float32: { bytes: 4, half: false, view: (...at) => new Float32Array(...at) },
  float64: { bytes: 8, half: false, view: (...at) => new Float64Array(...at) },
};

export const DTYPES: readonly DType[] = ['float16', 'bfloat16', 'float32', 'float64'];

/** Bytes of an element. */
export function bytesOf(dtype: DType): number {
  return KINDS[dtype].bytes;
}

/** Whether it is one of the 16-bit dtypes. */
export function isHalf(dtype: DType): boolean {
  return KINDS[dtype].half;
}

/** Memory as an array of the dtype; nothing is copied. */
export function viewOf(dtype: DType, buffer: ArrayBufferLike, byteOffset: number, length: number): Storage {
  return KINDS[dtype].view(buffer, byteOffset, length);
}

export function checkDType(value: unknown, name: string): DType {
  return checkOneOf(value, name, DTYPES);
}
