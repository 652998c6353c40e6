// The loops over gradients outside of a step, inlined into each instruction-set variant as those of loop.h.
#pragma once

#include "../../core/gradient-norm.h"
#include "loop.h"

namespace fused_adamw::cpu {

/// Adds the square of an element. That of a float is exact in double, so that a fused operation rounds as the two do.
template <class Isa>
ADAMW_INLINE void add_square(double& lane, float element) {
  const double value = element;
  if constexpr (Isa::kHasFma)
    lane = __builtin_fma(value, value, lane);
  else
    lane += value * value;
}
template <class Isa>
ADAMW_INLINE void add_square(double& lane, double element) {
  lane += element * element;
}
template <class Isa>
ADAMW_INLINE void add_square(double& lane, BFloat16 element) {
  add_square<Isa>(lane, to_float(element));
}

/// The sum of the squares of at most kNormBlock elements (gradient-norm.h). Sets `finite` to false for an element that
/// is infinite or NaN.
template <class Isa, typename T>
ADAMW_INLINE double sum_of_squares(const T* grad, size_t length, bool* finite) {
  // The lanes in two arrays, each a vector of AVX-512: compilers then widen the elements in one operation.
  constexpr size_t half = kNormLanes / 2;
  double low[half] = {}, high[half] = {};
  double invalid[kNormLanes] = {};  // NaN where an element is not finite
  alignas(64) [[maybe_unused]] float converted[kBlock];
  for (size_t at = 0; at < length; at += kBlock) {
    const size_t count = std::min(kBlock, length - at);
    const auto* values = [&] {
      if constexpr (std::is_same_v<T, Float16>) {
        load<Isa>(grad + at, converted, count);
        return static_cast<const float*>(converted);
      } else {
        return grad + at;
      }
    }();
    // Finite squares of float64 may overflow, those of the others do not.
    const auto check = [&]([[maybe_unused]] size_t i, [[maybe_unused]] size_t lane) {
      if constexpr (std::is_same_v<T, double>) invalid[lane] += values[i] - values[i];
    };
    size_t i = 0;
    for (; i + kNormLanes <= count; i += kNormLanes) {
      for (size_t lane = 0; lane < half; ++lane) add_square<Isa>(low[lane], values[i + lane]);
      for (size_t lane = 0; lane < half; ++lane) add_square<Isa>(high[lane], values[i + half + lane]);
      for (size_t lane = 0; lane < kNormLanes; ++lane) check(i + lane, lane);
    }
    for (size_t lane = 0; i < count; ++i, ++lane) {
      add_square<Isa>(lane < half ? low[lane] : high[lane - half], values[i]);
      check(i, lane);
    }
  }
  double lanes[kNormLanes];
  std::copy(low, low + half, lanes);
  std::copy(high, high + half, lanes + half);
  const double sum = sum_lanes(lanes);
  const double zero = std::is_same_v<T, double> ? sum_lanes(invalid) : sum - sum;
  if (zero != 0) *finite = false;
  return sum;
}
static_assert(kBlock % kNormLanes == 0 && kNormBlock % kBlock == 0);

/// into = into + scale * grad.
template <class Isa, typename Into, typename Grad>
ADAMW_INLINE void accumulate(Into* __restrict into, const Grad* __restrict grad, size_t length, double scale) {
  using T = Arithmetic<Into>;
  const T factor = static_cast<T>(scale);
  if constexpr (std::is_same_v<Into, T> && std::is_same_v<Grad, T>) {
    for (size_t i = 0; i < length; ++i) into[i] = accumulated(into[i], grad[i], factor);
  } else {
    alignas(64) float sums[kBlock], grads[kBlock];
    for (size_t at = 0; at < length; at += kBlock) {
      const size_t count = std::min(kBlock, length - at);
      load<Isa>(into + at, sums, count);
      load<Isa>(grad + at, grads, count);
      for (size_t i = 0; i < count; ++i) sums[i] = accumulated(sums[i], grads[i], factor);
      store<Isa>(sums, into + at, count);
    }
  }
}

}  // namespace fused_adamw::cpu
