/** Memory for tests: the values of tensors and arrays, and arrays at odd offsets. */
import { expect } from 'chai';
import { type DType, Tensor, type TensorLike } from '../../lib/index.js';
import type { Values } from './bits.js';

/** The values of a tensor or an array, halves as bits: the memory itself, or a copy of a GPU's. */
export function valuesIn(tensor: TensorLike): Values {
  if (tensor instanceof Tensor) return tensor.to('cpu').data;
  if (tensor instanceof Float32Array || tensor instanceof Float64Array) return tensor;
  throw new Error('not for a Float16Array: its bits are behind its buffer');
}

/** A tensor or an array as a Tensor of the same memory. */
export function tensorOf(tensor: TensorLike): Tensor {
  return tensor instanceof Tensor ? tensor : Tensor.from(tensor);
}

/** A copy of the current values. */
export function copyOf(tensor: TensorLike): Values {
  return valuesIn(tensor).slice();
}

/** Writes values to memory on any device, halves as bits. */
export function fillWith(tensor: TensorLike, values: Values): void {
  if (!(tensor instanceof Tensor) || tensor.device === 'cpu') valuesIn(tensor).set(values);
  else tensor.copyFrom(Tensor.from(values.slice().buffer as ArrayBuffer, { dtype: tensor.dtype }));
}

export const DTYPES: readonly DType[] = ['float16', 'bfloat16', 'float32', 'float64'];

/** Bytes of an element. */
export const DTYPE_BYTES: Readonly<Record<DType, number>> = { float16: 2, bfloat16: 2, float32: 4, float64: 8 };

/** Allocates an array of zeros for a test. */
export type Place = (dtype: DType, length: number) => TensorLike;

/** Memory that Tensors own. */
export const ownMemory: Place = (dtype, length) => Tensor.zeros(length, { dtype });

const GUARD = 0xa5;

/**
 * Arrays inside larger buffers, each at an odd multiple of its element's size,
 * so that none is aligned to more than that; float32 and float64 as typed
 * arrays. The bytes around them are guarded.
 */
export class OddMemory {
  readonly #watched: { bytes: Uint8Array; begin: number; end: number }[] = [];

  readonly place: Place = (dtype, length) => {
    const size = DTYPE_BYTES[dtype];
    const begin = size * (1 + 2 * (this.#watched.length % 7));
    const end = begin + size * length;
    const bytes = new Uint8Array(end + 64).fill(GUARD);
    bytes.fill(0, begin, end);
    this.#watched.push({ bytes, begin, end });
    if (dtype === 'float32') return new Float32Array(bytes.buffer, begin, length);
    if (dtype === 'float64') return new Float64Array(bytes.buffer, begin, length);
    return Tensor.from(bytes.buffer, { dtype, byteOffset: begin, length });
  };

  /** Asserts that no byte before or after any array was written. */
  expectIntact(): void {
    for (const { bytes, begin, end } of this.#watched) {
      const around = [...bytes.subarray(0, begin), ...bytes.subarray(end)];
      expect(
        around.every((byte) => byte === GUARD),
        'memory around an array is unchanged',
      ).to.equal(true);
    }
  }
}
