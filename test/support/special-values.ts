/** Random numbers of which some are special: NaN, infinities, zeros of both signs, subnormals, the largest ones. */

/** A generator of 32-bit numbers (Marsaglia's xorshift): the same values for every environment. */
export function numbersFrom(seed: number): () => number {
  let state = (seed ^ 0x5bd1e995) | 1;
  return () => {
    state ^= state << 13;
    state ^= state >>> 17;
    state ^= state << 5;
    return state >>> 0;
  };
}

const SPECIAL = [
  0,
  -0,
  1,
  -1,
  Infinity,
  -Infinity,
  NaN,
  2 ** -149, // the least float32, 2 ** -133 bfloat16, 2 ** -24 float16
  -(2 ** -133),
  2 ** -126,
  2 ** -130,
  2 ** -24,
  3 * 2 ** -24,
  2 ** -14,
  65504,
  3.3895313892515355e38,
  -3.4028234663852886e38,
  1e-310,
  1.7976931348623157e308,
];

/** Ordinary numbers, one in sixteen a special one. */
export function randomValue(next: () => number): number {
  const bits = next();
  if (bits % 16 === 0) return SPECIAL[(bits >>> 4) % SPECIAL.length];
  const magnitude = (1 + next() / 2 ** 32) * 2 ** (((bits >>> 4) % 24) - 16);
  return bits & 0x40000000 ? -magnitude : magnitude;
}
