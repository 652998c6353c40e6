/**
 * IEEE-754 arithmetic by its definition: the exact result, in integers, rounded
 * once to the nearest number of a format, ties to even. It is slow, and shares
 * nothing with what it is a reference for, not even the processor's arithmetic.
 */
import type { DType } from '../../lib/index.js';
import { bitLength, scaledOf } from '../support/exact-power.js';

/** A format's numbers are whole * 2 ** exponent with |whole| < 2 ** digits and exponent >= least. */
interface Format {
  readonly digits: number;
  readonly least: number;
  /** All finite numbers are below 2 ** limit. */
  readonly limit: number;
}

const FORMATS: Readonly<Record<DType, Format>> = {
  float16: { digits: 11, least: -24, limit: 16 },
  bfloat16: { digits: 8, least: -133, limit: 128 },
  float32: { digits: 24, least: -149, limit: 128 },
  float64: { digits: 53, least: -1074, limit: 1024 },
};

/** sign * whole * 2 ** exponent, rounded to a format. */
function round({ digits, least, limit }: Format, isNegative: boolean, whole: bigint, exponent: number): number {
  let magnitude = 0;
  if (whole !== 0n) {
    const target = Math.max(exponent + bitLength(whole) - digits, least);
    const shift = BigInt(target - exponent);
    let quotient = shift <= 0n ? whole << -shift : whole >> shift;
    if (shift > 0n) {
      const rest = whole - (quotient << shift);
      const half = 1n << (shift - 1n);
      if (rest > half || (rest === half && quotient % 2n === 1n)) quotient++;
    }
    const isTooLarge = quotient !== 0n && target + bitLength(quotient) > limit;
    magnitude = isTooLarge ? Infinity : Number(quotient) * 2 ** target;
  }
  return isNegative ? -magnitude : magnitude;
}

function isNegative(value: number): boolean {
  return value < 0 || Object.is(value, -0);
}

/** A whole number whose last bit also stands for all that was cut off: enough to round correctly. */
function sticky(whole: bigint, isExact: boolean): bigint {
  return 2n * whole + (isExact ? 0n : 1n);
}

/** The largest whole number whose square is at most `square`: Newton's iteration from above. */
function integerRoot(square: bigint): bigint {
  let root = 1n << BigInt(Math.ceil(bitLength(square) / 2));
  for (;;) {
    const next = (root + square / root) >> 1n;
    if (next >= root) return root;
    root = next;
  }
}

/** The operations of a format; operands are numbers of it. */
export class ExactFloat {
  readonly #format: Format;

  constructor(dtype: DType) {
    this.#format = FORMATS[dtype];
  }

  /** Any number, rounded to the format. */
  of(value: number): number {
    if (!Number.isFinite(value)) return value;
    const { whole, exponent } = scaledOf(Math.abs(value));
    return round(this.#format, isNegative(value), whole, exponent);
  }

  add(a: number, b: number): number {
    // A sum with an infinity or NaN is itself one, by rules that need no rounding.
    if (!Number.isFinite(a) || !Number.isFinite(b)) return a + b;
    if (a === 0 && b === 0) return isNegative(a) && isNegative(b) ? -0 : 0;
    const x = scaledOf(Math.abs(a));
    const y = scaledOf(Math.abs(b));
    const exponent = Math.min(x.exponent, y.exponent);
    const left = x.whole << BigInt(x.exponent - exponent);
    const right = y.whole << BigInt(y.exponent - exponent);
    const sum = (isNegative(a) ? -left : left) + (isNegative(b) ? -right : right);
    return round(this.#format, sum < 0n, sum < 0n ? -sum : sum, exponent);
  }

  subtract(a: number, b: number): number {
    return this.add(a, -b);
  }

  multiply(a: number, b: number): number {
    if (!Number.isFinite(a) || !Number.isFinite(b)) return a * b;
    const x = scaledOf(Math.abs(a));
    const y = scaledOf(Math.abs(b));
    return round(this.#format, isNegative(a) !== isNegative(b), x.whole * y.whole, x.exponent + y.exponent);
  }

  divide(a: number, b: number): number {
    if (!Number.isFinite(a) || !Number.isFinite(b) || b === 0) return a / b;
    const x = scaledOf(Math.abs(a));
    const y = scaledOf(Math.abs(b));
    const more = 128; // more digits than any format has
    const numerator = x.whole << BigInt(more);
    const quotient = numerator / y.whole;
    const whole = sticky(quotient, quotient * y.whole === numerator);
    return round(this.#format, isNegative(a) !== isNegative(b), whole, x.exponent - y.exponent - more - 1);
  }

  sqrt(a: number): number {
    if (!(a > 0) || a === Infinity) return Math.sqrt(a);
    const { whole, exponent } = scaledOf(a);
    const more = 128 + Math.abs(exponent % 2); // makes the exponent even
    const square = whole << BigInt(more);
    const root = integerRoot(square);
    return round(this.#format, false, sticky(root, root * root === square), (exponent - more) / 2 - 1);
  }
}
