/** Sizes of the dimensions of a tensor. */
import { checkInteger, wrongKind } from '../errors.js';
import { copyList } from '../lists.js';

/** A length, or a list of sizes: a frozen copy, every size of which was read once and validated. */
export function checkShape(shape: unknown, name: string): readonly number[] {
  if (typeof shape === 'number') return Object.freeze([checkInteger(shape, name)]);
  if (!Array.isArray(shape)) throw wrongKind('a length or a list of sizes', name, shape);
  const sizes = copyList<unknown>(shape);
  for (let i = 0; i < sizes.length; i++) sizes[i] = checkInteger(sizes[i], `${name}[${i}]`);
  return Object.freeze(sizes as number[]);
}

/** Number of elements. */
export function elementsOf(shape: readonly number[]): number {
  let elements = 1;
  for (let i = 0; i < shape.length; i++) {
    if (shape[i] === 0) return 0; // the product of the others may be infinite
    elements *= shape[i];
  }
  return elements;
}
