/** float16 and bfloat16 by their definitions, independent of lib/numerics/half.ts. */
import { Tensor } from '../../lib/index.js';

export interface HalfFormat {
  readonly dtype: 'float16' | 'bfloat16';
  readonly mantissaBits: number;
  readonly bias: number;
  /** Bits of infinity, and of every NaN that is stored. */
  readonly infinity: number;
  readonly nan: number;
}

export const HALF_FORMATS: readonly HalfFormat[] = [
  { dtype: 'float16', mantissaBits: 10, bias: 15, infinity: 0x7c00, nan: 0x7e00 },
  { dtype: 'bfloat16', mantissaBits: 7, bias: 127, infinity: 0x7f80, nan: 0x7fc0 },
];

/** All 65,536 bit patterns. */
export const everyBits = Uint16Array.from({ length: 0x10000 }, (_, bits) => bits);

/** The bits to which Tensor.set() rounds values. */
export function roundedTo({ dtype }: Pick<HalfFormat, 'dtype'>, values: ArrayLike<number>): Uint16Array {
  return Tensor.zeros(values.length, { dtype }).set(values).data;
}

/** (-1)^sign * 2^(exponent - bias) * 1.mantissa; subnormal, infinite or NaN at the ends of the exponents. */
export function decodeBits(format: HalfFormat, bits: number): number {
  const sign = bits & 0x8000 ? -1 : 1;
  const magnitude = bits & 0x7fff;
  if (magnitude > format.infinity) return NaN;
  return magnitude === format.infinity ? sign * Infinity : sign * unboundedValue(format, magnitude);
}

/** As decodeBits(), with infinity as the number that would come next, since rounding depends on the distance to it. */
function unboundedValue({ mantissaBits, bias }: HalfFormat, magnitude: number): number {
  const exponent = magnitude >> mantissaBits;
  const fraction = (magnitude % 2 ** mantissaBits) / 2 ** mantissaBits;
  return exponent === 0 ? fraction * 2 ** (1 - bias) : (1 + fraction) * 2 ** (exponent - bias);
}

/** The value after (or, with -1, before) a positive one in an array's type. */
function neighbour(array: Float32Array | Float64Array, value: number, direction: 1 | -1): number {
  array[0] = value;
  if (array instanceof Float32Array) new Int32Array(array.buffer)[0] += direction;
  else new BigInt64Array(array.buffer)[0] += BigInt(direction);
  return array[0];
}

/** Values whose rounding is known, and the bits they round to. */
export interface Roundings {
  readonly values: number[];
  readonly expected: number[];
}

/**
 * Every half, every midpoint of two adjacent halves, and the neighbours of each
 * in float32 or float64, of both signs.
 */
export function everyRounding(format: HalfFormat, type: 'float32' | 'float64'): Roundings {
  const scratch = type === 'float32' ? new Float32Array(1) : new Float64Array(1);
  const values: number[] = [];
  const expected: number[] = [];
  const add = (value: number, bits: number): void => {
    values.push(value, -value);
    expected.push(bits, bits | 0x8000);
  };
  for (let low = 0; low < format.infinity; low++) {
    const below = unboundedValue(format, low);
    const above = unboundedValue(format, low + 1);
    const middle = (below + above) / 2;
    add(below, low);
    add(neighbour(scratch, below, 1), low);
    add(neighbour(scratch, middle, -1), low);
    add(middle, low % 2 === 0 ? low : low + 1);
    add(neighbour(scratch, middle, 1), low + 1);
    add(neighbour(scratch, above, -1), low + 1);
  }
  add(Infinity, format.infinity);
  return { values, expected };
}

/** NaNs of both signs and many payloads, signalling ones included, as float32. */
export function everyKindOfNaN(): Float32Array {
  const bits: number[] = [];
  for (const sign of [0, 0x80000000]) {
    for (let bit = 0; bit < 23; bit++) {
      bits.push(sign + 0x7f800000 + 2 ** bit, sign + 0x7f800000 + (2 ** 23 - 2 ** bit));
    }
  }
  return new Float32Array(Uint32Array.from(bits).buffer);
}
