// The loops over gradients outside of a step, inlined into each instruction-set variant as those of loop.h.
#pragma once

#include "../../core/gradient-norm.h"
#include "loop.h"

namespace fused_adamw::cpu {

/// The sum of the squares of at most kNormBlock elements (gradient-norm.h). Sets `finite` to false for an element that
/// is infinite or NaN.
template <class Isa, typename T>
ADAMW_INLINE double sum_of_squares(const T* grad, size_t length, bool* finite) {
  double lanes[kNormLanes] = {};
  double invalid[kNormLanes] = {};  // NaN where an element is not finite
  alignas(64) float converted[kBlock];
  for (size_t at = 0; at < length; at += kBlock) {
    const size_t count = std::min(kBlock, length - at);
    const auto* values = [&] {
      if constexpr (std::is_same_v<T, float> || std::is_same_v<T, double>) {
        return grad + at;
      } else {
        load<Isa>(grad + at, converted, count);
        return static_cast<const float*>(converted);
      }
    }();
    const auto add = [&](size_t i, size_t lane) {
      const double value = values[i];
      lanes[lane] += value * value;
      // Finite squares of float64 may overflow, those of the others do not.
      if constexpr (std::is_same_v<T, double>) invalid[lane] += value - value;
    };
    size_t i = 0;
    for (; i + kNormLanes <= count; i += kNormLanes)
      for (size_t lane = 0; lane < kNormLanes; ++lane) add(i + lane, lane);
    for (size_t lane = 0; i < count; ++i, ++lane) add(i, lane);
  }
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
    for (size_t i = 0; i < length; ++i) into[i] = into[i] + factor * grad[i];
  } else {
    alignas(64) float sums[kBlock], grads[kBlock];
    for (size_t at = 0; at < length; at += kBlock) {
      const size_t count = std::min(kBlock, length - at);
      load<Isa>(into + at, sums, count);
      load<Isa>(grad + at, grads, count);
      for (size_t i = 0; i < count; ++i) sums[i] = sums[i] + factor * grads[i];
      store<Isa>(sums, into + at, count);
    }
  }
}

}  // namespace fused_adamw::cpu
