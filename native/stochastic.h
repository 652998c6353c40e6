// Stochastic rounding of bfloat16 variances: a counter-based generator of
// 32-bit add, xor, rotate and multiply-low, so that lib/stochastic.ts gives
// the same bits with Math.imul.
//
// The random number of an element depends on the seed, the optimizer's index
// of the tensor, which array it is, the update count and the element's place
// in the tensor: not on chunks, threads or addresses.
#pragma once

#include "types.h"

namespace fused_adamw {

struct RandomKey {
  uint32_t add, xor_;
};

ADAMW_INLINE uint32_t rotate_left(uint32_t x, int by) { return (x << by) | (x >> (32 - by)); }

/// Takes one more word into a key. The steps are those of MurmurHash3 (x86, 32
/// bits; Austin Appleby, public domain).
ADAMW_INLINE uint32_t absorb(uint32_t hash, uint32_t word) {
  word = rotate_left(word * 0xcc9e2d51u, 15) * 0x1b873593u;
  return rotate_left(hash ^ word, 13) * 5u + 0xe6546b64u;
}

/// Mixes all bits: multiplications carry upwards, the rotations (an odd number
/// of terms, hence invertible) carry back down.
ADAMW_INLINE uint32_t mix(uint32_t x) {
  x ^= rotate_left(x, 15) ^ rotate_left(x, 20);
  x *= 0x85ebca6bu;
  x ^= rotate_left(x, 13) ^ rotate_left(x, 22);
  x *= 0xc2b2ae35u;
  return rotate_left(x, 16);
}

/// The key of one array of one tensor in one step. `high` is the upper half of
/// the 64-bit element number.
ADAMW_INLINE RandomKey random_key(uint32_t tensor_key, uint32_t count, uint32_t high) {
  const uint32_t base = absorb(absorb(tensor_key, count), high);
  return {mix(base), mix(base ^ 0x9e3779b9u)};
}

/// 32 random bits for the element whose number has the lower half `low`.
ADAMW_INLINE uint32_t random_bits(RandomKey key, uint32_t low) { return mix((low ^ key.xor_) * 0x9e3779b1u + key.add); }

/// Rounds up with the probability that the discarded bits give; saturates at
/// the largest finite value; infinities and NaN are not rounded.
ADAMW_INLINE BFloat16 to_bfloat16_stochastic(float value, uint32_t random) {
  const uint32_t bits = bits_of(value);
  const uint32_t magnitude = bits & 0x7fffffff;
  const uint32_t rounded = (magnitude + (random & 0xffff)) >> 16;
  const uint32_t finite = rounded < 0x7f7f ? rounded : 0x7f7f;
  const uint32_t sign = (bits >> 16) & 0x8000;
  return {static_cast<uint16_t>(magnitude > 0x7f800000    ? kBFloat16NaN
                                : magnitude == 0x7f800000 ? sign | 0x7f80
                                                          : sign | finite)};
}

}  // namespace fused_adamw
