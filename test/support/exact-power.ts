/** Powers of doubles in exact integer arithmetic, rounded once. */

/** whole * 2 ** exponent. */
export interface Scaled {
  readonly whole: bigint;
  readonly exponent: number;
}

/** A finite number of at least 0. */
export function scaledOf(value: number): Scaled {
  const view = new DataView(new ArrayBuffer(8));
  view.setFloat64(0, value);
  const bits = view.getBigUint64(0);
  const biased = Number(bits >> 52n);
  const fraction = bits & (2n ** 52n - 1n);
  return biased === 0 ? { whole: fraction, exponent: -1074 } : { whole: fraction + 2n ** 52n, exponent: biased - 1075 };
}

export function bitLength(whole: bigint): number {
  const digits = whole.toString(16);
  return 4 * (digits.length - 1) + (32 - Math.clz32(Number.parseInt(digits[0], 16)));
}

/** The nearest double, ties to even, subnormals kept. */
export function rounded({ whole, exponent }: Scaled): number {
  if (whole === 0n || exponent + bitLength(whole) < -1074) return 0; // less than half of the least
  const target = Math.max(exponent + bitLength(whole) - 53, -1074);
  const shift = BigInt(target - exponent);
  if (shift <= 0n) return Number(whole << -shift) * 2 ** target;
  let quotient = whole >> shift;
  const rest = whole - (quotient << shift);
  const half = 1n << (shift - 1n);
  if (rest > half || (rest === half && quotient % 2n === 1n)) quotient++;
  return Number(quotient) * 2 ** target;
}

/** base ** exponent, rounded once. */
export function exactPower(base: number, exponent: number): number {
  const scaled = scaledOf(base);
  return rounded({ whole: scaled.whole ** BigInt(exponent), exponent: exponent * scaled.exponent });
}

/** Bits of each product that nearlyExactPower() keeps, for a relative error below 2 ** -500. */
const PRECISION = 600;

function multiply(a: Scaled, b: Scaled): Scaled {
  const whole = a.whole * b.whole;
  const excess = Math.max(0, bitLength(whole) - PRECISION);
  return { whole: whole >> BigInt(excess), exponent: a.exponent + b.exponent + excess };
}

/** As exactPower(), for exponents whose power has too many bits to keep them all. */
export function nearlyExactPower(base: number, exponent: number): number {
  let result: Scaled = { whole: 1n, exponent: 0 };
  for (const digit of exponent.toString(2)) {
    result = multiply(result, result);
    if (digit === '1') result = multiply(result, scaledOf(base));
  }
  return rounded(result);
}
