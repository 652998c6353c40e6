#include "kernels.h"

#include <atomic>
#include <utility>

#include "../float-environment.h"
#include "gradients.h"
#include "loop.h"

#if defined(__x86_64__)
#include <cpuid.h>
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

namespace fused_adamw::cpu {
namespace {

#if defined(__x86_64__)
#define TARGET_BASELINE
#define AVX2 "avx2,f16c"
#define AVX512 AVX2 ",avx512f,avx512bw,avx512dq,avx512vl"
#if defined(__clang__)
#define OF_512_BITS(features) __attribute__((target(features), min_vector_width(512)))
#else
#define OF_512_BITS(features) __attribute__((target(features ",prefer-vector-width=512")))
#endif
#define TARGET_AVX2 __attribute__((target(AVX2)))
#define TARGET_AVX512 OF_512_BITS(AVX512)
// Only for what rounds the same with it.
#define TARGET_AVX2_FMA __attribute__((target(AVX2 ",fma")))
#define TARGET_AVX512_FMA OF_512_BITS(AVX512 ",fma")
#endif

// Conversions of half precision, a struct for each instruction set. The hardware
// keeps a NaN's payload; the contract is that only one NaN is stored. kHasFma is of functions of its TARGET_FMA.

struct Baseline {
#if defined(__aarch64__)
  static constexpr bool kHasFma = true;

  static void from_float16(const Float16* from, float* to, size_t length) {
    size_t i = 0;
    for (; i + 4 <= length; i += 4) vst1q_f32(to + i, vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(&from[i].bits))));
    for (; i < length; ++i) to[i] = to_float(from[i]);
  }
  static void to_float16(const float* from, Float16* to, size_t length) {
    size_t i = 0;
    for (; i + 4 <= length; i += 4) {
      const float32x4_t x = vld1q_f32(from + i);
      const uint16x4_t number = vmovn_u32(vceqq_f32(x, x));
      const uint16x4_t half = vreinterpret_u16_f16(vcvt_f16_f32(x));
      vst1_u16(&to[i].bits, vbsl_u16(number, half, vdup_n_u16(kFloat16NaN)));
    }
    for (; i < length; ++i) to[i] = fused_adamw::to_float16(from[i]);
  }
#else
  static constexpr bool kHasFma = false;

  static void from_float16(const Float16* from, float* to, size_t length) {
    for (size_t i = 0; i < length; ++i) to[i] = to_float(from[i]);
  }
  static void to_float16(const float* from, Float16* to, size_t length) {
    for (size_t i = 0; i < length; ++i) to[i] = fused_adamw::to_float16(from[i]);
  }
#endif
};

#if defined(__x86_64__)
struct Avx2 {
  static constexpr bool kHasFma = true;

  TARGET_AVX2 static void from_float16(const Float16* from, float* to, size_t length) {
    size_t i = 0;
    for (; i + 8 <= length; i += 8)
      _mm256_storeu_ps(to + i, _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from + i))));
    for (; i < length; ++i) to[i] = to_float(from[i]);
  }
  TARGET_AVX2 static void to_float16(const float* from, Float16* to, size_t length) {
    const __m128i nan = _mm_set1_epi16(static_cast<short>(kFloat16NaN));
    size_t i = 0;
    for (; i + 8 <= length; i += 8) {
      const __m256 x = _mm256_loadu_ps(from + i);
      const __m256i unordered = _mm256_castps_si256(_mm256_cmp_ps(x, x, _CMP_UNORD_Q));
      const __m128i mask = _mm_packs_epi32(_mm256_castsi256_si128(unordered), _mm256_extracti128_si256(unordered, 1));
      const __m128i half = _mm256_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
      _mm_storeu_si128(reinterpret_cast<__m128i*>(to + i), _mm_blendv_epi8(half, nan, mask));
    }
    for (; i < length; ++i) to[i] = fused_adamw::to_float16(from[i]);
  }
};

struct Avx512 {
  static constexpr bool kHasFma = true;

  // GCC 12 warns of uninitialised values in the unmasked intrinsics.
  static constexpr __mmask16 kEveryLane = 0xffff;

  TARGET_AVX512 static void from_float16(const Float16* from, float* to, size_t length) {
    size_t i = 0;
    for (; i + 16 <= length; i += 16)
      _mm512_storeu_ps(
          to + i, _mm512_maskz_cvtph_ps(kEveryLane, _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from + i))));
    for (; i < length; ++i) to[i] = to_float(from[i]);
  }
  TARGET_AVX512 static void to_float16(const float* from, Float16* to, size_t length) {
    const __m256i nan = _mm256_set1_epi16(static_cast<short>(kFloat16NaN));
    size_t i = 0;
    for (; i + 16 <= length; i += 16) {
      const __m512 x = _mm512_loadu_ps(from + i);
      const __mmask16 unordered = _mm512_cmp_ps_mask(x, x, _CMP_UNORD_Q);
      const __m256i half = _mm512_maskz_cvtps_ph(kEveryLane, x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(to + i), _mm256_mask_blend_epi16(unordered, half, nan));
    }
    for (; i < length; ++i) to[i] = fused_adamw::to_float16(from[i]);
  }
};
#endif

// The entry points of each instruction set. The target attribute must be on the
// function that the loop is inlined into.

#if !defined(TARGET_BASELINE)
#define TARGET_BASELINE
#endif

/// float32, with AMSGrad where the configuration has it.
template <DTypeConfig config>
constexpr DTypeConfig kFloat32 = kHasRole<config, Role::maximum> ? DTypeConfig::float32_amsgrad : DTypeConfig::float32;

#define DEFINE_VARIANT(Isa, TARGET, TARGET_FMA)                                                                    \
  template <Rule rule, DTypeConfig config>                                                                         \
  TARGET __attribute__((noinline)) void kernel_##Isa(const Span& span, const GroupScalars& group) {                \
    update_span<Isa, rule, config>(span, group, kernel_##Isa<rule, kFloat32<config>>);                             \
  }                                                                                                                \
  TARGET void from_bfloat16_##Isa(const BFloat16* from, float* to, size_t length) { load<Isa>(from, to, length); } \
  TARGET void to_bfloat16_##Isa(const float* from, BFloat16* to, size_t length) { store<Isa>(from, to, length); }  \
  template <typename T>                                                                                            \
  TARGET_FMA double sum_of_squares_##Isa(const void* grad, size_t length, bool* finite) {                          \
    return sum_of_squares<Isa>(static_cast<const T*>(grad), length, finite);                                       \
  }                                                                                                                \
  template <typename Into, typename Grad>                                                                          \
  TARGET void accumulate_##Isa(void* into, const void* grad, size_t first, size_t length, double scale) {          \
    accumulate<Isa>(static_cast<Into*>(into) + first, static_cast<const Grad*>(grad) + first, length, scale);      \
  }                                                                                                                \
  template <int... kernels, int... configs>                                                                        \
  constexpr Variant make_##Isa(const char* name, bool (*supported)(), std::integer_sequence<int, kernels...>,      \
                               std::integer_sequence<int, configs...>) {                                           \
    return {name,                                                                                                  \
            supported,                                                                                             \
            {kernel_##Isa<rule_of_kernel(kernels), config_of_kernel(kernels)>...},                                 \
            {Isa::from_float16, Isa::to_float16, from_bfloat16_##Isa, to_bfloat16_##Isa},                          \
            {sum_of_squares_##Isa<RoleType<static_cast<DTypeConfig>(configs), Role::grad>>...},                    \
            {FUSED_ADAMW_ACCUMULATIONS(ACCUMULATE_##Isa)}};                                                        \
  }

#define ACCUMULATE_Baseline(Into, Grad) accumulate_Baseline<Into, Grad>,
#define ACCUMULATE_Avx2(Into, Grad) accumulate_Avx2<Into, Grad>,
#define ACCUMULATE_Avx512(Into, Grad) accumulate_Avx512<Into, Grad>,

DEFINE_VARIANT(Baseline, TARGET_BASELINE, TARGET_BASELINE)
bool always() { return true; }

#if defined(__x86_64__)
DEFINE_VARIANT(Avx2, TARGET_AVX2, TARGET_AVX2_FMA)
DEFINE_VARIANT(Avx512, TARGET_AVX512, TARGET_AVX512_FMA)

/// What the processor has and the system saves. Not by __builtin_cpu_supports(),
/// which is a stub in some compilers' libraries.
struct Processor {
  bool avx2 = false, avx512 = false;

  Processor() {
    constexpr unsigned kFmaOsxsaveAvxF16c = 1u << 12 | 1u << 27 | 1u << 28 | 1u << 29, kAvx2 = 1u << 5;
    constexpr unsigned kAvx512 = 1u << 16 | 1u << 17 | 1u << 30 | 1u << 31;  // F, DQ, BW, VL
    constexpr unsigned kYmm = 0x06, kZmm = 0xe6;
    unsigned eax, ebx, ecx, edx, saved, high;
    if (!__get_cpuid(1, &eax, &ebx, &ecx, &edx) || (ecx & kFmaOsxsaveAvxF16c) != kFmaOsxsaveAvxF16c) return;
    asm volatile("xgetbv" : "=a"(saved), "=d"(high) : "c"(0));
    if (!__get_cpuid_count(7, 0, &eax, &ebx, &ecx, &edx)) return;
#if defined(__APPLE__)
    saved |= kZmm;  // macOS turns them on at their first use
#endif
    avx2 = (saved & kYmm) == kYmm && (ebx & kAvx2) != 0;
    avx512 = avx2 && (saved & kZmm) == kZmm && (ebx & kAvx512) == kAvx512;
  }
};
bool has_avx2() { return Processor().avx2; }
bool has_avx512() { return Processor().avx512; }
#endif

constexpr auto kEveryKernel = std::make_integer_sequence<int, kKernels>{};
constexpr auto kEveryConfig = std::make_integer_sequence<int, kDTypeConfigs>{};

// In order of preference.
constexpr Variant kVariants[] = {
#if defined(__x86_64__)
    make_Avx512("avx512", has_avx512, kEveryKernel, kEveryConfig),
    make_Avx2("avx2", has_avx2, kEveryKernel, kEveryConfig),
#endif
    make_Baseline("baseline", always, kEveryKernel, kEveryConfig),
};

/// A number whose operations are rounded one by one, whatever the compiler
/// contracts: the rule evaluated with it is the reference.
template <typename T>
class Rounded {
 public:
  Rounded(T value = 0) : value_(value) {}
  friend Rounded operator+(Rounded a, Rounded b) { return a.get() + b.get(); }
  friend Rounded operator-(Rounded a, Rounded b) { return a.get() - b.get(); }
  friend Rounded operator*(Rounded a, Rounded b) { return a.get() * b.get(); }
  friend Rounded operator/(Rounded a, Rounded b) { return a.get() / b.get(); }
  friend Rounded operator-(Rounded a) { return -a.get(); }
  friend bool operator<(Rounded a, Rounded b) { return a.get() < b.get(); }
  friend bool operator>(Rounded a, Rounded b) { return a.get() > b.get(); }
  friend Rounded sqrt(Rounded a) { return std::sqrt(a.get()); }
  T get() const {
    volatile T value = value_;
    return value;
  }

 private:
  T value_;
};

template <Rule rule, DTypeConfig config>
bool rounds_exactly(const Variant& variant, const GroupScalars& group) {
  using T = ArithmeticType<config>;
  const Scalars<T>& s = group.of<T>();
  constexpr size_t n = 37;  // a vector body and a tail on every instruction set
  T w[n], g[n], m[n], v[n];
  Rounded<T> rw[n], rm[n], rv[n];
  const Scalars<Rounded<T>> rs{s.rescale, s.clip, s.beta1, s.beta2,   s.lerp,  s.one_minus_beta2,
                               s.eta,     s.lr,   s.wd,    s.epsilon, s.decay, s.root};
  for (size_t i = 0; i < n; ++i) {
    const T x = static_cast<T>(i);
    rw[i] = w[i] = 1 / (x + 3);
    g[i] = 1 / (7 * x + 11);
    rm[i] = m[i] = -1 / (5 * x + 13);
    rv[i] = v[i] = 1 / (3 * x + 17);
    adamw<rule, Rounded<T>>(rw[i], g[i], rm[i], rv[i], rs);
  }
  Span span{{}, n, 0, 0, 0};
  span.arrays[Role::weight] = w;
  span.arrays[Role::grad] = g;
  span.arrays[Role::mean] = m;
  span.arrays[Role::variance] = v;
  variant.kernel(rule, config)(span, group);
  for (size_t i = 0; i < n; ++i)
    if (w[i] != rw[i].get() || m[i] != rm[i].get() || v[i] != rv[i].get()) return false;
  return true;
}

}  // namespace

GroupScalars round_scalars(const StepScalars& step, const ScalarGroup& group) {
  return {fused_adamw::round_scalars<float>(step, group), fused_adamw::round_scalars<double>(step, group),
          round_count(group), step.stochastic_weights != 0};
}

bool rounds_exactly(const Variant& variant) {
  const FloatEnvironment environment;
  const GroupScalars scalars = round_scalars({1.0 / 3, 1e30, 0.9, 0.999}, {0.0123, 1.1, 0.0789, 1e-6, 0.7, 0});
  for (int rule = 0; rule < kRules; ++rule) {
    const bool is_exact = with_rule(static_cast<Rule>(rule), [&](auto constant) {
      return rounds_exactly<constant, DTypeConfig::float32>(variant, scalars) &&
             rounds_exactly<constant, DTypeConfig::float64>(variant, scalars);
    });
    if (!is_exact) return false;
  }
  return true;
}

const std::vector<const Variant*>& variants() {
  static const std::vector<const Variant*> usable = [] {
    std::vector<const Variant*> list;
    for (const Variant& variant : kVariants)
      if (variant.supported() && rounds_exactly(variant)) list.push_back(&variant);
    return list;
  }();
  return usable;
}

const Variant* find_variant(std::string_view name) {
  for (const Variant* variant : variants())
    if (name == variant->name) return variant;
  return nullptr;
}

namespace {
std::atomic<const Variant*> active{nullptr};
}  // namespace

const Variant& active_variant() {
  const Variant* variant = active;
  return variant ? *variant : *variants().front();
}

void set_active_variant(const Variant& variant) { active = &variant; }

}  // namespace fused_adamw::cpu
