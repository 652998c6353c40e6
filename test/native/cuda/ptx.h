// What instructions of PTX compute, for scripts/ptx-to-cc.mjs: those that no operator of C++ does. From NVIDIA's
// "Parallel Thread Execution ISA", version 8.0.
#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <type_traits>
#include <vector>

#include "core/dtypes.h"

namespace ptx {

template <typename To, typename From>
inline To bit_cast(From value) {
  static_assert(sizeof(To) == sizeof(From));
  To result;
  std::memcpy(&result, &value, sizeof result);
  return result;
}

/// The value as the register holds it: its bits. What C++ widened to int is narrowed again.
template <typename Register, typename Value>
inline Register write(Register, Value value) {
  if constexpr (sizeof(Register) == sizeof(Value))
    return bit_cast<Register>(value);
  else
    return static_cast<Register>(value);
}

// ---- Memory ----

inline uint64_t address_of(const char* parameters) { return reinterpret_cast<uintptr_t>(parameters); }

/// A GPU faults where an address is not a multiple of the size of the access.
inline char* check(uint64_t address, size_t bytes) {
  if (address % bytes != 0) {
    std::fprintf(stderr, "PTX: an access of %zu bytes at a misaligned address\n", bytes);
    std::abort();
  }
  return reinterpret_cast<char*>(address);
}
template <typename T>
inline T load(const char* memory, size_t i) {
  T value;
  std::memcpy(&value, memory + i * sizeof value, sizeof value);
  return value;
}
/// Of a wider register the lower bits, which come first on the host.
template <typename T, typename Register>
inline void store(char* memory, size_t i, Register value) {
  static_assert(sizeof(T) <= sizeof value);
  std::memcpy(memory + i * sizeof(T), &value, sizeof(T));
}

// ---- Shuffles ----

/// What the threads of a warp pass to one another. They run in turn, each from its start up to where it needs what
/// another has not passed on yet, and again from the start until all are done: so they must have changed nothing by
/// then.
class Warp {
 public:
  static constexpr unsigned kThreads = 32;

  /// Runs each thread, run(lane) being one of them, to its end.
  template <class Run>
  void run(const Run& run) {
    std::array<bool, kThreads> is_done{};
    for (size_t done = 0, before; done < kThreads;) {
      before = passed_ + done;
      for (unsigned lane = 0; lane < kThreads; ++lane) {
        if (is_done[lane]) continue;
        next_ = 0;
        is_waiting_ = false;
        run(lane);
        is_done[lane] = !is_waiting_;
        done += is_done[lane];
      }
      if (passed_ + done == before) fail("threads wait for one another");
    }
  }

  /// shfl.sync.down.b32; false if the thread must wait.
  bool shuffle_down(unsigned lane, uint32_t value, uint32_t by, uint32_t control, uint32_t members, uint32_t& result,
                    bool& is_in_range) {
    if (next_ == shuffles_.size()) shuffles_.emplace_back();
    Shuffle& shuffle = shuffles_[next_++];
    if (!(shuffle.known >> lane & 1)) ++passed_;
    shuffle.known |= 1u << lane;
    shuffle.values[lane] = value;
    const uint32_t segment = control >> 8 & 31;
    const uint32_t last = (lane & segment) | (control & 31 & ~segment);
    is_in_range = lane + by <= last;
    const unsigned from = is_in_range ? lane + by : lane;
    if (!(members >> lane & members >> from & 1)) fail("a shuffle with a thread that is not a member");
    result = shuffle.values[from];
    is_waiting_ = !(shuffle.known >> from & 1);
    return !is_waiting_;
  }

 private:
  struct Shuffle {
    uint32_t known = 0;  // lanes
    std::array<uint32_t, kThreads> values{};
  };
  [[noreturn]] static void fail(const char* what) {
    std::fprintf(stderr, "PTX: %s\n", what);
    std::abort();
  }

  std::vector<Shuffle> shuffles_;  // in the order in which a thread makes them
  size_t next_ = 0, passed_ = 0;
  bool is_waiting_ = false;
};

// ---- Integers ----

/// Shifts by the width or more leave no bit, but those of the sign.
template <typename T>
inline T shl(T value, uint32_t by) {
  return by >= 8 * sizeof(T) ? T{0} : static_cast<T>(value << by);
}
template <typename T>
inline T shr(T value, uint32_t by) {
  return static_cast<T>(value >> std::min<uint32_t>(by, 8 * sizeof(T) - 1) >> (by >= 8 * sizeof(T)));
}
inline uint32_t shf_l_wrap(uint32_t low, uint32_t high, uint32_t by) {
  return static_cast<uint32_t>(((uint64_t{high} << 32 | low) << by % 32) >> 32);
}
/// Four of the eight bytes of two words, each chosen by four bits; the highest of them asks for the byte's sign.
inline uint32_t prmt(uint32_t a, uint32_t b, uint32_t choice) {
  const uint64_t bytes = uint64_t{b} << 32 | a;
  uint32_t result = 0;
  for (unsigned i = 0; i < 4; ++i) {
    const unsigned which = choice >> 4 * i & 15;
    const auto byte = static_cast<uint8_t>(bytes >> 8 * (which & 7));
    result |= (which & 8 ? (byte & 0x80 ? 0xffu : 0u) : byte) << 8 * i;
  }
  return result;
}
/// b with the lower bits of a in the place of `length` bits from `start` on.
inline uint32_t bfi(uint32_t a, uint32_t b, uint32_t start, uint32_t length) {
  const uint32_t mask = shl(length >= 32 ? ~0u : (1u << length) - 1, start);
  return (b & ~mask) | (shl(a, start) & mask);
}
inline uint32_t min_s16x2(uint32_t a, uint32_t b) {
  const auto least = [&](unsigned shift) {
    const auto x = static_cast<int16_t>(a >> shift), y = static_cast<int16_t>(b >> shift);
    return uint32_t{static_cast<uint16_t>(std::min(x, y))} << shift;
  };
  return least(0) | least(16);
}

// ---- Floating point ----

inline const float kCanonicalNaN = bit_cast<float>(uint32_t{0x7fffffff});

/// -0 is less than +0, and NaN is passed through.
inline float min_nan(float a, float b) {
  if (std::isnan(a) || std::isnan(b)) return kCanonicalNaN;
  return a < b || (a == b && std::signbit(a)) ? a : b;
}
inline float max_nan(float a, float b) {
  if (std::isnan(a) || std::isnan(b)) return kCanonicalNaN;
  return a > b || (a == b && !std::signbit(a)) ? a : b;
}

inline float from_f16(uint16_t bits) { return fused_adamw::to_float(fused_adamw::Float16{bits}); }
inline uint16_t to_f16(float value) {
  return std::isnan(value) ? uint16_t{0x7fff} : fused_adamw::to_float16(value).bits;
}
/// The nearest, of two the even one. NaN is 0x7fff.
inline uint32_t to_bf16(float value) {
  if (std::isnan(value)) return 0x7fff;
  const auto bits = bit_cast<uint32_t>(value);
  return (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
}
inline uint32_t to_bf16x2(float upper, float lower) { return to_bf16(upper) << 16 | to_bf16(lower); }

}  // namespace ptx
