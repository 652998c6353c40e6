// Stochastic rounding of bfloat16 variances: a counter-based generator made of
// 32-bit additions, xors, rotations and multiplications (lower half), so that
// lib/numerics/stochastic-rounding.ts computes the same bits with Math.imul.
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

/// Mixes all bits: multiplications carry upwards, rotations (an odd number of
/// terms, so the map is invertible) carry back down. The upper bits are the best mixed.
ADAMW_INLINE uint32_t scramble(uint32_t x) {
  x ^= rotate_left(x, 15) ^ rotate_left(x, 20);
  x *= 0x85ebca6bu;
  x ^= rotate_left(x, 13) ^ rotate_left(x, 22);
  return x * 0xc2b2ae35u;
}
ADAMW_INLINE uint32_t mix(uint32_t x) { return rotate_left(scramble(x), 16); }

/// The key of one array of one tensor in one step. `high` is the upper half of
/// the 64-bit element index.
ADAMW_INLINE RandomKey random_key(uint32_t tensor_key, uint32_t count, uint32_t high) {
  const uint32_t base = absorb(absorb(tensor_key, count), high);
  return {mix(base), mix(base ^ 0x9e3779b9u)};
}

ADAMW_INLINE uint32_t counter(RandomKey key, uint32_t low) { return (low ^ key.xor_) * 0x9e3779b1u + key.add; }

/// 32 random bits for the element whose index has the lower half `low`.
ADAMW_INLINE uint32_t random_bits(RandomKey key, uint32_t low) { return mix(counter(key, low)); }

/// The lower 16 of these bits.
ADAMW_INLINE uint32_t random_half(RandomKey key, uint32_t low) { return scramble(counter(key, low)) >> 16; }

/// A bfloat16 in the upper half of a word (the lower half is undefined), rounded
/// away from zero with the probability that the discarded bits give, by 16 random
/// bits. Saturates at the largest finite value; infinities and NaN are not rounded.
ADAMW_INLINE uint32_t round_to_upper_half_stochastic(float value, uint32_t random) {
  const uint32_t bits = bits_of(value);
  const uint32_t rounded = bits + random;  // an infinity discards no bits
  const uint32_t largest = (bits & 0x80000000u) | 0x7f7fffffu;
  const uint32_t finite = rounded < largest ? rounded : largest;
  const uint32_t number = (bits & 0x7fffffffu) < 0x7f800000u ? finite : rounded;
  return value != value ? static_cast<uint32_t>(kBFloat16NaN) << 16 : number;
}

/// The same, with the lower 16 bits of `random`.
ADAMW_INLINE BFloat16 to_bfloat16_stochastic(float value, uint32_t random) {
  return {static_cast<uint16_t>(round_to_upper_half_stochastic(value, random & 0xffff) >> 16)};
}

}  // namespace fused_adamw
