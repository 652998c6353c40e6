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

/// Adjacent elements, moved by one vector access.
template <typename T, unsigned width>
struct alignas(width * sizeof(T)) Pack {
  T values[width];

  ADAMW_INLINE T get(unsigned k) const { return values[k]; }
  ADAMW_INLINE void set(unsigned k, T value) { values[k] = value; }
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

/// The elements that a thread updates at a time, in its registers.
template <class D>
struct ElementVector {
  Pack<typename D::Weight, D::kWidth> weight;
  Pack<typename D::Grad, D::kWidth> grad;
  Pack<typename D::Mean, D::kWidth> mean;
  Pack<typename D::Variance, D::kWidth> variance;
  Pack<typename D::Master, D::kWidth> master;  // unused without one
};

template <Rule rule, DTypeConfig config>
ADAMW_INLINE void step_thread(const StepParameters<ArithmeticType<config>>& parameters, unsigned block, unsigned blocks,
                              unsigned thread) {
  using D = DTypes<config>;
  using T = ArithmeticType<config>;
  using Elements = ElementVector<D>;
  constexpr unsigned width = D::kWidth;

  const StepTables& tables = parameters.tables;
  const auto* groups = tables.groups ? static_cast<const DeviceGroup<T>*>(tables.groups) : parameters.groups;
  for_each_item(tables, block, blocks, thread, [&](const WorkItem& item, unsigned lane, unsigned lanes) {
    const DeviceTensor& tensor = tables.tensors[item.tensor];
    auto* weight = static_cast<typename D::Weight*>(tensor.arrays[Role::weight]) + item.start;
    const auto* grad = static_cast<const typename D::Grad*>(tables.grads[item.tensor]) + item.start;
    auto* mean = static_cast<typename D::Mean*>(tensor.arrays[Role::mean]) + item.start;
    auto* variance = static_cast<typename D::Variance*>(tensor.arrays[Role::variance]) + item.start;
    auto* master = D::kHasMaster ? static_cast<typename D::Master*>(tensor.arrays[Role::master]) + item.start : nullptr;
    const DeviceGroup<T>& group = groups[tables.group_of[item.tensor]];
    const Scalars<T>& scalars = group.scalars;
    const RandomKey key = random_key(static_cast<uint32_t>(tensor.key), group.count,
                                     static_cast<uint32_t>(item.start >> 32));  // only for bfloat16 variances
    const auto first = static_cast<uint32_t>(item.start);

    const auto update = [&](Elements& elements, unsigned k, uint32_t i) {
      T w;
      if constexpr (D::kHasMaster)
        w = load(elements.master.get(k));
      else
        w = load(elements.weight.get(k));
      T m = load(elements.mean.get(k));
      T v = load(elements.variance.get(k));
      adamw<rule>(w, load(elements.grad.get(k)), m, v, scalars);
      if constexpr (D::kHasMaster) elements.master.set(k, rounded<typename D::Master>(w));
      elements.weight.set(k, rounded<typename D::Weight>(w));
      elements.mean.set(k, rounded<typename D::Mean>(m));
      if constexpr (std::is_same_v<typename D::Variance, BFloat16>)
        elements.variance.set(k, to_bfloat16_stochastic(v, random_bits(key, first + i)));
      else
        elements.variance.set(k, rounded<typename D::Variance>(v));
    };
    const auto vector = [&](uint32_t i) {
      Elements elements;
      if constexpr (D::kHasMaster)
        elements.weight = {};  // rounded from the master
      else
        elements.weight = pack_at<width>(weight + i);
      elements.grad = pack_at<width>(grad + i);
      elements.mean = pack_at<width>(mean + i);
      elements.variance = pack_at<width>(variance + i);
      if constexpr (D::kHasMaster) elements.master = pack_at<width>(master + i);
#if defined(__CUDACC__)
#pragma unroll
#endif
      for (unsigned k = 0; k < width; ++k) {
        update(elements, k, i + k);
        // The elements are updated one after the other: interleaved, their divisions and square roots need more
        // registers than there are. `i` may have changed as far as the compiler knows, so that it computes the
        // addresses again instead of keeping them in registers meanwhile.
        asm volatile("" : "+r"(i) : : "memory");
      }
      pack_at<width>(weight + i) = elements.weight;
      pack_at<width>(mean + i) = elements.mean;
      pack_at<width>(variance + i) = elements.variance;
      if constexpr (D::kHasMaster) pack_at<width>(master + i) = elements.master;
    };
    const auto scalar = [&](uint32_t i) {
      Elements elements{};
      elements.weight.set(0, weight[i]);
      elements.grad.set(0, grad[i]);
      elements.mean.set(0, mean[i]);
      elements.variance.set(0, variance[i]);
      if constexpr (D::kHasMaster) elements.master.set(0, master[i]);
      update(elements, 0, i);
      weight[i] = elements.weight.get(0);
      mean[i] = elements.mean.get(0);
      variance[i] = elements.variance.get(0);
      if constexpr (D::kHasMaster) master[i] = elements.master.get(0);
    };
    const AccessSplit split = split_accesses<D>(weight, grad, mean, variance, master, item.length);
    for_each_element<width>(split, item.length, lane, lanes, vector, scalar);
  });
}

}  // namespace fused_adamw::cuda
