/**
 * `base ** exponent` in double-double, rounded once at the end.
 *
 * Repeated squaring with + and x only, so that every engine gives the same
 * bits: `**` and Math.pow differ from one version to the next (0.999 ** t in
 * one case of ten). Products and sums are error-free transformations: Dekker,
 * "A floating-point technique for extending the available precision" (1971),
 * and Knuth's two-sum.
 */

const SPLITTER = 2 ** 27 + 1;

/** The unevaluated sum high + low. */
interface DoubleDouble {
  readonly high: number;
  readonly low: number;
}

/** high + low of a * b, for a and b far from overflow. */
function multiply(a: DoubleDouble, b: DoubleDouble): DoubleDouble {
  const product = a.high * b.high;
  let split = SPLITTER * a.high;
  const aHigh = split - (split - a.high);
  const aLow = a.high - aHigh;
  split = SPLITTER * b.high;
  const bHigh = split - (split - b.high);
  const bLow = b.high - bHigh;
  const error = aHigh * bHigh - product + aHigh * bLow + aLow * bHigh + aLow * bLow;
  const tail = error + (a.high * b.low + a.low * b.high);
  const high = product + tail;
  return { high, low: tail - (high - product) };
}

/** `base ** exponent` for a base in [0, 1) and a whole exponent of at least 0. */
export function power(base: number, exponent: number): number {
  let result: DoubleDouble = { high: 1, low: 0 };
  let square: DoubleDouble = { high: base, low: 0 };
  for (let left = exponent; left > 0; left = Math.floor(left / 2)) {
    if (left % 2 === 1) result = multiply(result, square);
    if (left > 1) square = multiply(square, square);
  }
  return result.high + result.low;
}
