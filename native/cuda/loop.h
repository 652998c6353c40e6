// The step of one thread of a CUDA kernel. It is compiled for the host too,
// where the tests run it for every thread of every block.
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

/// Elements that lie together, moved by one access.
template <typename T, unsigned width>
struct alignas(width * sizeof(T)) Pack {
  T values[width];

  ADAMW_INLINE T get(unsigned k) const { return values[k]; }
  ADAMW_INLINE void set(unsigned k, T value) { values[k] = value; }
};

/// Halves stay two to a register.
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

template <class P, typename T>
ADAMW_INLINE auto& at(T* array) {
  using Q = std::conditional_t<std::is_const_v<T>, const P, P>;
  return *reinterpret_cast<Q*>(array);
}

/// The elements that a thread holds while it updates them.
template <class D>
struct Held {
  template <typename T>
  using PackOf = Pack<T, D::kWidth>;

  PackOf<typename D::Weight> weight, grad;
  PackOf<typename D::State> mean, variance;
  PackOf<float> master;  // unused without one
};

template <Rule rule, Layout layout>
ADAMW_INLINE void step_thread(const StepParameters<Arithmetic<typename Dtypes<layout>::Weight>>& parameters,
                              unsigned block, unsigned blocks, unsigned thread) {
  using D = Dtypes<layout>;
  using W = typename D::Weight;
  using S = typename D::State;
  using T = Arithmetic<W>;
  constexpr unsigned width = D::kWidth;

  const StepTables& tables = parameters.tables;
  const auto* groups = tables.groups ? static_cast<const DeviceGroup<T>*>(tables.groups) : parameters.groups;
  for_each_unit(tables, block, blocks, thread, [&](const Unit& unit, unsigned lane, unsigned lanes) {
    const DeviceTensor& tensor = tables.tensors[unit.tensor];
    W* weight = static_cast<W*>(tensor.weight) + unit.start;
    const W* grad = static_cast<const W*>(tables.grads[unit.tensor]) + unit.start;
    S* mean = static_cast<S*>(tensor.mean) + unit.start;
    S* variance = static_cast<S*>(tensor.variance) + unit.start;
    float* master = D::kMaster ? tensor.master + unit.start : nullptr;
    const DeviceGroup<T>& group = groups[tables.group_of[unit.tensor]];
    const Scalars<T>& scalars = group.scalars;
    const RandomKey key = random_key(static_cast<uint32_t>(tensor.key), group.count,
                                     static_cast<uint32_t>(unit.start >> 32));  // only of bfloat16 variances
    const auto first = static_cast<uint32_t>(unit.start);

    const auto update = [&](Held<D>& held, unsigned k, uint32_t i) {
      T w;
      if constexpr (D::kMaster)
        w = held.master.get(k);
      else
        w = load(held.weight.get(k));
      T m = load(held.mean.get(k));
      T v = load(held.variance.get(k));
      adamw<rule>(w, load(held.grad.get(k)), m, v, scalars);
      if constexpr (D::kMaster) held.master.set(k, w);
      held.weight.set(k, rounded<W>(w));
      held.mean.set(k, rounded<S>(m));
      if constexpr (std::is_same_v<S, BFloat16>)
        held.variance.set(k, to_bfloat16_stochastic(v, random_bits(key, first + i)));
      else
        held.variance.set(k, rounded<S>(v));
    };
    const auto together = [&](uint32_t i) {
      Held<D> held;
      if constexpr (D::kMaster)
        held.weight = {};  // rounded from the master
      else
        held.weight = at<typename Held<D>::template PackOf<W>>(weight + i);
      held.grad = at<typename Held<D>::template PackOf<W>>(grad + i);
      held.mean = at<typename Held<D>::template PackOf<S>>(mean + i);
      held.variance = at<typename Held<D>::template PackOf<S>>(variance + i);
      if constexpr (D::kMaster) held.master = at<typename Held<D>::template PackOf<float>>(master + i);
#if defined(__CUDACC__)
#pragma unroll
#endif
      for (unsigned k = 0; k < width; ++k) {
        update(held, k, i + k);
        // One element after the other: woven together their quotients and roots need more registers than there are. And
        // with an `i` that may have changed, so that the addresses are made again rather than kept meanwhile.
        asm volatile("" : "+r"(i) : : "memory");
      }
      at<typename Held<D>::template PackOf<W>>(weight + i) = held.weight;
      at<typename Held<D>::template PackOf<S>>(mean + i) = held.mean;
      at<typename Held<D>::template PackOf<S>>(variance + i) = held.variance;
      if constexpr (D::kMaster) at<typename Held<D>::template PackOf<float>>(master + i) = held.master;
    };
    const auto apart = [&](uint32_t i) {
      Held<D> held{};
      held.weight.set(0, weight[i]);
      held.grad.set(0, grad[i]);
      held.mean.set(0, mean[i]);
      held.variance.set(0, variance[i]);
      if constexpr (D::kMaster) held.master.set(0, master[i]);
      update(held, 0, i);
      weight[i] = held.weight.get(0);
      mean[i] = held.mean.get(0);
      variance[i] = held.variance.get(0);
      if constexpr (D::kMaster) master[i] = held.master.get(0);
    };
    const Cut cut = cut_unit<D>(weight, grad, mean, variance, master, unit.length);
    for_each_element<width>(cut, unit.length, lane, lanes, together, apart);
  });
}

}  // namespace fused_adamw::cuda
