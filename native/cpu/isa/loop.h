// The one loop of the step, inlined into each instruction-set variant.
//
// `Isa` converts arrays of half precision; everything else is plain C++ that
// the compiler vectorises for the target of the function it is inlined into.
#pragma once

#include <algorithm>
#include <type_traits>

#include "../../core/adamw.h"
#include "../../core/stochastic-rounding.h"
#include "kernels.h"

namespace fused_adamw::cpu {

constexpr size_t kCacheLine = 64;               // bytes
constexpr size_t kBytesAhead = 6 * kCacheLine;  // that arrays from memory are fetched ahead
constexpr size_t kAlignFrom = 512;              // elements
constexpr size_t kFetchFrom = 16 * 1024;        // elements, as many as are no longer in a near cache

/// Elements from here to the next beginning of a cache line.
template <typename T>
ADAMW_INLINE size_t to_next_line(const T* from) {
  constexpr size_t line = kCacheLine / sizeof(T);
  return (line - reinterpret_cast<uintptr_t>(from) / sizeof(T) % line) % line;
}

/// Vectors that lie across two cache lines cost twice, so long arrays begin
/// with what is left of the weights' first line. And quotients and roots keep
/// the processor from running as far ahead as it does in a plain stream, so
/// what comes from memory is fetched early (docs/performance.md).
template <Rule rule, typename T>
ADAMW_INLINE void update_array(T* __restrict w, const T* __restrict g, T* __restrict m, T* __restrict v, size_t length,
                               const Scalars<T>& scalars) {
  const Scalars<T> s = scalars;
  size_t i = 0;
  if (length >= kAlignFrom) {
    for (const size_t first = to_next_line(w); i < first; ++i) adamw<rule>(w[i], g[i], m[i], v[i], s);
  }
  if (length >= kFetchFrom) {
    constexpr size_t line = kCacheLine / sizeof(T);
    constexpr size_t run = 32;  // compilers unroll shorter loops before they could vectorise them
    for (; i + run <= length; i += run) {
      for (size_t k = i + kBytesAhead / sizeof(T); k < i + kBytesAhead / sizeof(T) + run; k += line) {
        __builtin_prefetch(w + k);
        __builtin_prefetch(g + k);
        __builtin_prefetch(m + k);
        __builtin_prefetch(v + k);
      }
      for (size_t k = i; k < i + run; ++k) adamw<rule>(w[k], g[k], m[k], v[k], s);
    }
  }
  for (; i < length; ++i) adamw<rule>(w[i], g[i], m[i], v[i], s);
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

/// bfloat16 weights without blocks: the conversions are integer arithmetic that
/// the compiler vectorises together with the rule, so that everything stays in
/// registers.
template <Rule rule, bool has_master>
ADAMW_INLINE void update_bfloat16(BFloat16* __restrict weight, const BFloat16* __restrict grad, float* __restrict mean,
                                  float* __restrict variance, float* __restrict master, size_t length,
                                  const Scalars<float>& scalars) {
  const Scalars<float> s = scalars;
  for (size_t i = 0; i < length; ++i) {
    float w = has_master ? master[i] : to_float(weight[i]);
    adamw<rule>(w, to_float(grad[i]), mean[i], variance[i], s);
    if constexpr (has_master) master[i] = w;
    weight[i] = to_bfloat16(w);
  }
}

/// Two bfloat16 of memory as one word, the first in its lower half: widening
/// them is one operation each, where vectors of halves would be taken apart.
struct Pair {
  uint32_t word;

  ADAMW_INLINE static Pair load(const BFloat16* from) {
    Pair pair;
    std::memcpy(&pair, from, sizeof pair);
    return pair;
  }
  ADAMW_INLINE float first() const { return float_of(word << 16); }
  ADAMW_INLINE float second() const { return float_of(word & 0xffff0000u); }
  /// Of two values in upper halves.
  ADAMW_INLINE static void store(BFloat16* to, uint32_t first, uint32_t second) {
    const Pair pair{first >> 16 | (second & 0xffff0000u)};
    std::memcpy(to, &pair, sizeof pair);
  }
};
static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__);

/// bfloat16 weights and states, pair by pair; `number` is the lower half of the
/// first element's.
template <Rule rule>
ADAMW_INLINE void update_pairs(BFloat16* __restrict weight, const BFloat16* __restrict grad, BFloat16* __restrict mean,
                               BFloat16* __restrict variance, size_t pairs, const Scalars<float>& s, RandomKey key,
                               uint32_t number) {
  for (size_t i = 0; i < pairs; ++i, number += 2) {
    const Pair w = Pair::load(weight + 2 * i), g = Pair::load(grad + 2 * i);
    const Pair m = Pair::load(mean + 2 * i), v = Pair::load(variance + 2 * i);
    float w0 = w.first(), w1 = w.second(), m0 = m.first(), m1 = m.second(), v0 = v.first(), v1 = v.second();
    adamw<rule>(w0, g.first(), m0, v0, s);
    adamw<rule>(w1, g.second(), m1, v1, s);
    Pair::store(weight + 2 * i, round_to_upper_half(w0), round_to_upper_half(w1));
    Pair::store(mean + 2 * i, round_to_upper_half(m0), round_to_upper_half(m1));
    Pair::store(variance + 2 * i, round_to_upper_half_stochastic(v0, random_half(key, number)),
                round_to_upper_half_stochastic(v1, random_half(key, number + 1)));
  }
}

template <Rule rule>
ADAMW_INLINE void update_bfloat16_states(BFloat16* __restrict weight, const BFloat16* __restrict grad,
                                         BFloat16* __restrict mean, BFloat16* __restrict variance, size_t length,
                                         const Scalars<float>& scalars, RandomKey key, uint32_t number) {
  Scalars<float> s = scalars;
  if (s.rescale == 1 && s.clip == INFINITY && s.lr == 1) {
    // Most steps, and this loop is bound by arithmetic: what these do not change is left out of it.
    s.rescale = 1;
    s.clip = INFINITY;
    s.lr = 1;
    update_pairs<rule>(weight, grad, mean, variance, length / 2, s, key, number);
  } else {
    update_pairs<rule>(weight, grad, mean, variance, length / 2, s, key, number);
  }
  if (length % 2 == 0) return;
  const size_t i = length - 1;
  float w = to_float(weight[i]), m = to_float(mean[i]), v = to_float(variance[i]);
  adamw<rule>(w, to_float(grad[i]), m, v, s);
  weight[i] = to_bfloat16(w);
  mean[i] = to_bfloat16(m);
  variance[i] = to_bfloat16_stochastic(v, random_bits(key, number + static_cast<uint32_t>(i)));
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
  } else if constexpr (std::is_same_v<S, BFloat16>) {
    for (size_t at = 0; at < span.length;) {
      const uint64_t first = span.first + at;
      // Up to where the upper half of an element's number changes, which belongs to the key.
      size_t length = std::min<uint64_t>(span.length - at, (uint64_t{1} << 32) - static_cast<uint32_t>(first));
      if (length >= kAlignFrom && to_next_line(weight + at) > 0) length = to_next_line(weight + at);
      const RandomKey key = random_key(span.key, span.count, static_cast<uint32_t>(first >> 32));
      update_bfloat16_states<rule>(weight + at, grad + at, mean + at, variance + at, length, group.single, key,
                                   static_cast<uint32_t>(first));
      at += length;
    }
  } else if constexpr (std::is_same_v<W, BFloat16>) {
    update_bfloat16<rule, has_master>(weight, grad, mean, variance, span.master, span.length, group.single);
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
      store<Isa>(v, variance + at, length);
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
