/**
 * Lists that only this package has written to. An array literal or `new Array(n)`
 * has holes, and whatever is assigned to a hole goes to an accessor that other
 * code may have put on Array.prototype.
 */

const arrayFrom = Array.from;

/** A list of `length` elements without holes. */
export function filledList<T>(length: number, value: T): T[] {
  return arrayFrom.call(Array, { length }, () => value) as T[];
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
