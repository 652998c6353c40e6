// What the native tests share: random numbers, guarded arrays of every dtype configuration,
// comparison by bits, and the rule evaluated one element at a time.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <string>
#include <tuple>
#include <type_traits>
#include <vector>

#include "core/adamw.h"
#include "core/dtype-configs.h"
#include "core/stochastic-rounding.h"
#include "cpu/isa/kernels.h"

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#else
#define ASAN_POISON_MEMORY_REGION(address, size) static_cast<void>(0)
#define ASAN_UNPOISON_MEMORY_REGION(address, size) static_cast<void>(0)
#endif

namespace fused_adamw::testing {

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

/// Whether two elements have the same bits, except that any NaN of float or double equals any other, which the contract
/// leaves open.
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

/// How many elements an array has, and how many lie between it and an aligned address.
struct Size {
  size_t length, misalignment;
};

/// Memory for elements of a type at a chosen distance from alignment, between
/// two guard zones. AddressSanitizer sees reads of the zones, intact() writes.
template <typename T>
class Guarded {
 public:
  explicit Guarded(size_t length = 0, size_t misalignment = 0) : Guarded(Size{length, misalignment}) {}
  Guarded(const Size& size)
      : length_(size.length),
        offset_(kGuard + size.misalignment * sizeof(T)),
        bytes_(offset_ + size.length * sizeof(T) + kGuard, kPattern) {
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

/// Calls visit(std::integral_constant<Role, role>) for every role.
template <typename Visit>
void for_each_role(const Visit& visit) {
#define ROLE(name, access) visit(std::integral_constant<Role, Role::name>{});
#include "core/roles.def"
}

/// One object for each role, Each<T> for an array of T; arrays that the configuration does not have are of None.
template <DTypeConfig config, template <typename> class Each>
struct RoleTuple {
  template <typename... Types>
  static std::tuple<Each<Types>...> make(const std::tuple<Types...>*);
  using type = decltype(make(static_cast<const typename RoleTypes<config>::Types*>(nullptr)));
};

/// The arrays of one tensor.
template <DTypeConfig config>
class Arrays {
 public:
  static constexpr DTypeConfig kConfig = config;
  using Scalar = ArithmeticType<config>;
  static constexpr bool kHasMaster = kHasRole<config, Role::master>;

  Arrays(size_t length, Random& random) : Arrays(length, random, std::make_index_sequence<kRoles>{}) {
    for_each_role([&](auto role) {
      if constexpr (kHasRole<config, role.value>) {
        for (size_t i = 0; i < length; ++i) {
          double value = random_value(random);
          if (role == Role::variance && random.below(64)) value = std::fabs(value);  // a negative variance is rare
          write(data<role>()[i], static_cast<Arithmetic<RoleType<config, role.value>>>(value));
        }
      }
    });
    if (random.below(4) != 0) return;
    // Elements that have not seen any gradient yet, as rows of an embedding.
    const size_t begin = random.below(length + 1), end = begin + random.below(length - begin + 1);
    for (size_t i = begin; i < end; ++i) {
      const double zero = random.below(2) ? -0.0 : 0.0;
      write(data<Role::grad>()[i], static_cast<Arithmetic<RoleType<config, Role::grad>>>(zero));
      write(data<Role::mean>()[i], static_cast<Arithmetic<RoleType<config, Role::mean>>>(zero));
      write(data<Role::variance>()[i], static_cast<Arithmetic<RoleType<config, Role::variance>>>(0));
    }
  }

  template <Role role>
  auto& array() {
    return std::get<static_cast<int>(role)>(arrays_);
  }
  template <Role role>
  const auto& array() const {
    return std::get<static_cast<int>(role)>(arrays_);
  }
  template <Role role>
  auto* data() {
    return array<role>().data();
  }
  size_t length() const { return array<Role::weight>().size(); }

  /// The addresses by role.
  ByRole<void*> addresses() {
    ByRole<void*> addresses{};
    for_each_role([&](auto role) {
      if constexpr (kHasRole<config, role.value>) addresses[role] = data<role>();
    });
    return addresses;
  }

  cpu::Span span(uint64_t first, uint32_t key, uint32_t count) { return {addresses(), length(), first, key, count}; }

  /// One step by the definition, an element at a time. `first` is the index of the first element.
  void evaluate(Rule rule, const cpu::GroupScalars& group, uint64_t first, uint32_t key) {
    with_rule(rule, [&](auto constant) { evaluate<constant>(group, first, key); });
  }

  ::testing::AssertionResult equals(const Arrays& expected) const {
    ::testing::AssertionResult result = ::testing::AssertionSuccess();
    for_each_role([&](auto role) {
      if constexpr (kHasRole<config, role.value>) {
        if (!result) return;
        result = same_elements(array<role>().data(), expected.array<role>().data(), length(),
                               kRoleNames[static_cast<int>(role.value)]);
        if (result && !array<role>().intact()) result = ::testing::AssertionFailure() << "a write outside the arrays";
      }
    });
    return result;
  }

 private:
  template <size_t... roles>
  Arrays(size_t length, Random& random, std::index_sequence<roles...>)
      : arrays_(kHasRole<config, static_cast<Role>(roles)> ? Size{length, random.below(17)} : Size{0, 0}...) {}

  static RandomKey random_key_at(uint32_t key, uint32_t count, uint64_t element) {
    return random_key(key, count, static_cast<uint32_t>(element >> 32));
  }
  static BFloat16 stochastic(float value, RandomKey key, uint64_t element) {
    return to_bfloat16_stochastic(value, random_bits(key, static_cast<uint32_t>(element)));
  }

  template <Rule rule>
  void evaluate(const cpu::GroupScalars& group, uint64_t first, uint32_t key) {
    using A = Scalar;
    constexpr Role source = kHasMaster ? Role::master : Role::weight;
    for (size_t i = 0; i < length(); ++i) {
      A w = read(data<source>()[i]), m = read(data<Role::mean>()[i]), v = read(data<Role::variance>()[i]);
      const A g = read(data<Role::grad>()[i]);
      if constexpr (kHasRole<config, Role::maximum>)
        adamw<rule, true, A>(w, g, m, v, data<Role::maximum>()[i], group.of<A>());
      else
        adamw<rule, A>(w, g, m, v, group.of<A>());
      write(data<source>()[i], w);
      write(data<Role::weight>()[i], w);
      if constexpr (std::is_same_v<RoleType<config, Role::weight>, BFloat16> && !kHasMaster)
        if (group.stochastic_weights)
          data<Role::weight>()[i] =
              stochastic(w, key_of_weights(random_key_at(key, group.count, first + i)), first + i);
      write(data<Role::mean>()[i], m);
      if constexpr (std::is_same_v<RoleType<config, Role::variance>, BFloat16>) {
        data<Role::variance>()[i] = stochastic(v, random_key_at(key, group.count, first + i), first + i);
      } else {
        write(data<Role::variance>()[i], v);
      }
    }
  }

  typename RoleTuple<config, Guarded>::type arrays_;
};

/// Calls visit(Arrays<config>*) with the type of a configuration's arrays.
template <typename Visit>
auto with_config(DTypeConfig config, const Visit& visit) {
#define DTYPE_CONFIG(identifier, ...) \
  if (config == DTypeConfig::identifier) return visit(static_cast<Arrays<DTypeConfig::identifier>*>(nullptr));
#include "core/dtype-configs.def"
  __builtin_unreachable();
}

inline DTypeConfig random_config(Random& random) { return static_cast<DTypeConfig>(random.below(kDTypeConfigs)); }
inline Rule random_rule(Random& random) { return static_cast<Rule>(random.below(kRules)); }

/// The scalars of a step of ordinary size; now and then without clipping, decay or mean.
inline StepScalars random_step_scalars(Random& random) {
  constexpr double rescales[] = {1, 1.0 / 3, 128, 1e-30}, clips[] = {INFINITY, INFINITY, 0.5, 1e-3};
  constexpr double beta1s[] = {0.9, 0.9, 0, 0.5}, beta2s[] = {0.999, 0.999, 0, 0.95};
  constexpr double flags[] = {0, 1};
  return {random.one_of(rescales), random.one_of(clips), random.one_of(beta1s), random.one_of(beta2s), 0,
          random.one_of(flags)};
}
inline ScalarGroup random_group(Random& random) {
  constexpr double etas[] = {1e-3, 0.0123, 0, 3e4}, decays[] = {0, 0.01, 0.3}, epsilons[] = {1e-8, 1e-6, 0};
  return {random.one_of(etas),     random.one_of(etas),          random.one_of(decays),
          random.one_of(epsilons), random.below(2) ? 1 : 0.0316, static_cast<double>(random.below(1000))};
}

}  // namespace fused_adamw::testing
