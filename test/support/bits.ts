/** Comparison of arrays by their bits, with messages that show where and how they differ. */
import { expect } from 'chai';

export type Values = Float32Array | Float64Array | Uint16Array;

function bitsOf(value: number, like: Values): string {
  if (like instanceof Uint16Array) return `0x${value.toString(16).padStart(4, '0')}`;
  const view = new DataView(new ArrayBuffer(8));
  if (like instanceof Float64Array) {
    view.setFloat64(0, value);
    return `0x${view.getBigUint64(0).toString(16).padStart(16, '0')}`;
  }
  view.setFloat32(0, value);
  return `0x${view.getUint32(0).toString(16).padStart(8, '0')}`;
}

/** Whether two elements have the same bits; in float32 and float64 any NaN equals any other. */
function same(a: number, b: number): boolean {
  return Object.is(a, b) || (Number.isNaN(a) && Number.isNaN(b));
}

/**
 * Asserts that two arrays have the same bits. Halves are compared as bits, NaN
 * included: which NaN is stored in them is part of the contract.
 */
export function expectSameBits(actual: Values, expected: Values, what: string): void {
  expect(actual.length, `length of ${what}`).to.equal(expected.length);
  for (let i = 0; i < actual.length; i++) {
    if (same(actual[i], expected[i])) continue;
    const a = `${actual[i]} (${bitsOf(actual[i], actual)})`;
    const b = `${expected[i]} (${bitsOf(expected[i], expected)})`;
    expect.fail(`${what}[${i}] of ${actual.length} is ${a}, expected ${b}`);
  }
}

/** Asserts |actual - expected| <= bound(i) for every element; NaN and infinities must be the same. */
export function expectClose(
  actual: ArrayLike<number>,
  expected: ArrayLike<number>,
  bound: (i: number) => number,
  what: string,
): void {
  expect(actual.length, `length of ${what}`).to.equal(expected.length);
  for (let i = 0; i < actual.length; i++) {
    if (same(actual[i], expected[i]) || Math.abs(actual[i] - expected[i]) <= bound(i)) continue;
    expect.fail(`${what}[${i}] is ${actual[i]}, expected ${expected[i]} within ${bound(i)}`);
  }
}
