#include "stream.h"

#include <algorithm>
#include <atomic>

#include "../../native/cpu/step.h"
#include "../../native/cpu/threads.h"

#if defined(__x86_64__)
#include <immintrin.h>
#define TARGET_AVX512 __attribute__((target("avx512f")))
#define TARGET_AVX2 __attribute__((target("avx2")))
#endif

namespace fused_adamw::bench {
namespace {

constexpr size_t kVector = 64;               // bytes
constexpr size_t kPrefetchAhead = 4 * 1024;  // bytes

typedef uint32_t Vector __attribute__((vector_size(kVector), aligned(1), may_alias));

template <bool nontemporal>
ADAMW_INLINE void store(char* to, Vector value) {
#if defined(__x86_64__)
  if constexpr (nontemporal) {
    const auto parts = reinterpret_cast<const __m128i*>(&value);
    for (size_t i = 0; i < kVector / sizeof(__m128i); ++i)
      _mm_stream_si128(reinterpret_cast<__m128i*>(to) + i, _mm_loadu_si128(parts + i));
    return;
  }
#endif
  *reinterpret_cast<Vector*>(to) = value;
}

/// Four arrays of the same size.
template <bool nontemporal, bool prefetch>
ADAMW_INLINE void stream_bytes(char* w, const char* g, char* m, char* v, size_t bytes) {
  size_t at = 0;
  for (; at + kVector <= bytes; at += kVector) {
    if constexpr (prefetch)
      for (const char* array :
           {static_cast<const char*>(w), g, static_cast<const char*>(m), static_cast<const char*>(v)})
        __builtin_prefetch(array + at + kPrefetchAhead);
    const Vector grad = *reinterpret_cast<const Vector*>(g + at);
    const Vector mean = *reinterpret_cast<const Vector*>(m + at) + grad;
    const Vector variance = *reinterpret_cast<const Vector*>(v + at) - grad;
    store<nontemporal>(m + at, mean);
    store<nontemporal>(v + at, variance);
    store<nontemporal>(w + at, *reinterpret_cast<const Vector*>(w + at) + (mean - variance));
  }
  for (; at < bytes; ++at) {
    m[at] = static_cast<char>(m[at] + g[at]);
    v[at] = static_cast<char>(v[at] - g[at]);
    w[at] = static_cast<char>(w[at] + m[at] - v[at]);
  }
}

/// Arrays of different dtypes, with float32 masters or without.
template <bool has_master, typename Weight, typename Grad, typename State>
ADAMW_INLINE void stream_mixed(Weight* __restrict w, const Grad* __restrict g, State* __restrict m, State* __restrict v,
                               uint32_t* __restrict master, size_t length) {
  for (size_t i = 0; i < length; ++i) {
    m[i] = static_cast<State>(m[i] + g[i]);
    v[i] = static_cast<State>(v[i] - g[i]);
    if constexpr (has_master) {
      master[i] += m[i] - v[i];
      w[i] = static_cast<Weight>(w[i] + master[i]);
    } else {
      w[i] = static_cast<Weight>(w[i] + m[i] - v[i]);
    }
  }
}

/// Calls visit with a null pointer to an integer of that size.
template <typename Visit>
ADAMW_INLINE void with_integer(size_t bytes, const Visit& visit) {
  if (bytes == sizeof(uint16_t)) return visit(static_cast<uint16_t*>(nullptr));
  visit(static_cast<uint32_t*>(nullptr));
}

bool is_aligned(const cpu::Span& span) {
  uintptr_t bits = 0;
  for (const Role role : kEveryRole)
    if (is_written(role)) bits |= reinterpret_cast<uintptr_t>(span.arrays[role]);
  return bits % kVector == 0;
}

template <bool nontemporal, bool prefetch>
ADAMW_INLINE void stream_span(const cpu::Span& span, DTypeConfig config) {
  void *w = span.arrays[Role::weight], *g = span.arrays[Role::grad];
  void *m = span.arrays[Role::mean], *v = span.arrays[Role::variance];
  const size_t weight_bytes = role_bytes(config, Role::weight), grad_bytes = role_bytes(config, Role::grad);
  const size_t state_bytes = role_bytes(config, Role::mean);
  if (weight_bytes == grad_bytes && weight_bytes == state_bytes) {
    stream_bytes<nontemporal, prefetch>(static_cast<char*>(w), static_cast<const char*>(g), static_cast<char*>(m),
                                        static_cast<char*>(v), span.length * weight_bytes);
    return;
  }
  auto* master = static_cast<uint32_t*>(span.arrays[Role::master]);
  with_integer(weight_bytes, [&](auto* weight) {
    with_integer(grad_bytes, [&](auto* grad) {
      with_integer(state_bytes, [&](auto* state) {
        using Weight = decltype(weight);
        using Grad = decltype(grad);
        using State = decltype(state);
        if (master)
          stream_mixed<true>(static_cast<Weight>(w), static_cast<Grad>(g), static_cast<State>(m), static_cast<State>(v),
                             master, span.length);
        else
          stream_mixed<false>(static_cast<Weight>(w), static_cast<Grad>(g), static_cast<State>(m),
                              static_cast<State>(v), master, span.length);
      });
    });
  });
}

/// The sum of the words of an array, but for the last that are no vector.
ADAMW_INLINE uint32_t read_bytes(const char* from, size_t bytes) {
  constexpr size_t kSums = 4;  // as many additions do not wait for one another
  Vector sums[kSums] = {};
  for (size_t at = 0; at + kSums * kVector <= bytes; at += kSums * kVector)
    for (size_t k = 0; k < kSums; ++k) sums[k] += *reinterpret_cast<const Vector*>(from + at + k * kVector);
  return (sums[0] + sums[1] + sums[2] + sums[3])[0];
}

using Kernel = void (*)(const cpu::Span&, DTypeConfig);
using Read = uint32_t (*)(const char* from, size_t bytes);

#define DEFINE_KERNELS(Name, TARGET)                            \
  template <bool nontemporal, bool prefetch>                    \
  TARGET void Name(const cpu::Span& span, DTypeConfig config) { \
    stream_span<nontemporal, prefetch>(span, config);           \
  }                                                             \
  TARGET uint32_t Name##_read(const char* from, size_t bytes) { return read_bytes(from, bytes); }
#if defined(__x86_64__)
DEFINE_KERNELS(stream_avx512, TARGET_AVX512)
DEFINE_KERNELS(stream_avx2, TARGET_AVX2)
#endif
DEFINE_KERNELS(stream_baseline, )

template <bool nontemporal, bool prefetch>
Kernel best_kernel() {
#if defined(__x86_64__)
  if (__builtin_cpu_supports("avx512f")) return stream_avx512<nontemporal, prefetch>;
  if (__builtin_cpu_supports("avx2")) return stream_avx2<nontemporal, prefetch>;
#endif
  return stream_baseline<nontemporal, prefetch>;
}

Kernel kernel_of(bool nontemporal, bool prefetch) {
  static const Kernel plain = best_kernel<false, false>();
  static const Kernel past_caches = best_kernel<true, false>();
  static const Kernel prefetching = best_kernel<false, true>();
  return nontemporal ? past_caches : prefetch ? prefetching : plain;
}

Read best_read() {
#if defined(__x86_64__)
  if (__builtin_cpu_supports("avx512f")) return stream_avx512_read;
  if (__builtin_cpu_supports("avx2")) return stream_avx2_read;
#endif
  return stream_baseline_read;
}

/// The same bytes in place of the update: the step's own chunks and threads.
template <int kernel>
void stream_in_step(const cpu::Span& span, const cpu::GroupScalars&) {
  kernel_of(false, false)(span, config_of_kernel(kernel));
}
template <int... kernels>
constexpr cpu::Variant make_variant(std::integer_sequence<int, kernels...>) {
  return {"stream", nullptr, {stream_in_step<kernels>...}, {}};
}
constexpr cpu::Variant kInStep = make_variant(std::make_integer_sequence<int, kKernels>{});

cpu::Span span_of(const TensorArrays& tensor, uint64_t begin, uint64_t end) {
  cpu::Span span{{}, end - begin, begin, 0, 0};
  for (const Role role : kEveryRole)
    span.arrays[role] = static_cast<char*>(tensor.arrays[role]) + begin * role_bytes(tensor.config, role);
  return span;
}

/// Calls work(tensor, begin, end) for the parts of all tensors in chunks of so many elements.
template <typename Work>
void for_each_part(const TensorList& list, uint64_t chunk_size, int threads, const Work& work) {
  const uint64_t total = list.element_start(list.size());
  const uint64_t* starts = list.element_starts();
  cpu::for_each_chunk((total + chunk_size - 1) / chunk_size, threads, [&](size_t chunk) {
    const uint64_t begin = chunk * chunk_size, end = std::min(total, begin + chunk_size);
    for (size_t i = std::upper_bound(starts, starts + list.size() + 1, begin) - starts - 1;
         i < list.size() && starts[i] < end; ++i)
      work(list.tensor(i), std::max(begin, starts[i]) - starts[i], std::min(end, starts[i + 1]) - starts[i]);
  });
}

}  // namespace

void stream(const TensorList& list, const StreamVariant& variant, int threads) {
  if (variant.partition == Partition::step) {
    static const std::vector<cpu::GroupScalars> none(1);
    cpu::step(list, kInStep, none.data(), 0, list.size(), threads);
    return;
  }
  constexpr uint64_t kChunk = 1024 * 1024;
  const uint64_t total = list.element_start(list.size());
  const uint64_t part = variant.partition == Partition::chunks ? kChunk : (total + threads - 1) / threads;
  const uint64_t size = std::max<uint64_t>(cpu::kBlock, (part + cpu::kBlock - 1) / cpu::kBlock * cpu::kBlock);
  for_each_part(list, size, threads, [&](const TensorArrays& tensor, uint64_t begin, uint64_t end) {
    const cpu::Span span = span_of(tensor, begin, end);
    kernel_of(variant.nontemporal && is_aligned(span), variant.prefetch)(span, tensor.config);
#if defined(__x86_64__)
    if (variant.nontemporal) _mm_sfence();
#endif
  });
}

void read_grads(const TensorList& list, int threads) {
  static const Read read = best_read();
  constexpr uint64_t kChunk = 256 * 1024;
  std::atomic<uint32_t> sum{0};  // so that nothing is left out
  for_each_part(list, kChunk, threads, [&](const TensorArrays& tensor, uint64_t begin, uint64_t end) {
    const size_t bytes = role_bytes(tensor.config, Role::grad);
    sum += read(static_cast<const char*>(tensor.arrays[Role::grad]) + begin * bytes, (end - begin) * bytes);
  });
  static volatile uint32_t kept;
  kept = sum;
}

}  // namespace fused_adamw::bench
