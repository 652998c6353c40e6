// The step of one thread of a CUDA kernel. The tests compile it for the host and
// run it there for every thread of every block.
#pragma once

#include "../core/stochastic-rounding.h"
#include "work.h"

namespace fused_adamw::cuda {

ADAMW_INLINE float load(float value) { return value; }
ADAMW_INLINE double load(double value) { return value; }
ADAMW_INLINE float load(Float16 value) { return to_float(value); }
ADAMW_INLINE float load(BFloat16 value) { return to_float(value); }

template <typename T, typename Value>
ADAMW_INLINE T rounded(Value value) {
  if constexpr (std::is_same_v<T, Float16>)
    return to_float16(value);
  else if constexpr (std::is_same_v<T, BFloat16>)
    return to_bfloat16(value);
  else
    return value;
}

/// The upper halves of two words in one, that of the first below.
ADAMW_INLINE uint32_t upper_halves(uint32_t first, uint32_t second) {
#if defined(__CUDA_ARCH__)
  return __byte_perm(first, second, 0x7632);
#else
  return first >> 16 | (second & 0xffff0000u);
#endif
}

/// Two values, rounded to half precision, in one word.
template <typename T>
ADAMW_INLINE uint32_t rounded_pair(float first, float second);

template <>
ADAMW_INLINE uint32_t rounded_pair<Float16>(float first, float second) {
  return to_float16(first).bits | static_cast<uint32_t>(to_float16(second).bits) << 16;
}

template <>
ADAMW_INLINE uint32_t rounded_pair<BFloat16>(float first, float second) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
  uint32_t pair;  // a NaN in it is 0x7fff
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(second), "f"(first));
#if __CUDA_ARCH__ >= 900
  // As signed integers, that is the largest of all results, and ours is the next below.
  asm("min.s16x2 %0, %0, %1;" : "+r"(pair) : "r"(kBFloat16NaN * 0x10001u));
#else
  if (first != first) pair = (pair & 0xffff0000u) | kBFloat16NaN;
  if (second != second) pair = (pair & 0xffffu) | kBFloat16NaN << 16;
#endif
  return pair;
#else
  return upper_halves(round_to_upper_half(first), round_to_upper_half(second));
#endif
}

/// Takes a value as given, so that the compiler keeps it in a register, and not what it was computed from.
template <typename T>
ADAMW_INLINE void pin([[maybe_unused]] T& value) {
#if defined(__CUDA_ARCH__)
  if constexpr (sizeof(T) == 8)
    asm volatile("" : "+l"(value));
  else
    asm volatile("" : "+r"(value));
  // So that accesses need not find out to which kind of memory an address belongs.
  if constexpr (std::is_pointer_v<T>) __builtin_assume(__isGlobal(value));
#endif
}

/// Adjacent elements, moved by one vector access.
template <typename T, unsigned width>
struct alignas(width * sizeof(T)) Pack {
  T values[width];

  ADAMW_INLINE T get(unsigned k) const { return values[k]; }
  ADAMW_INLINE void set(unsigned k, T value) { values[k] = value; }
  /// Elements k and k + 1.
  ADAMW_INLINE void set_pair(unsigned k, T first, T second) {
    values[k] = first;
    values[k + 1] = second;
  }
};

/// Half-precision elements, two to a register.
template <typename T, unsigned width>
struct alignas(width * sizeof(T)) HalfPack {
  uint32_t words[width / 2];

  ADAMW_INLINE T get(unsigned k) const { return {static_cast<uint16_t>(words[k / 2] >> (k % 2 * 16))}; }
  ADAMW_INLINE void set(unsigned k, T value) {
    const uint32_t bits = value.bits;
    words[k / 2] = k % 2 == 0 ? (words[k / 2] & 0xffff0000u) | bits : (words[k / 2] & 0xffffu) | bits << 16;
  }
  ADAMW_INLINE void set_pair(unsigned k, float first, float second) { words[k / 2] = rounded_pair<T>(first, second); }
};
template <unsigned width>
struct Pack<Float16, width> : HalfPack<Float16, width> {};
template <unsigned width>
struct Pack<BFloat16, width> : HalfPack<BFloat16, width> {};

/// The elements from an address on as a Pack, to load or store by one access.
template <unsigned width, typename T>
ADAMW_INLINE auto& pack_at(T* array) {
  using P = Pack<std::remove_const_t<T>, width>;
  return *reinterpret_cast<std::conditional_t<std::is_const_v<T>, const P, P>*>(array);
}
template <unsigned width, typename T>
ADAMW_INLINE Pack<std::remove_const_t<T>, width> load_pack(T* array, bool is_aligned) {
  if (is_aligned) return pack_at<width>(array);
  Pack<std::remove_const_t<T>, width> pack{};
  for (unsigned k = 0; k < width; ++k) pack.set(k, array[k]);
  return pack;
}
template <unsigned width, typename T>
ADAMW_INLINE void store_pack(T* array, const Pack<T, width>& pack, bool is_aligned) {
  if (is_aligned) {
    pack_at<width>(array) = pack;
  } else {
    for (unsigned k = 0; k < width; ++k) array[k] = pack.get(k);
  }
}

/// The random bits of two adjacent elements from `low` on, in one word. They need not be a pair of the generator's.
ADAMW_INLINE uint32_t random_bits_of_two(RandomKey key, uint32_t low) {
  const uint32_t counter = random_counter(key, low / 2);
  const uint32_t word = random_word(key, counter);
  return low % 2 == 0 ? word : word >> 16 | random_word(key, counter + kCounterStep) << 16;
}

/// Elements k and k + 1 of a pack, of which the first has the lower half of its index `low`.
template <unsigned width>
ADAMW_INLINE void set_pair_stochastic(Pack<BFloat16, width>& pack, unsigned k, float first, float second, RandomKey key,
                                      uint32_t low) {
  const uint32_t bits = random_bits_of_two(key, low);
  pack.words[k / 2] = upper_halves(round_to_upper_half_stochastic(first, bits & 0xffff),
                                   round_to_upper_half_stochastic(second, bits >> 16));
}

/// The elements that a thread updates at a time, in its registers.
template <class D>
struct ElementVector {
  Pack<typename D::Weight, D::kWidth> weight;
  Pack<typename D::Grad, D::kWidth> grad;
  Pack<typename D::Mean, D::kWidth> mean;
  Pack<typename D::Variance, D::kWidth> variance;
  Pack<typename D::Master, D::kWidth> master;    // unused without one
  Pack<typename D::Maximum, D::kWidth> maximum;  // unused without AMSGrad
};

template <Rule rule, DTypeConfig config>
ADAMW_INLINE void step_thread(const StepParameters<ArithmeticType<config>>& parameters, unsigned block,
                              unsigned thread) {
  using D = DTypes<config>;
  using T = ArithmeticType<config>;
  using Elements = ElementVector<D>;
  constexpr unsigned width = D::kWidth;

  const StepTables& tables = parameters.tables;
  const auto [assigned, lane, lanes] = work_of(tables, block, thread);
  if (!assigned) return;
  const WorkItem item = *assigned;
  const DeviceTensor& tensor = tables.tensors[item.tensor];
  auto* weight = static_cast<typename D::Weight*>(tensor.arrays[Role::weight]) + item.start;
  auto* grad = static_cast<typename D::Grad*>(tables.grads[item.tensor]) + item.start;
  auto* mean = static_cast<typename D::Mean*>(tensor.arrays[Role::mean]) + item.start;
  auto* variance = static_cast<typename D::Variance*>(tensor.arrays[Role::variance]) + item.start;
  auto* master = D::kHasMaster ? static_cast<typename D::Master*>(tensor.arrays[Role::master]) + item.start : nullptr;
  auto* maximum =
      D::kHasMaximum ? static_cast<typename D::Maximum*>(tensor.arrays[Role::maximum]) + item.start : nullptr;
  pin(grad);
  if (const Decision* decision = tables.decision) {
    pin(decision);
    if (decision->outcome != Decision::Outcome::taken) {
      if (tables.zero_grads)
        for (uint32_t i = lane; i < item.length; i += lanes) grad[i] = {};
      return;
    }
  }
  pin(weight);
  pin(mean);
  pin(variance);
  if constexpr (D::kHasMaster) pin(master);
  if constexpr (D::kHasMaximum) pin(maximum);
  const uint32_t g = tables.group_of[item.tensor];
  const DeviceGroup<T>& group =
      tables.groups ? static_cast<const DeviceGroup<T>*>(tables.groups)[g] : parameters.groups[g];
  // In registers, of which float64 would need too many.
  const std::conditional_t<std::is_same_v<T, double>, const Scalars<T>&, Scalars<T>> scalars = group.scalars;
  RandomKey key = random_key(static_cast<uint32_t>(tensor.key), group.count,
                             static_cast<uint32_t>(item.start >> 32));  // only for bfloat16 variances and weights
  pin(key.add);
  pin(key.xor_);
  const auto first = static_cast<uint32_t>(item.start);
  constexpr bool may_be_stochastic = std::is_same_v<typename D::Weight, BFloat16> && !D::kHasMaster;

  const auto vector = [&](uint32_t i, const auto& aligned) {
    Elements elements{};
    if constexpr (!D::kHasMaster)  // else it is rounded from the master
      elements.weight = load_pack<width>(weight + i, aligned[Role::weight]);
    elements.grad = load_pack<width>(grad + i, aligned[Role::grad]);
    elements.mean = load_pack<width>(mean + i, aligned[Role::mean]);
    elements.variance = load_pack<width>(variance + i, aligned[Role::variance]);
    if constexpr (D::kHasMaster) elements.master = load_pack<width>(master + i, aligned[Role::master]);
    if constexpr (D::kHasMaximum) elements.maximum = load_pack<width>(maximum + i, aligned[Role::maximum]);
#if defined(__CUDACC__)
#pragma unroll
#endif
    for (unsigned k = 0; k < width; k += 2) {
      T w[2], m[2], v[2], x[2];
      for (unsigned j = 0; j < 2; ++j) {
        if constexpr (D::kHasMaster)
          w[j] = load(elements.master.get(k + j));
        else
          w[j] = load(elements.weight.get(k + j));
        m[j] = load(elements.mean.get(k + j));
        v[j] = load(elements.variance.get(k + j));
        if constexpr (D::kHasMaximum) x[j] = elements.maximum.get(k + j);
        adamw<rule, D::kHasMaximum>(w[j], load(elements.grad.get(k + j)), m[j], v[j], x[j], scalars);
        // The elements are updated one after the other: interleaved, their divisions and square roots need more
        // registers than there are. `i` may have changed as far as the compiler knows, so that it computes the
        // addresses again instead of keeping them in registers meanwhile.
        asm volatile("" : "+r"(i) : : "memory");
      }
      if constexpr (D::kHasMaster) elements.master.set_pair(k, w[0], w[1]);
      if constexpr (D::kHasMaximum) elements.maximum.set_pair(k, x[0], x[1]);
      if constexpr (may_be_stochastic) {
        if (tables.stochastic_weights) {
          set_pair_stochastic(elements.weight, k, w[0], w[1], key_of_weights(key), first + i + k);
        } else {
          elements.weight.set_pair(k, w[0], w[1]);
        }
      } else {
        elements.weight.set_pair(k, w[0], w[1]);
      }
      elements.mean.set_pair(k, m[0], m[1]);
      if constexpr (std::is_same_v<typename D::Variance, BFloat16>) {
        set_pair_stochastic(elements.variance, k, v[0], v[1], key, first + i + k);
      } else {
        elements.variance.set_pair(k, v[0], v[1]);
      }
    }
    store_pack<width>(weight + i, elements.weight, aligned[Role::weight]);
    store_pack<width>(mean + i, elements.mean, aligned[Role::mean]);
    store_pack<width>(variance + i, elements.variance, aligned[Role::variance]);
    if constexpr (D::kHasMaster) store_pack<width>(master + i, elements.master, aligned[Role::master]);
    if constexpr (D::kHasMaximum) store_pack<width>(maximum + i, elements.maximum, aligned[Role::maximum]);
    if (tables.zero_grads) store_pack<width>(grad + i, Pack<typename D::Grad, width>{}, aligned[Role::grad]);
  };
  const auto scalar = [&](uint32_t i) {
    T w;
    if constexpr (D::kHasMaster)
      w = load(master[i]);
    else
      w = load(weight[i]);
    T m = load(mean[i]), v = load(variance[i]), x = v;
    if constexpr (D::kHasMaximum) x = maximum[i];
    adamw<rule, D::kHasMaximum>(w, load(grad[i]), m, v, x, scalars);
    if constexpr (D::kHasMaximum) maximum[i] = x;
    if constexpr (D::kHasMaster) master[i] = rounded<typename D::Master>(w);
    weight[i] = rounded<typename D::Weight>(w);
    if constexpr (may_be_stochastic)
      if (tables.stochastic_weights) weight[i] = to_bfloat16_stochastic(w, random_bits(key_of_weights(key), first + i));
    mean[i] = rounded<typename D::Mean>(m);
    if constexpr (std::is_same_v<typename D::Variance, BFloat16>)
      variance[i] = to_bfloat16_stochastic(v, random_bits(key, first + i));
    else
      variance[i] = rounded<typename D::Variance>(v);
    if (tables.zero_grads) grad[i] = {};
  };
  AccessSplit split = split_accesses<D>(weight, grad, mean, variance, master, maximum, item.length);
  pin(split.aligned.bits);
  for_each_element<width>(split, item.length, lane, lanes, vector, scalar);
}

}  // namespace fused_adamw::cuda
