// The one loop of the step, inlined into each instruction-set variant.
//
// `Isa` converts float16 arrays; everything else is plain C++ that the compiler
// vectorises for the target of the function that it is inlined into.
#pragma once

#include <algorithm>
#include <type_traits>

#include "../../core/adamw.h"
#include "../../core/stochastic-rounding.h"
#include "kernels.h"

namespace fused_adamw::cpu {

constexpr size_t kCacheLine = 64;               // bytes
constexpr size_t kBytesAhead = 6 * kCacheLine;  // how far ahead arrays are prefetched
constexpr size_t kAlignFrom = 512;              // elements
constexpr size_t kFetchFrom = 16 * 1024;        // elements: more than the nearest cache holds

// Clang forgets __restrict where a loop is inlined: it would compare the arrays' addresses before each run, or not
// vectorise the loop at all.
#if defined(__clang__)
#define ADAMW_APART _Pragma("clang loop vectorize(assume_safety)")
#define ADAMW_APART_TWO_VECTORS _Pragma("clang loop vectorize(assume_safety) interleave_count(2)")
#else
#define ADAMW_APART
#define ADAMW_APART_TWO_VECTORS
#endif

/// The array of a role, of the configuration's type.
template <DTypeConfig config, Role role>
ADAMW_INLINE auto* array_of(const Span& span) {
  return static_cast<RoleType<config, role>*>(span.arrays[role]);
}

/// Elements up to the next beginning of a cache line.
template <typename T>
ADAMW_INLINE size_t to_next_line(const T* from) {
  constexpr size_t line = kCacheLine / sizeof(T);
  return (line - reinterpret_cast<uintptr_t>(from) / sizeof(T) % line) % line;
}

/// Reads all before it writes, so that compilers that do not know the arrays to be apart keep values in registers.
template <Rule rule, bool amsgrad, typename T>
ADAMW_INLINE void update_element(T* w, const T* g, T* m, T* v, T* x, size_t i, const Scalars<T>& s) {
  T weight = w[i], mean = m[i], variance = v[i], maximum{};
  if constexpr (amsgrad) maximum = x[i];
  adamw<rule, amsgrad>(weight, g[i], mean, variance, maximum, s);
  w[i] = weight;
  m[i] = mean;
  v[i] = variance;
  if constexpr (amsgrad) x[i] = maximum;
}

/// Vectors that cross a cache line cost twice, so long arrays start with the
/// elements up to the end of the weights' first line. Divisions and square roots
/// keep the processor from running as far ahead as in a plain stream, so arrays
/// that come from memory are prefetched (docs/performance.md).
///
/// @param x the greatest variances with AMSGrad, else null
template <Rule rule, bool amsgrad, typename T>
ADAMW_INLINE void update_array(T* __restrict w, const T* __restrict g, T* __restrict m, T* __restrict v,
                               T* __restrict x, size_t length, const Scalars<T>& scalars) {
  const Scalars<T> s = scalars;
  size_t i = 0;
  if (length >= kAlignFrom) {
    for (const size_t first = to_next_line(w); i < first; ++i) update_element<rule, amsgrad>(w, g, m, v, x, i, s);
  }
  if (length >= kFetchFrom) {
    constexpr size_t line = kCacheLine / sizeof(T);
    constexpr size_t run = 32;  // compilers would unroll a shorter loop instead of vectorising it
    for (; i + run <= length; i += run) {
      for (size_t k = i + kBytesAhead / sizeof(T); k < i + kBytesAhead / sizeof(T) + run; k += line) {
        __builtin_prefetch(w + k);
        __builtin_prefetch(g + k);
        __builtin_prefetch(m + k);
        __builtin_prefetch(v + k);
        if constexpr (amsgrad) __builtin_prefetch(x + k);
      }
      ADAMW_APART
      for (size_t k = i; k < i + run; ++k) update_element<rule, amsgrad>(w, g, m, v, x, k, s);
    }
  }
  ADAMW_APART
  for (; i < length; ++i) update_element<rule, amsgrad>(w, g, m, v, x, i, s);
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

/// bfloat16 weights need no blocks: the conversions are integer arithmetic that
/// the compiler vectorises together with the rule, so that all values stay in
/// registers.
template <Rule rule, bool has_master>
ADAMW_INLINE void update_bfloat16(BFloat16* __restrict weight, const BFloat16* __restrict grad, float* __restrict mean,
                                  float* __restrict variance, float* __restrict master, size_t length,
                                  const Scalars<float>& scalars) {
  const Scalars<float> s = scalars;
  ADAMW_APART_TWO_VECTORS
  for (size_t i = 0; i < length; ++i) {
    float w = has_master ? master[i] : to_float(weight[i]), m = mean[i], v = variance[i];
    adamw<rule>(w, to_float(grad[i]), m, v, s);
    mean[i] = m;
    variance[i] = v;
    if constexpr (has_master) master[i] = w;
    weight[i] = to_bfloat16(w);
  }
}

/// Two adjacent elements. Of bfloat16 they are one word, the first in its lower half: each is widened
/// by one operation, whereas vectors of halves would have to be unpacked.
template <typename T>
struct Pair;

template <>
struct Pair<float> {
  float values[2];

  ADAMW_INLINE static Pair load(const float* from) { return {{from[0], from[1]}}; }
  ADAMW_INLINE float first() const { return values[0]; }
  ADAMW_INLINE float second() const { return values[1]; }
  ADAMW_INLINE static void store(float* to, float first, float second) {
    to[0] = first;
    to[1] = second;
  }
};

template <>
struct Pair<BFloat16> {
  uint32_t word;

  ADAMW_INLINE static Pair load(const BFloat16* from) {
    Pair pair;
    std::memcpy(&pair, from, sizeof pair);
    return pair;
  }
  ADAMW_INLINE float first() const { return float_of(word << 16); }
  ADAMW_INLINE float second() const { return float_of(word & 0xffff0000u); }
  ADAMW_INLINE static void store(BFloat16* to, float first, float second) {
    store_halves(to, round_to_upper_half(first), round_to_upper_half(second));
  }
  ADAMW_INLINE static void store_stochastic(BFloat16* to, float first, float second, RandomPair random) {
    store_halves(to, round_to_upper_half_stochastic(first, random.first),
                 round_to_upper_half_stochastic(second, random.second));
  }

 private:
  /// Of two values in the upper halves of words.
  ADAMW_INLINE static void store_halves(BFloat16* to, uint32_t first, uint32_t second) {
    const Pair pair{first >> 16 | (second & 0xffff0000u)};
    std::memcpy(to, &pair, sizeof pair);
  }
};
static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__);

/// float32 or bfloat16 weights with bfloat16 states, pair by pair. `index` is the lower half of
/// the first element's index: even, because the elements of a pair share a random word.
template <Rule rule, bool stochastic_weights, typename T>
ADAMW_INLINE void update_pairs(T* __restrict weight, const T* __restrict grad, BFloat16* __restrict mean,
                               BFloat16* __restrict variance, size_t pairs, const Scalars<float>& s, RandomKey key,
                               uint32_t index) {
  uint32_t counter = random_counter(key, index / 2), counter_of_weight = random_counter(key_of_weights(key), index / 2);
  ADAMW_APART
  for (size_t i = 0; i < pairs; ++i, counter += kCounterStep, counter_of_weight += kCounterStep) {
    const auto w = Pair<T>::load(weight + 2 * i), g = Pair<T>::load(grad + 2 * i);
    const auto m = Pair<BFloat16>::load(mean + 2 * i), v = Pair<BFloat16>::load(variance + 2 * i);
    float w0 = w.first(), w1 = w.second(), m0 = m.first(), m1 = m.second(), v0 = v.first(), v1 = v.second();
    adamw<rule>(w0, g.first(), m0, v0, s);
    adamw<rule>(w1, g.second(), m1, v1, s);
    if constexpr (stochastic_weights)
      Pair<T>::store_stochastic(weight + 2 * i, w0, w1, random_pair(key_of_weights(key), counter_of_weight));
    else
      Pair<T>::store(weight + 2 * i, w0, w1);
    Pair<BFloat16>::store(mean + 2 * i, m0, m1);
    Pair<BFloat16>::store_stochastic(variance + 2 * i, v0, v1, random_pair(key, counter));
  }
}

template <Rule rule, bool stochastic_weights, typename T>
ADAMW_INLINE void update_bfloat16_states(T* __restrict weight, const T* __restrict grad, BFloat16* __restrict mean,
                                         BFloat16* __restrict variance, size_t length, const Scalars<float>& scalars,
                                         RandomKey key, uint32_t index) {
  Scalars<float> s = scalars;
  if (s.rescale == 1 && s.clip == INFINITY && s.lr == 1) {
    // Most steps. The loop is bound by arithmetic, and the compiler drops the operations that these constants void.
    s.rescale = 1;
    s.clip = INFINITY;
    s.lr = 1;
    update_pairs<rule, stochastic_weights>(weight, grad, mean, variance, length / 2, s, key, index);
  } else {
    update_pairs<rule, stochastic_weights>(weight, grad, mean, variance, length / 2, s, key, index);
  }
  if (length % 2 == 0) return;
  const size_t i = length - 1;  // the first of a pair that has no second
  T w[2] = {weight[i]}, g[2] = {grad[i]};
  BFloat16 m[2] = {mean[i]}, v[2] = {variance[i]};
  update_pairs<rule, stochastic_weights>(w, g, m, v, 1, s, key, index + static_cast<uint32_t>(i));
  weight[i] = w[0];
  mean[i] = m[0];
  variance[i] = v[0];
}

/// Stores a block of a tensor's weights. `index` is the lower half of the first element's index.
template <class Isa>
ADAMW_INLINE void store_stochastic(const float* from, BFloat16* to, size_t length, RandomKey key, uint32_t index) {
  for (size_t i = 0; i < length; ++i)
    to[i] = to_bfloat16_stochastic(from[i], random_bits(key, index + static_cast<uint32_t>(i)));
}

/// The values of an array in float32: the array itself, or `copy`.
template <class Isa>
ADAMW_INLINE float* in_float32(float* from, float*, size_t) {
  return from;
}
template <class Isa, typename T>
ADAMW_INLINE float* in_float32(const T* from, float* copy, size_t length) {
  load<Isa>(from, copy, length);
  return copy;
}

/// Weights or gradients of other dtypes with float32 states: the loop of float32, a block at a time. It is called
/// rather than inlined, since these rows are many and would be a tenth of the binary.
///
/// @param float32 the kernel of float32, with AMSGrad where the configuration has it
template <class Isa, DTypeConfig config>
ADAMW_INLINE void update_as_float32(const Span& span, const GroupScalars& group, Kernel float32) {
  constexpr Role source = kHasRole<config, Role::master> ? Role::master : Role::weight;  // of the weights' values
  static_assert(std::is_same_v<RoleType<config, Role::mean>, float> &&
                std::is_same_v<RoleType<config, Role::variance>, float>);
  auto* weight = array_of<config, Role::weight>(span);
  auto* values = array_of<config, source>(span);
  alignas(64) float w[kBlock], g[kBlock];
  Span block = span;
  for (size_t at = 0; at < span.length; at += kBlock) {
    block.length = std::min(kBlock, span.length - at);
    float* const updated = in_float32<Isa>(values + at, w, block.length);
    block.arrays[Role::weight] = updated;
    block.arrays[Role::grad] = in_float32<Isa>(array_of<config, Role::grad>(span) + at, g, block.length);
    block.arrays[Role::mean] = array_of<config, Role::mean>(span) + at;
    block.arrays[Role::variance] = array_of<config, Role::variance>(span) + at;
    if constexpr (kHasRole<config, Role::maximum>)
      block.arrays[Role::maximum] = array_of<config, Role::maximum>(span) + at;
    float32(block, group);
    using Weight = RoleType<config, Role::weight>;
    if constexpr (std::is_same_v<Weight, BFloat16> && source == Role::weight) {
      if (group.stochastic_weights) {
        const uint64_t first = span.first + at;  // a multiple of kBlock, so that no block crosses one of 2^32
        const RandomKey key = random_key(span.key, span.count, static_cast<uint32_t>(first >> 32));
        store_stochastic<Isa>(updated, weight + at, block.length, key_of_weights(key), static_cast<uint32_t>(first));
        continue;
      }
    }
    if constexpr (!std::is_same_v<Weight, float>) store<Isa>(updated, weight + at, block.length);
  }
}

/// Converts to float32 arrays a block at a time. For every combination of dtypes
/// that has no loop of its own.
template <class Isa, Rule rule, DTypeConfig config>
ADAMW_INLINE void update_blocks(const Span& span, const Scalars<float>& scalars) {
  constexpr Role source = kHasRole<config, Role::master> ? Role::master : Role::weight;  // of the weights' values
  static_assert(std::is_same_v<ArithmeticType<config>, float>);
  static_assert(!std::is_same_v<RoleType<config, Role::variance>, BFloat16>, "which are rounded stochastically");
  auto* weight = array_of<config, Role::weight>(span);
  const auto* grad = array_of<config, Role::grad>(span);
  auto* mean = array_of<config, Role::mean>(span);
  auto* variance = array_of<config, Role::variance>(span);
  auto* values = array_of<config, source>(span);
  alignas(64) float w[kBlock], g[kBlock], m[kBlock], v[kBlock];
  for (size_t at = 0; at < span.length; at += kBlock) {
    const size_t length = std::min(kBlock, span.length - at);
    load<Isa>(values + at, w, length);
    load<Isa>(grad + at, g, length);
    load<Isa>(mean + at, m, length);
    load<Isa>(variance + at, v, length);
    update_array<rule, false>(w, g, m, v, static_cast<float*>(nullptr), length, scalars);
    if constexpr (kHasRole<config, Role::master>) store<Isa>(w, values + at, length);
    store<Isa>(w, weight + at, length);
    store<Isa>(m, mean + at, length);
    store<Isa>(v, variance + at, length);
  }
}

/// @param float32 the kernel of the same rule and instruction set for float32, with AMSGrad where `config` has it
template <class Isa, Rule rule, DTypeConfig config>
ADAMW_INLINE void update_span(const Span& span, const GroupScalars& group, [[maybe_unused]] Kernel float32) {
  using Weight = RoleType<config, Role::weight>;
  using Grad = RoleType<config, Role::grad>;
  using Mean = RoleType<config, Role::mean>;
  using Variance = RoleType<config, Role::variance>;
  using T = ArithmeticType<config>;
  constexpr bool has_master = kHasRole<config, Role::master>;
  constexpr bool amsgrad = kHasRole<config, Role::maximum>;
  constexpr bool has_one_dtype =
      std::is_same_v<Weight, Grad> && std::is_same_v<Weight, Mean> && std::is_same_v<Weight, Variance> && !has_master;
  constexpr bool has_bfloat16_states = std::is_same_v<Weight, Grad> && std::is_same_v<Mean, BFloat16> &&
                                       std::is_same_v<Variance, BFloat16> && !has_master;
  [[maybe_unused]] const Scalars<T>& scalars = group.of<T>();
  [[maybe_unused]] auto* weight = array_of<config, Role::weight>(span);
  [[maybe_unused]] const auto* grad = array_of<config, Role::grad>(span);
  [[maybe_unused]] auto* mean = array_of<config, Role::mean>(span);
  [[maybe_unused]] auto* variance = array_of<config, Role::variance>(span);
  if constexpr (has_one_dtype && std::is_same_v<Weight, T>) {
    T* maximum = nullptr;
    if constexpr (amsgrad) maximum = array_of<config, Role::maximum>(span);
    update_array<rule, amsgrad>(weight, grad, mean, variance, maximum, span.length, scalars);
  } else if constexpr (amsgrad || !std::is_same_v<Weight, Grad>) {
    update_as_float32<Isa, config>(span, group, float32);
  } else if constexpr (has_bfloat16_states) {
    for (size_t at = 0; at < span.length;) {
      const uint64_t first = span.first + at;
      // Up to where the upper half of the element's index changes, which is part of the key.
      size_t length = std::min<uint64_t>(span.length - at, (uint64_t{1} << 32) - static_cast<uint32_t>(first));
      // Even, whatever the address: the elements of a pair share a random word.
      const size_t to_line = to_next_line(weight + at) / 2 * 2;
      if (length >= kAlignFrom && to_line > 0) length = to_line;
      const RandomKey key = random_key(span.key, span.count, static_cast<uint32_t>(first >> 32));
      const auto index = static_cast<uint32_t>(first);
      if (std::is_same_v<Weight, BFloat16> && group.stochastic_weights) {
        if constexpr (std::is_same_v<Weight, BFloat16>)
          update_bfloat16_states<rule, true>(weight + at, grad + at, mean + at, variance + at, length, scalars, key,
                                             index);
      } else {
        update_bfloat16_states<rule, false>(weight + at, grad + at, mean + at, variance + at, length, scalars, key,
                                            index);
      }
      at += length;
    }
  } else if constexpr (std::is_same_v<Weight, BFloat16> && std::is_same_v<Grad, BFloat16> &&
                       std::is_same_v<Mean, float> && std::is_same_v<Variance, float>) {
    float* master = nullptr;
    if constexpr (has_master)
      master = array_of<config, Role::master>(span);
    else if (group.stochastic_weights)
      return update_as_float32<Isa, config>(span, group, float32);
    update_bfloat16<rule, has_master>(weight, grad, mean, variance, master, span.length, scalars);
  } else {
    update_blocks<Isa, rule, config>(span, scalars);
  }
}

}  // namespace fused_adamw::cpu
