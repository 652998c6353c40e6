/**
 * Lists that only this package has written to. `new Array(n)` has holes, and what is
 * assigned to a hole goes to a setter that other code may have put on
 * Array.prototype; push() does the same. A rest parameter does not, and is fast.
 */

const { apply } = Reflect;
const arrayFrom = Array.from;
const collect = (...elements: unknown[]): unknown[] => elements;
/** Arguments of a call, far fewer than the stack has room for. */
const MOST_ARGUMENTS = 4096;

/** A list of `length` elements without holes. */
export function filledList<T>(length: number, value: T): T[] {
  if (length > MOST_ARGUMENTS) return arrayFrom.call(Array, { length }, () => value) as T[];
  const list = apply(collect, undefined, new Uint8Array(length)) as T[];
  for (let i = 0; i < length; i++) list[i] = value;
  return list;
}

/**
 * A copy of a list whose methods and iterator may be anything (a Proxy, a
 * subclass): each element is read once, and holes become undefined.
 */
export function copyList<T>(list: ArrayLike<T>, length: number = list.length): T[] {
  const copy = filledList<T>(length, undefined as T);
  for (let i = 0; i < length; i++) copy[i] = list[i];
  return copy;
}
