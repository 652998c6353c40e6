/** A Tensor as JSON, without the loss of a single number. */
import { wrongKindIn } from '../errors.js';
import { checkDType, type DType } from '../numerics/dtype.js';
import { readOptions } from '../options.js';
import { checkNumbers } from './numbers.js';
import { checkShape, elementsOf } from './shape.js';

/** A number; those that JSON writes as null or without their sign are words. */
export type TensorJSONNumber = number | 'NaN' | 'Infinity' | '-Infinity' | '-0';

/** What Tensor.toJSON() returns and Tensor.fromJSON() takes. */
export interface TensorJSON<D extends DType = DType> {
  /** Of its elements. */
  readonly dtype: D;
  /** Sizes of the dimensions; empty for a scalar. */
  readonly shape: readonly number[];
  /** All values, those of the last dimension next to each other. */
  readonly data: readonly TensorJSONNumber[];
}

const WORDS: ReadonlyMap<unknown, number> = new Map([
  ['NaN', NaN],
  ['Infinity', Infinity],
  ['-Infinity', -Infinity],
  ['-0', -0],
]);

export function toNumbers(values: Float32Array | Float64Array): TensorJSONNumber[] {
  return Array.from(values, (value) => {
    if (Object.is(value, -0)) return '-0';
    return Number.isFinite(value) ? value : (String(value) as TensorJSONNumber);
  });
}

/** What JSON says of a tensor, copied and validated. */
export function checkTensorJSON(json: unknown): {
  readonly dtype: DType;
  readonly shape: readonly number[];
  readonly values: ArrayLike<number>;
} {
  if (typeof json === 'string') throw wrongKindIn('an object, as JSON.parse() returns,', 'json', 'a string');
  const { dtype, shape, data } = readOptions(json as Partial<TensorJSON>, 'json', ['dtype', 'shape', 'data']);
  const checkedDType = checkDType(dtype, 'json.dtype');
  const sizes = checkShape(shape, 'json.shape');
  return { dtype: checkedDType, shape: sizes, values: checkNumbers(data, 'json.data', elementsOf(sizes), WORDS) };
}
