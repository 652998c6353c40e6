// What the native tests share: random numbers, guarded arrays of every layout,
// comparison by bits, and the rule evaluated one element at a time.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <string>
#include <type_traits>
#include <vector>

#include "core/adamw.h"
#include "core/dtypes.h"
#include "core/stochastic-rounding.h"
#include "cpu/isa/kernels.h"

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#else
#define ASAN_POISON_MEMORY_REGION(address, size) static_cast<void>(0)
#define ASAN_UNPOISON_MEMORY_REGION(address, size) static_cast<void>(0)
#endif

namespace fused_adamw::testing {

inline constexpr Rule kEveryRule[] = {Rule::mxnet, Rule::coupled, Rule::pytorch};
inline constexpr const char* kRuleNames[kRules] = {"mxnet", "coupled", "pytorch"};

/// SplitMix64 (Vigna, public domain): the same numbers on every platform.
class Random {
 public:
  explicit Random(uint64_t seed) : state_(seed) {}
  uint64_t next() {
    uint64_t z = state_ += 0x9e3779b97f4a7c15u;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
  }
  /// A whole number below `end`.
  size_t below(size_t end) { return next() % end; }
  template <typename List>
  auto one_of(const List& list) {
    return list[below(std::size(list))];
  }

 private:
  uint64_t state_;
};

/// Values of every kind: mostly ordinary ones, one in sixteen special.
inline double random_value(Random& random) {
  constexpr double infinity = std::numeric_limits<double>::infinity();
  constexpr double nan = std::numeric_limits<double>::quiet_NaN();
  constexpr double special[] = {0,       -0.0,    1,       -1,        infinity, -infinity, nan,    0x1p-149,
                                0x1p-24, 0x1p-14, 0x1p-15, -0x1p-130, 0x1p-126, 65504,     3.4e38, -3.4e38};
  const uint64_t bits = random.next();
  if (bits % 16 == 0) return special[bits / 16 % std::size(special)];
  const double fraction = 1 + static_cast<double>(bits >> 12) * 0x1p-52;
  const double magnitude = std::ldexp(fraction, static_cast<int>(bits / 16 % 24) - 16);
  return bits & 0x400 ? -magnitude : magnitude;
}

inline double widen(float value) { return value; }
inline double widen(double value) { return value; }
inline double widen(Float16 value) { return to_float(value); }
inline double widen(BFloat16 value) { return to_float(value); }

template <typename T>
Arithmetic<T> read(T value) {
  return static_cast<Arithmetic<T>>(widen(value));
}
inline void write(double& to, double value) { to = value; }
inline void write(float& to, float value) { to = value; }
inline void write(Float16& to, float value) { to = to_float16(value); }
inline void write(BFloat16& to, float value) { to = to_bfloat16(value); }

/// Bytes of the elements' bits, without what the contract leaves open: which NaN a float or double is.
template <typename T>
bool same_bits(T a, T b) {
  if constexpr (std::is_floating_point_v<T>) {
    if (std::isnan(a) || std::isnan(b)) return std::isnan(a) && std::isnan(b);
  }
  return std::memcmp(&a, &b, sizeof a) == 0;
}

template <typename T>
::testing::AssertionResult same_elements(const T* actual, const T* expected, size_t length, const char* what) {
  if (length == 0 || std::memcmp(actual, expected, length * sizeof(T)) == 0) return ::testing::AssertionSuccess();
  for (size_t i = 0; i < length; ++i)
    if (!same_bits(actual[i], expected[i]))
      return ::testing::AssertionFailure() << what << "[" << i << "] of " << length << " is " << std::hexfloat
                                           << widen(actual[i]) << ", expected " << widen(expected[i]);
  return ::testing::AssertionSuccess();
}

/// Memory for elements of a type at a chosen distance from alignment, between
/// two guard zones. AddressSanitizer sees reads of the zones, intact() writes.
template <typename T>
class Guarded {
 public:
  explicit Guarded(size_t length = 0, size_t misalignment = 0)
      : length_(length),
        offset_(kGuard + misalignment * sizeof(T)),
        bytes_(offset_ + length * sizeof(T) + kGuard, kPattern) {
    ASAN_POISON_MEMORY_REGION(bytes_.data(), offset_);
    ASAN_POISON_MEMORY_REGION(bytes_.data() + end(), bytes_.size() - end());
  }
  Guarded(const Guarded& other)
      : length_(other.length_), offset_(other.offset_), bytes_(other.bytes_.size(), kPattern) {
    if (length_ > 0) std::memcpy(data(), other.data(), length_ * sizeof(T));
    ASAN_POISON_MEMORY_REGION(bytes_.data(), offset_);
    ASAN_POISON_MEMORY_REGION(bytes_.data() + end(), bytes_.size() - end());
  }
  Guarded& operator=(const Guarded&) = delete;
  ~Guarded() { ASAN_UNPOISON_MEMORY_REGION(bytes_.data(), bytes_.size()); }

  T* data() { return reinterpret_cast<T*>(bytes_.data() + offset_); }
  const T* data() const { return reinterpret_cast<const T*>(bytes_.data() + offset_); }
  size_t size() const { return length_; }

  /// Whether nothing was written around the elements.
  bool intact() const {
    ASAN_UNPOISON_MEMORY_REGION(bytes_.data(), bytes_.size());
    const auto is_pattern = [](unsigned char byte) { return byte == kPattern; };
    const bool result = std::all_of(bytes_.begin(), bytes_.begin() + offset_, is_pattern) &&
                        std::all_of(bytes_.begin() + end(), bytes_.end(), is_pattern);
    ASAN_POISON_MEMORY_REGION(bytes_.data(), offset_);
    ASAN_POISON_MEMORY_REGION(bytes_.data() + end(), bytes_.size() - end());
    return result;
  }

 private:
  static constexpr size_t kGuard = 128;
  static constexpr unsigned char kPattern = 0xa5;
  size_t end() const { return offset_ + length_ * sizeof(T); }

  size_t length_, offset_;
  std::vector<unsigned char> bytes_;
};

/// The arrays of one tensor. W: dtype of weight and gradient; S: of mean and variance.
template <typename W, typename S, bool has_master>
struct Arrays {
  static constexpr bool kMaster = has_master;
  using Scalar = Arithmetic<W>;

  Arrays(size_t length, Random& random)
      : weight(length, random.below(17)),
        grad(length, random.below(17)),
        mean(length, random.below(17)),
        variance(length, random.below(17)),
        master(has_master ? length : 0, random.below(17)) {
    for (size_t i = 0; i < length; ++i) {
      write(weight.data()[i], static_cast<Arithmetic<W>>(random_value(random)));
      write(grad.data()[i], static_cast<Arithmetic<W>>(random_value(random)));
      write(mean.data()[i], static_cast<Arithmetic<S>>(random_value(random)));
      const double value = random_value(random);  // a negative variance is rare
      write(variance.data()[i], static_cast<Arithmetic<S>>(random.below(64) ? std::fabs(value) : value));
      if (has_master) master.data()[i] = static_cast<float>(random_value(random));
    }
  }

  cpu::Span span(uint64_t first, uint32_t key, uint32_t count) {
    return {
        weight.data(), grad.data(), mean.data(), variance.data(), has_master ? master.data() : nullptr, weight.size(),
        first,         key,         count};
  }

  /// One step by the definition, an element at a time. `first` is the number of the first element.
  template <Rule rule>
  void evaluate(const Scalars<Arithmetic<W>>& scalars, uint64_t first, uint32_t key, uint32_t count) {
    using A = Arithmetic<W>;
    for (size_t i = 0; i < weight.size(); ++i) {
      A w = has_master ? static_cast<A>(master.data()[i]) : read(weight.data()[i]);
      A m = read(mean.data()[i]), v = read(variance.data()[i]);
      adamw<rule, A>(w, read(grad.data()[i]), m, v, scalars);
      if (has_master) master.data()[i] = static_cast<float>(w);
      write(weight.data()[i], w);
      write(mean.data()[i], m);
      if constexpr (std::is_same_v<S, BFloat16>) {
        const uint64_t element = first + i;
        const RandomKey random = random_key(key, count, static_cast<uint32_t>(element >> 32));
        variance.data()[i] = to_bfloat16_stochastic(v, random_bits(random, static_cast<uint32_t>(element)));
      } else {
        write(variance.data()[i], v);
      }
    }
  }
  void evaluate(Rule rule, const cpu::GroupScalars& group, uint64_t first, uint32_t key) {
    const auto& scalars = [&]() -> const Scalars<Arithmetic<W>>& {
      if constexpr (std::is_same_v<W, double>)
        return group.wide;
      else
        return group.single;
    }();
    if (rule == Rule::mxnet) evaluate<Rule::mxnet>(scalars, first, key, group.count);
    if (rule == Rule::coupled) evaluate<Rule::coupled>(scalars, first, key, group.count);
    if (rule == Rule::pytorch) evaluate<Rule::pytorch>(scalars, first, key, group.count);
  }

  ::testing::AssertionResult equals(const Arrays& expected) const {
    const size_t length = weight.size();
    for (const auto& result : {same_elements(weight.data(), expected.weight.data(), length, "weight"),
                               same_elements(grad.data(), expected.grad.data(), length, "grad"),
                               same_elements(mean.data(), expected.mean.data(), length, "mean"),
                               same_elements(variance.data(), expected.variance.data(), length, "variance"),
                               same_elements(master.data(), expected.master.data(), master.size(), "master")})
      if (!result) return result;
    for (bool intact : {weight.intact(), grad.intact(), mean.intact(), variance.intact(), master.intact()})
      if (!intact) return ::testing::AssertionFailure() << "a write outside the arrays";
    return ::testing::AssertionSuccess();
  }

  Guarded<W> weight, grad;
  Guarded<S> mean, variance;
  Guarded<float> master;
};

/// Calls visit(Arrays<...>*) with the type of a layout.
template <typename Visit>
auto with_layout(Layout layout, Visit visit) {
  switch (layout) {
    case Layout::float32:
      return visit(static_cast<Arrays<float, float, false>*>(nullptr));
    case Layout::float64:
      return visit(static_cast<Arrays<double, double, false>*>(nullptr));
    case Layout::float16:
      return visit(static_cast<Arrays<Float16, Float16, false>*>(nullptr));
    case Layout::float16_float32_states:
      return visit(static_cast<Arrays<Float16, float, false>*>(nullptr));
    case Layout::float16_master:
      return visit(static_cast<Arrays<Float16, float, true>*>(nullptr));
    case Layout::bfloat16:
      return visit(static_cast<Arrays<BFloat16, BFloat16, false>*>(nullptr));
    case Layout::bfloat16_float32_states:
      return visit(static_cast<Arrays<BFloat16, float, false>*>(nullptr));
    default:
      return visit(static_cast<Arrays<BFloat16, float, true>*>(nullptr));
  }
}

/// The scalars of a step of ordinary size; now and then without clipping, decay or mean.
inline StepOptions random_options(Random& random) {
  constexpr double rescales[] = {1, 1.0 / 3, 128, 1e-30}, clips[] = {INFINITY, INFINITY, 0.5, 1e-3};
  constexpr double beta1s[] = {0.9, 0.9, 0, 0.5}, beta2s[] = {0.999, 0.999, 0, 0.95};
  return {random.one_of(rescales), random.one_of(clips), random.one_of(beta1s), random.one_of(beta2s)};
}
inline Group random_group(Random& random) {
  constexpr double etas[] = {1e-3, 0.0123, 0, 3e4}, decays[] = {0, 0.01, 0.3}, epsilons[] = {1e-8, 1e-6, 0};
  return {random.one_of(etas),     random.one_of(etas),          random.one_of(decays),
          random.one_of(epsilons), random.below(2) ? 1 : 0.0316, static_cast<double>(random.below(1000))};
}
inline cpu::GroupScalars scalars_of(const StepOptions& options, const Group& group) {
  return {round_scalars<float>(options, group), round_scalars<double>(options, group),
          static_cast<uint32_t>(group.count)};
}

}  // namespace fused_adamw::testing
