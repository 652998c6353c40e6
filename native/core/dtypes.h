// Dtypes, and the conversions of one value.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

#include "adamw.h"

namespace fused_adamw {

// IEEE binary16 and bfloat16, stored as bits. They are distinct types, so that
// a loop over one does not compile for the other.
struct Float16 {
  uint16_t bits;
};
struct BFloat16 {
  uint16_t bits;
};

// The only NaNs that are stored to half-precision arrays, on every backend.
inline constexpr uint16_t kFloat16NaN = 0x7e00;
inline constexpr uint16_t kBFloat16NaN = 0x7fc0;

/// The type in which values of a dtype are computed: float for all but double.
template <typename T>
struct ArithmeticOf {
  using type = float;
};
template <>
struct ArithmeticOf<double> {
  using type = double;
};
template <typename T>
using Arithmetic = typename ArithmeticOf<T>::type;

struct DTypeInfo {
  const char* name;
  size_t bytes;  // of an element
};
template <typename T>
inline constexpr DTypeInfo kDTypeInfo{};
template <>
inline constexpr DTypeInfo kDTypeInfo<float> = {"float32", sizeof(float)};
template <>
inline constexpr DTypeInfo kDTypeInfo<double> = {"float64", sizeof(double)};
template <>
inline constexpr DTypeInfo kDTypeInfo<Float16> = {"float16", sizeof(Float16)};
template <>
inline constexpr DTypeInfo kDTypeInfo<BFloat16> = {"bfloat16", sizeof(BFloat16)};

ADAMW_INLINE uint32_t bits_of(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  return bits;
}
ADAMW_INLINE float float_of(uint32_t bits) {
  float value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

ADAMW_INLINE float to_float(BFloat16 value) { return float_of(static_cast<uint32_t>(value.bits) << 16); }

ADAMW_INLINE float to_float(Float16 value) {
#if defined(__CUDA_ARCH__)
  float result;  // one instruction, and exact
  asm("cvt.f32.f16 %0, %1;" : "=f"(result) : "h"(value.bits));
  return result;
#else
  const uint32_t sign = static_cast<uint32_t>(value.bits & 0x8000) << 16;
  const uint32_t exponent = value.bits & 0x7c00;
  const uint32_t magnitude = value.bits & 0x7fff;
  const uint32_t normal = (magnitude << 13) + (112u << 23);  // exponent bias 15 -> 127
  const uint32_t special = (magnitude << 13) | 0x7f800000;   // infinities and NaN
  const uint32_t subnormal = bits_of(static_cast<float>(static_cast<int32_t>(magnitude)) * 0x1p-24f);
  return float_of(sign | (exponent == 0 ? subnormal : exponent == 0x7c00 ? special : normal));
#endif
}

/// The nearest bfloat16, in the upper half of a word; the lower half is undefined.
ADAMW_INLINE uint32_t round_to_upper_half(float value) {
  const uint32_t bits = bits_of(value);
  const uint32_t nearest = (bits | (bits >> 16 & 1)) + 0x7fff;  // a tie is over one half if the upper half is odd
  return value != value ? static_cast<uint32_t>(kBFloat16NaN) << 16 : nearest;
}

ADAMW_INLINE BFloat16 to_bfloat16(float value) { return {static_cast<uint16_t>(round_to_upper_half(value) >> 16)}; }

ADAMW_INLINE Float16 to_float16(float value) {
#if defined(__CUDA_ARCH__)
  uint16_t half;  // rounds to the nearest, ties to even
  asm("cvt.rn.f16.f32 %0, %1;" : "=h"(half) : "f"(value));
  return {value == value ? half : kFloat16NaN};
#else
  const uint32_t bits = bits_of(value);
  const uint32_t sign = (bits >> 16) & 0x8000;
  const uint32_t magnitude = bits & 0x7fffffff;
  const uint32_t normal = (magnitude - (112u << 23) + 0xfff + ((magnitude >> 13) & 1)) >> 13;
  // Adding 0.5 leaves the value's multiple of 2^-24, correctly rounded, in the low bits.
  const uint32_t subnormal = bits_of(float_of(magnitude) + 0.5f) - bits_of(0.5f);
  const uint32_t finite = magnitude < 0x38800000 ? subnormal : normal;  // below 2^-14
  const uint32_t rounded = magnitude < 0x477ff000 ? finite : 0x7c00;    // 65520 and above
  return {static_cast<uint16_t>(magnitude > 0x7f800000 ? kFloat16NaN : sign | rounded)};
#endif
}

}  // namespace fused_adamw
