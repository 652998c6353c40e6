// Stochastic rounding of bfloat16 variances and weights: a counter-based generator made of
// 32-bit additions, xors, shifts, rotations and multiplications (lower half), so
// that lib/numerics/stochastic-rounding.ts computes the same bits with Math.imul.
//
// The random number of an element depends on the seed, the optimizer's index of
// the tensor, the array's role, the update count and the element's index in the
// tensor, but not on chunks, threads or addresses.
#pragma once

#include "dtypes.h"

namespace fused_adamw {

struct RandomKey {
  uint32_t add, xor_;
};

ADAMW_INLINE uint32_t rotate_left(uint32_t x, int by) { return (x << by) | (x >> (32 - by)); }

/// Mixes one more word into a key, by the steps of MurmurHash3_x86_32 (Austin
/// Appleby, SMHasher, 2011, public domain).
ADAMW_INLINE uint32_t absorb(uint32_t hash, uint32_t word) {
  word = rotate_left(word * 0xcc9e2d51u, 15) * 0x1b873593u;
  return rotate_left(hash ^ word, 13) * 5u + 0xe6546b64u;
}

/// Mixes all bits, but for a last `x ^ x >> 16`. Multiplications carry upwards, shifts
/// bring the upper bits back down, and each step is one to one. The multipliers are
/// those of MurmurHash3's finalizer; its shifts, with one term each, leave the numbers
/// of elements 1,024 apart visibly related.
ADAMW_INLINE uint32_t scramble(uint32_t x, uint32_t key) {
  x ^= x >> 11 ^ x >> 21 ^ key;
  x *= 0x85ebca6bu;
  x ^= x >> 11 ^ x >> 20;
  return x * 0xc2b2ae35u;
}
ADAMW_INLINE uint32_t mix(uint32_t x) {
  x = scramble(x, 0);
  return x ^ x >> 16;
}

/// The key of the variances of one tensor in one step. `high` is the upper half of
/// the 64-bit element index.
ADAMW_INLINE RandomKey random_key(uint32_t tensor_key, uint32_t count, uint32_t high) {
  const uint32_t base = absorb(absorb(tensor_key, count), high);
  return {mix(base), mix(base ^ 0x9e3779b9u)};
}

/// The generator's counter for the elements 2 * `pair` and 2 * `pair` + 1 (the lower
/// halves of their indices); it grows by kCounterStep from pair to pair.
inline constexpr uint32_t kCounterStep = 0x9e3779b1u;
ADAMW_INLINE uint32_t random_counter(RandomKey key, uint32_t pair) { return pair * kCounterStep + key.add; }

/// The key of the weights, from that of the variances. There are 2^31 pairs below 2^32 elements, and so as many
/// counters that no pair has: those of the pairs from 2^31 on, which differ in the upper bit, are the weights'.
ADAMW_INLINE RandomKey key_of_weights(RandomKey key) { return {key.add ^ 0x80000000u, key.xor_}; }

/// 16 random bits for each element of a pair, the even one first: the halves of random_word().
struct RandomPair {
  uint32_t first, second;
};
ADAMW_INLINE uint32_t random_word(RandomKey key, uint32_t counter) {
  const uint32_t word = scramble(counter, key.xor_);
  return word ^ word >> 16;
}
ADAMW_INLINE RandomPair random_pair(RandomKey key, uint32_t counter) {
  const uint32_t word = random_word(key, counter);
  return {word & 0xffff, word >> 16};
}

/// 16 random bits for the element whose index has the lower half `low`.
ADAMW_INLINE uint32_t random_bits(RandomKey key, uint32_t low) {
  const RandomPair pair = random_pair(key, random_counter(key, low / 2));
  return low % 2 == 0 ? pair.first : pair.second;
}

/// A bfloat16 in the upper half of a word (the lower half is undefined), rounded
/// away from zero with the probability that the discarded bits give, by 16 random
/// bits. Saturates at the largest finite value; infinities and NaN are not rounded.
ADAMW_INLINE uint32_t round_to_upper_half_stochastic(float value, uint32_t random) {
  const uint32_t bits = bits_of(value);
  const uint32_t rounded = bits + random;  // an infinity discards no bits
  // The largest finite value if the exponent is even, as that value's is. An odd one needs no bound: it is an
  // infinity's, or too small to be rounded to one.
  const uint32_t largest = bits | 0x7f7fffffu;
  const uint32_t number = rounded < largest ? rounded : largest;
  return value != value ? static_cast<uint32_t>(kBFloat16NaN) << 16 : number;
}

ADAMW_INLINE BFloat16 to_bfloat16_stochastic(float value, uint32_t random) {
  return {static_cast<uint16_t>(round_to_upper_half_stochastic(value, random) >> 16)};
}

}  // namespace fused_adamw
