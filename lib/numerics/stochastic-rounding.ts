/**
 * Stochastic rounding of bfloat16 variances and weights: the generator of
 * native/core/stochastic-rounding.h, bit for bit. See there for how it is made.
 */
import { float32Bits } from './half.js';

function rotateLeft(x: number, by: number): number {
  return (x << by) | (x >>> (32 - by));
}

/** Takes one more 32-bit word into a key. */
export function absorb(hash: number, word: number): number {
  const scrambled = Math.imul(rotateLeft(Math.imul(word, 0xcc9e2d51), 15), 0x1b873593);
  return (Math.imul(rotateLeft(hash ^ scrambled, 13), 5) + 0xe6546b64) | 0;
}

/** Mixes all bits but for a last step, which is `x ^ (x >>> 16)`. */
function scramble(x: number, key: number): number {
  x ^= (x >>> 11) ^ (x >>> 21) ^ key;
  x = Math.imul(x, 0x85ebca6b);
  x ^= (x >>> 11) ^ (x >>> 20);
  return Math.imul(x, 0xc2b2ae35);
}

function mix(x: number): number {
  x = scramble(x, 0);
  return x ^ (x >>> 16);
}

export interface RandomKey {
  readonly add: number;
  readonly xor: number;
}

/** The key of the variances of one tensor in one step; `high` is the upper half of the element's number. */
export function randomKey(tensorKey: number, count: number, high: number): RandomKey {
  const base = absorb(absorb(tensorKey, count), high);
  return { add: mix(base), xor: mix(base ^ 0x9e3779b9) };
}

/** The key of the weights, from that of the variances. */
export function keyOfWeights(key: RandomKey): RandomKey {
  return { add: key.add ^ 0x80000000, xor: key.xor };
}

/** 16 random bits for the element whose number has the lower half `low`. */
export function randomBits(key: RandomKey, low: number): number {
  const word = scramble(Math.imul(low >>> 1, 0x9e3779b1) + key.add, key.xor);
  return low % 2 === 0 ? (word ^ (word >>> 16)) & 0xffff : word >>> 16;
}

/** Which array of a tensor the random numbers are for. */
const VARIANCE = 1;

/** The key of a tensor, by the optimizer's seed and the index it is updated under. */
export function tensorKey(seed: number, index: number | string): number {
  let key = absorb(absorb(0, seed), VARIANCE);
  if (typeof index === 'number') {
    key = absorb(absorb(key, index), Math.floor(index / 2 ** 32));
  } else {
    key = absorb(key, ~index.length);
    for (let i = 0; i < index.length; i++) key = absorb(key, index.charCodeAt(i));
  }
  return key >>> 0;
}

/** Rounds to bfloat16, upwards with the probability that the discarded bits give, by 16 random bits. */
export function toBfloat16Stochastic(value: number, random: number): number {
  if (Number.isNaN(value)) return 0x7fc0;
  const bits = float32Bits(value);
  const magnitude = bits & 0x7fffffff;
  const sign = (bits >>> 16) & 0x8000;
  if (magnitude === 0x7f800000) return sign | 0x7f80;
  return sign | Math.min((magnitude + random) >>> 16, 0x7f7f);
}
