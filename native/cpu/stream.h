// What the machine's memory allows a step: a plain stream of the bytes that it reads and writes.
#pragma once

#include <algorithm>
#include <cstddef>

#include "threads.h"

namespace fused_adamw::cpu {

/// Reads four float32 arrays and writes all but the gradient, on the threads of a step, with as little arithmetic as
/// compilers do not leave out. It changes the values.
inline void stream(float* weight, const float* grad, float* mean, float* variance, size_t length) {
  constexpr size_t kChunk = 64 * 1024;
  for_each_chunk((length + kChunk - 1) / kChunk, num_threads(), [=](size_t chunk) {
    const size_t begin = chunk * kChunk, end = std::min(length, begin + kChunk);
    float* __restrict w = weight, * __restrict m = mean, * __restrict v = variance;
    const float* __restrict g = grad;
    for (size_t i = begin; i < end; ++i) {
      w[i] += g[i];
      m[i] = -m[i];
      v[i] = -v[i];
    }
  });
}

}  // namespace fused_adamw::cpu
