/** Indices of parameters: whole numbers or strings. */
import { wrongKind } from '../errors.js';

/** What a parameter is called: a whole number of at least 0, or a string. `'1'` and `1` are one. */
export type Index = number | string;

/** A key of an object as an index: '12' is the index 12, as everywhere. */
export function indexOfKey(key: string): Index {
  return /^(0|[1-9]\d*)$/.test(key) && Number.isSafeInteger(Number(key)) ? Number(key) : key;
}

/**
 * An index in its one form: a string of a whole number is that number, since the
 * keys of objects cannot tell them apart.
 *
 * @throws TypeError for anything but a string or a whole number of at least 0
 */
export function checkIndex(index: unknown, name: string): Index {
  if (typeof index === 'string') return indexOfKey(index);
  if (Number.isSafeInteger(index) && (index as number) >= 0) return (index as number) + 0; // -0 is 0
  throw wrongKind('a whole number of at least 0 or a string', name, index);
}
