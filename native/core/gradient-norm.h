// The order in which the squares of a gradient are summed, which every backend follows.
//
// It depends on the positions of elements alone, never on addresses, chunks or threads: element i of a block of 4,096
// belongs to lane i mod 16; each lane is summed in order, the lanes by a tree, the blocks of a tensor in order and the
// tensors in the order of the call. All of it is in double, in which the squares of float32 and of both halves are
// exact.
#pragma once

#include <cstddef>

#include "dtypes.h"

namespace fused_adamw {

inline constexpr size_t kNormBlock = 4096;  // elements
inline constexpr size_t kNormLanes = 16;

/// The sum of the lanes, which are overwritten.
ADAMW_INLINE double sum_lanes(double* lanes) {
  for (size_t width = kNormLanes / 2; width > 0; width /= 2)
    for (size_t k = 0; k < width; ++k) lanes[k] += lanes[k + width];
  return lanes[0];
}

/// The dtypes of accumulate(into, grads): X(into, grad), the C++ types. Each element becomes into + scale * grad, with
/// both operations rounded to the arithmetic type of `into`. The order is part of the interface with
/// lib/backend/abi.ts.
#define FUSED_ADAMW_ACCUMULATIONS(X) \
  X(float, float)                    \
  X(float, Float16)                  \
  X(float, BFloat16)                 \
  X(double, double)                  \
  X(Float16, Float16)                \
  X(BFloat16, BFloat16)

/// The bytes of each element of the arrays of accumulate(), by position in FUSED_ADAMW_ACCUMULATIONS.
struct AccumulationBytes {
  size_t into, grad;
};
#define FUSED_ADAMW_BYTES(Into, Grad) {sizeof(Into), sizeof(Grad)},
inline constexpr AccumulationBytes kAccumulationBytes[] = {FUSED_ADAMW_ACCUMULATIONS(FUSED_ADAMW_BYTES)};
#undef FUSED_ADAMW_BYTES
inline constexpr int kAccumulations = sizeof kAccumulationBytes / sizeof *kAccumulationBytes;

/// Two arrays of accumulate(), of `length` elements.
struct Accumulation {
  int dtypes;  // position in FUSED_ADAMW_ACCUMULATIONS
  void* into;
  const void* grad;
  size_t length;
};

template <typename T>
ADAMW_INLINE T accumulated(T into, T grad, T scale) {
  return into + scale * grad;
}

}  // namespace fused_adamw
