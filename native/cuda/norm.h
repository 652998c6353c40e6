// The kernels of the sums of squares of gradients, a thread at a time, in the order of core/gradient-norm.h. The tests
// compile them for the host, as loop.h.
#pragma once

#include "../core/gradient-norm.h"
#include "loop.h"

namespace fused_adamw::cuda {

/// The dtype of a gradient.
enum class GradType : uint16_t { float32, float64, float16, bfloat16 };

/// At most kNormBlock elements of a gradient, from a multiple of kNormBlock on.
struct NormItem {
  uint32_t tensor;
  uint16_t length;
  GradType type;
  uint64_t start;
};

struct SquareSum {
  double sum;
  double invalid;  // 0, or NaN where an element is infinite or NaN
};

struct NormParameters {
  const void* const* grads;  // of each tensor
  const NormItem* items;     // of all tensors, in their order
  const uint32_t* starts;    // items before tensor i; the last entry is their number
  SquareSum* of_items;
  SquareSum* of_tensors;
  uint32_t tensor_count;
};

inline constexpr unsigned kItemsOfBlock = kBlock / kNormLanes;

/// Each lane of an item.
template <typename T>
ADAMW_INLINE SquareSum sum_of_lane(const T* grad, uint32_t length, unsigned lane) {
  pin(grad);
  SquareSum lane_sum{};
  // So many loads are in flight.
#if defined(__CUDACC__)
#pragma unroll 8
#endif
  for (uint32_t i = lane; i < length; i += kNormLanes) {
    const double value = load(grad[i]);
    lane_sum.sum += value * value;
    // Finite squares of float64 may overflow, those of the others do not.
    if constexpr (std::is_same_v<T, double>) lane_sum.invalid += value - value;
  }
  if constexpr (!std::is_same_v<T, double>) lane_sum.invalid = lane_sum.sum - lane_sum.sum;
  return lane_sum;
}

ADAMW_INLINE SquareSum sum_of_lane(const NormItem& item, const void* grad, unsigned lane) {
  switch (item.type) {
    case GradType::float32:
      return sum_of_lane(static_cast<const float*>(grad) + item.start, item.length, lane);
    case GradType::float64:
      return sum_of_lane(static_cast<const double*>(grad) + item.start, item.length, lane);
    case GradType::float16:
      return sum_of_lane(static_cast<const Float16*>(grad) + item.start, item.length, lane);
    case GradType::bfloat16:
      return sum_of_lane(static_cast<const BFloat16*>(grad) + item.start, item.length, lane);
  }
  return {};
}

/// The sum of what of_lane(k) is for each lane, where `lane` is 0. On a GPU the other lanes are the next threads, which
/// call it too.
template <class OfLane>
ADAMW_INLINE SquareSum sum_over_lanes(unsigned lane, const OfLane& of_lane) {
#if defined(__CUDA_ARCH__)
  SquareSum total = of_lane(lane);
  const unsigned mask = 0xffffu << (threadIdx.x & 16);  // the threads of this item alone: there may be no next one
  for (unsigned width = kNormLanes / 2; width > 0; width /= 2) {
    total.sum += __shfl_down_sync(mask, total.sum, width, kNormLanes);
    total.invalid += __shfl_down_sync(mask, total.invalid, width, kNormLanes);
  }
  return total;
#else
  if (lane != 0) return {};
  double sums[kNormLanes], invalid[kNormLanes];
  for (unsigned k = 0; k < kNormLanes; ++k) {
    const SquareSum of_this = of_lane(k);
    sums[k] = of_this.sum;
    invalid[k] = of_this.invalid;
  }
  return {sum_lanes(sums), sum_lanes(invalid)};
#endif
}

/// The sum of each item, by as many threads as there are lanes.
ADAMW_INLINE void sum_items_thread(const NormParameters& parameters, unsigned block, unsigned thread) {
  const unsigned i = block * kItemsOfBlock + thread / kNormLanes, lane = thread % kNormLanes;
  if (i >= parameters.starts[parameters.tensor_count]) return;
  const NormItem item = parameters.items[i];
  const void* grad = parameters.grads[item.tensor];
  const SquareSum sum = sum_over_lanes(lane, [&](unsigned k) { return sum_of_lane(item, grad, k); });
  if (lane == 0) parameters.of_items[i] = sum;
}

/// The sum of each tensor, by one thread.
ADAMW_INLINE void sum_tensors_thread(const NormParameters& parameters, unsigned block, unsigned thread) {
  const unsigned i = block * kBlock + thread;
  if (i >= parameters.tensor_count) return;
  SquareSum total{};
#if defined(__CUDACC__)
#pragma unroll 16
#endif
  for (uint32_t k = parameters.starts[i]; k < parameters.starts[i + 1]; ++k) {
    total.sum += parameters.of_items[k].sum;
    total.invalid += parameters.of_items[k].invalid;
  }
  parameters.of_tensors[i] = total;
}

}  // namespace fused_adamw::cuda
