/** Lists of arrays, validated. */
import { nameOf, outOfRangeIn, wrongKind } from '../errors.js';
import { copyList } from '../lists.js';
import { type Access, checkIdle } from '../tensor/in-flight.js';
import { type ResolvedTensor, resolve, type TensorLike } from '../tensor/tensor-like.js';

/** What the arrays of an argument are called: it is one, or a list of them. */
function namesOf(values: TensorLike | readonly TensorLike[], name: string): (i: number) => string {
  return Array.isArray(values) ? (i) => nameOf({ name }, i) : () => name;
}

/**
 * One array, or a list of them.
 *
 * @throws TypeError for anything else, RangeError for memory that is gone or used by an asynchronous step
 */
export function resolveArrays(
  values: TensorLike | readonly TensorLike[],
  name: string,
  access: Access,
): ResolvedTensor[] {
  const list = Array.isArray(values) ? copyList(values as readonly TensorLike[]) : [values as TensorLike];
  const named = namesOf(values, name);
  const arrays = list.map((value, i) => resolve(value, { name: named(i) }));
  arrays.forEach(({ memory }, i) => {
    checkIdle(memory, access, () => named(i));
  });
  return arrays;
}

/** @throws RangeError for lists of different lengths, TypeError where one is a list and the other is not */
export function checkAlike(values: unknown, name: string, others: unknown, othersName: string): void {
  if (Array.isArray(values) !== Array.isArray(others)) {
    throw wrongKind(Array.isArray(others) ? `a list, as ${othersName},` : `one array, as ${othersName},`, name, values);
  }
  if (Array.isArray(values) && Array.isArray(others) && values.length !== others.length) {
    throw outOfRangeIn(`a list of length ${others.length}`, name, `one of length ${values.length}`);
  }
}
