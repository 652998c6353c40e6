/** Lists of numbers of the caller's, which may be sparse, or run code at each access. */
import { types } from 'node:util';
import { outOfRangeIn, wrongKind } from '../errors.js';
import { typedArrayLength, typedArrayName } from '../numerics/typed-arrays.js';

const NUMBERS_ALONE: ReadonlyMap<unknown, number> = new Map();

/**
 * So many numbers: a typed array itself, else a copy of a list for which each
 * element was read once and validated.
 *
 * @param words what stands for a number besides numbers
 */
export function checkNumbers(
  values: unknown,
  name: string,
  expectedLength: number,
  words = NUMBERS_ALONE,
): ArrayLike<number> {
  const typed = typedArrayName(values);
  const length: unknown = types.isTypedArray(values) ? typedArrayLength(values) : Object(values).length;
  if (typeof values !== 'object' || typeof length !== 'number' || typed?.startsWith('Big')) {
    throw wrongKind('a list of numbers', name, values);
  }
  if (length !== expectedLength) throw outOfRangeIn(`${expectedLength} values`, name, `${length}`);
  const list = values as ArrayLike<unknown>;
  if (typed !== undefined) return list as ArrayLike<number>;
  const numbers = new Float64Array(length);
  for (let i = 0; i < length; i++) {
    const item = list[i];
    const value = typeof item === 'number' ? item : words.get(item);
    if (value === undefined) {
      const others = [...words.keys()].map((word) => ` or '${word}'`).join('');
      throw wrongKind(`a number${others}`, `${name}[${i}]`, item);
    }
    numbers[i] = value;
  }
  return numbers;
}
