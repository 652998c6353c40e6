/** Lists of arrays on the CPU, validated. */
import { nameOf, outOfRangeIn, wrongKind } from '../errors.js';
import { copyList } from '../lists.js';
import type { DType, Storage } from '../numerics/dtype.js';
import { type Access, checkIdle } from '../tensor/in-flight.js';
import { resolve, type TensorLike } from '../tensor/tensor-like.js';

export interface HostArrays {
  readonly dtypes: readonly DType[];
  readonly lengths: readonly number[];
  readonly storages: readonly Storage[];
}

/**
 * One array, or a list of them.
 *
 * @throws TypeError for anything else, RangeError for memory that is gone, on a GPU or used by an asynchronous step
 */
export function resolveHostArrays(
  values: TensorLike | readonly TensorLike[],
  name: string,
  access: Access,
): HostArrays {
  const list = Array.isArray(values) ? copyList(values as readonly TensorLike[]) : [values as TensorLike];
  const named = Array.isArray(values) ? (i: number) => nameOf({ name }, i) : () => name;
  const arrays = list.map((value, i) => resolve(value, { name: named(i) }));
  arrays.forEach(({ device, memory }, i) => {
    if (device !== 'cpu') throw outOfRangeIn('memory on the CPU', named(i), `memory on ${device}`);
    checkIdle(memory, access, () => named(i));
  });
  return {
    dtypes: arrays.map(({ dtype }) => dtype),
    lengths: arrays.map(({ length }) => length),
    storages: arrays.map(({ memory }) => memory as Storage),
  };
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
