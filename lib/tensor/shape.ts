/** Sizes of the dimensions of a tensor. */
import { checkInteger, wrongKind } from '../errors.js';

/** A length, or a list of sizes: a frozen copy, every size of which was read once and validated. */
export function checkShape(shape: unknown, name: string): readonly number[] {
  if (typeof shape === 'number') return Object.freeze([checkInteger(shape, name)]);
  if (!Array.isArray(shape)) throw wrongKind('a length or a list of sizes', name, shape);
  const { length } = shape;
  // By index into an array of numbers: no hole, method of a subclass or setter of a prototype has a say in it.
  const sizes = new Float64Array(length);
  for (let i = 0; i < length; i++) sizes[i] = checkInteger(shape[i], `${name}[${i}]`);
  return Object.freeze(Array.from(sizes));
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
