// The kernel of accumulate(), a thread at a time. The tests compile it for the host, as loop.h.
#pragma once

#include "../core/gradient-norm.h"
#include "loop.h"

namespace fused_adamw::cuda {

/// At most kItemLength elements of two arrays, from a multiple of that on.
struct AccumulateItem {
  uint32_t tensor;
  uint16_t length;
  uint16_t dtypes;  // position in FUSED_ADAMW_ACCUMULATIONS
  uint64_t start;
};

/// Two arrays on the device.
struct ArrayPair {
  void* into;
  const void* grad;
};

struct AccumulateParameters {
  const ArrayPair* arrays;      // of each tensor
  const AccumulateItem* items;  // one for each block
  double scale;
};

/// The elements of an item that one thread of a block adds.
template <typename Into, typename Grad>
ADAMW_INLINE void accumulate_elements(Into* into, const Grad* grad, uint32_t length, double scale, unsigned thread) {
  using T = Arithmetic<Into>;
  constexpr unsigned width = kAccess / max_of({sizeof(Into), sizeof(Grad)});
  pin(into);
  pin(grad);
  const T factor = static_cast<T>(scale);
  const auto sum = [factor](const auto& a, const auto& b) {
    return accumulated(static_cast<T>(load(a)), static_cast<T>(load(b)), factor);
  };
  const auto is_aligned = [](const auto* array) {
    return reinterpret_cast<uintptr_t>(array) % (width * sizeof(*array)) == 0;
  };
  const uint32_t vectors = is_aligned(into) && is_aligned(grad) ? length / width : 0;
  // So many loads are in flight.
#if defined(__CUDACC__)
#pragma unroll 4
#endif
  for (uint32_t i = thread * width; i < vectors * width; i += kBlock * width) {
    auto sums = pack_at<width>(into + i);
    const auto grads = pack_at<width>(grad + i);
#if defined(__CUDACC__)
#pragma unroll
#endif
    for (unsigned k = 0; k < width; k += 2)
      sums.set_pair(k, sum(sums.get(k), grads.get(k)), sum(sums.get(k + 1), grads.get(k + 1)));
    pack_at<width>(into + i) = sums;
  }
  for (uint32_t i = vectors * width + thread; i < length; i += kBlock) into[i] = rounded<Into>(sum(into[i], grad[i]));
}

ADAMW_INLINE void accumulate_thread(const AccumulateParameters& parameters, unsigned block, unsigned thread) {
  const AccumulateItem item = parameters.items[block];
  const ArrayPair arrays = parameters.arrays[item.tensor];
  int dtypes = 0;
#define FUSED_ADAMW_CASE(Into, Grad)                                  \
  if (item.dtypes == dtypes++)                                        \
    accumulate_elements(static_cast<Into*>(arrays.into) + item.start, \
                        static_cast<const Grad*>(arrays.grad) + item.start, item.length, parameters.scale, thread);
  FUSED_ADAMW_ACCUMULATIONS(FUSED_ADAMW_CASE)
#undef FUSED_ADAMW_CASE
}

}  // namespace fused_adamw::cuda
