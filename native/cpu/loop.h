// The one loop of the step, inlined into each instruction-set variant.
//
// `Isa` converts arrays of half precision; everything else is plain C++ that
// the compiler vectorises for the target of the function it is inlined into.
#pragma once

#include <algorithm>
#include <type_traits>

#include "../adamw.h"
#include "../stochastic.h"
#include "kernels.h"

namespace fused_adamw::cpu {

template <Rule rule, typename T>
ADAMW_INLINE void update_array(T* __restrict w, const T* __restrict g, T* __restrict m, T* __restrict v, size_t length,
                               const Scalars<T>& scalars) {
  const Scalars<T> s = scalars;
  for (size_t i = 0; i < length; ++i) adamw<rule>(w[i], g[i], m[i], v[i], s);
}

template <class Isa>
ADAMW_INLINE void load(const float* from, float* to, size_t length) {
  std::memcpy(to, from, length * sizeof(float));
}
template <class Isa>
ADAMW_INLINE void load(const Float16* from, float* to, size_t length) {
  Isa::from_float16(from, to, length);
}
template <class Isa>
ADAMW_INLINE void load(const BFloat16* from, float* to, size_t length) {
  for (size_t i = 0; i < length; ++i) to[i] = to_float(from[i]);
}

template <class Isa>
ADAMW_INLINE void store(const float* from, float* to, size_t length) {
  std::memcpy(to, from, length * sizeof(float));
}
template <class Isa>
ADAMW_INLINE void store(const float* from, Float16* to, size_t length) {
  Isa::to_float16(from, to, length);
}
template <class Isa>
ADAMW_INLINE void store(const float* from, BFloat16* to, size_t length) {
  for (size_t i = 0; i < length; ++i) to[i] = to_bfloat16(from[i]);
}

template <class Isa, typename S>
ADAMW_INLINE void store_variance(const float* from, S* to, size_t length, const Span& span, size_t offset) {
  if constexpr (std::is_same_v<S, BFloat16>) {
    const uint64_t first = span.first + offset;  // a block never crosses a multiple of 2^32
    const RandomKey key = random_key(span.key, span.count, static_cast<uint32_t>(first >> 32));
    const uint32_t low = static_cast<uint32_t>(first);
    for (size_t i = 0; i < length; ++i)
      to[i] = to_bfloat16_stochastic(from[i], random_bits(key, low + static_cast<uint32_t>(i)));
  } else {
    store<Isa>(from, to, length);
  }
}

/// W: dtype of weight and gradient; S: of mean and variance.
template <class Isa, Rule rule, typename W, typename S, bool has_master>
ADAMW_INLINE void update_span(const Span& span, const GroupScalars& group) {
  W* weight = static_cast<W*>(span.weight);
  const W* grad = static_cast<const W*>(span.grad);
  S* mean = static_cast<S*>(span.mean);
  S* variance = static_cast<S*>(span.variance);
  if constexpr (std::is_same_v<W, double>) {
    update_array<rule>(weight, grad, mean, variance, span.length, group.wide);
  } else if constexpr (std::is_same_v<W, float>) {
    update_array<rule>(weight, grad, mean, variance, span.length, group.single);
  } else {
    alignas(64) float w[kBlock], g[kBlock], m[kBlock], v[kBlock];
    for (size_t at = 0; at < span.length; at += kBlock) {
      const size_t length = std::min(kBlock, span.length - at);
      if constexpr (has_master)
        load<Isa>(span.master + at, w, length);
      else
        load<Isa>(weight + at, w, length);
      load<Isa>(grad + at, g, length);
      load<Isa>(mean + at, m, length);
      load<Isa>(variance + at, v, length);
      update_array<rule>(w, g, m, v, length, group.single);
      if constexpr (has_master) store<Isa>(w, span.master + at, length);
      store<Isa>(w, weight + at, length);
      store<Isa>(m, mean + at, length);
      store_variance<Isa>(v, variance + at, length, span, at);
    }
  }
}

template <class Isa, Rule rule, Layout layout>
ADAMW_INLINE void update_layout(const Span& span, const GroupScalars& group) {
  using L = Layout;
  if constexpr (layout == L::float32) update_span<Isa, rule, float, float, false>(span, group);
  if constexpr (layout == L::float64) update_span<Isa, rule, double, double, false>(span, group);
  if constexpr (layout == L::float16) update_span<Isa, rule, Float16, Float16, false>(span, group);
  if constexpr (layout == L::float16_float32_states) update_span<Isa, rule, Float16, float, false>(span, group);
  if constexpr (layout == L::float16_master) update_span<Isa, rule, Float16, float, true>(span, group);
  if constexpr (layout == L::bfloat16) update_span<Isa, rule, BFloat16, BFloat16, false>(span, group);
  if constexpr (layout == L::bfloat16_float32_states) update_span<Isa, rule, BFloat16, float, false>(span, group);
  if constexpr (layout == L::bfloat16_master) update_span<Isa, rule, BFloat16, float, true>(span, group);
}

}  // namespace fused_adamw::cpu
