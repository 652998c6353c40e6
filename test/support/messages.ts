/** Parts of messages, and values of the wrong type with their descriptions in messages. */
import { LENGTH } from './scene.js';

export const TENSOR = 'a Tensor, Float32Array, Float64Array or Float16Array';
export const UINT16 = 'a Uint16Array, which does not say its dtype';
export const NAME_DTYPE = "a Tensor (make one with Tensor.from(array, { dtype: 'float16' }) or 'bfloat16')";
export const DISPOSED = 'one that was disposed of';

export const WRONG_KINDS: readonly (readonly [value: unknown, received: string])[] = [
  [undefined, 'undefined'],
  [null, 'null'],
  [1.5, '1.5'],
  ['weight', '"weight"'],
  [5n, '5n'],
  [true, 'true'],
  [Symbol('weight'), 'a symbol'],
  [() => 0, 'a function'],
  [{ length: LENGTH }, 'an object'],
  [[1, 2, 3, 4, 5], 'an array of length 5'],
  [new Int32Array(LENGTH), 'an Int32Array'],
  [new Uint8Array(2 * LENGTH), 'a Uint8Array'],
  [new DataView(new ArrayBuffer(4 * LENGTH)), 'a DataView'],
  [new ArrayBuffer(4 * LENGTH), 'an ArrayBuffer'],
];

export const AT_LEAST_0 = 'a finite number of at least 0';
/** The message of an overlap. */
export function shares(written: string, other: string): string {
  return `Expected memory of its own for ${written} but received memory shared with ${other}`;
}
