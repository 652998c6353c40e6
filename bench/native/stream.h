// The roof of the benchmarks: a plain in-place stream of the bytes of a step
// (it reads weight, gradient, mean, variance and master, and writes all but the
// gradient), with as little arithmetic as possible.
#pragma once

#include <vector>

#include "../../native/core/tensor-list.h"
#include "../../native/cpu/isa/kernels.h"

namespace fused_adamw::bench {

/// How the elements are distributed to threads.
enum class Partition {
  step,    // as the step does it
  parts,   // one contiguous part a thread
  chunks,  // chunks of 1 Mi elements, first come, first served
};

struct StreamVariant {
  const char* name;
  Partition partition;
  bool nontemporal;  // stores that bypass the caches
  bool prefetch;     // software prefetch some pages ahead
};

inline constexpr StreamVariant kStreamVariants[] = {
    {"stream", Partition::step, false, false},
    {"stream, parts", Partition::parts, false, false},
    {"stream, parts, non-temporal", Partition::parts, true, false},
    {"stream, parts, prefetch", Partition::parts, false, true},
    {"stream, 1 Mi chunks", Partition::chunks, false, false},
    {"stream, 1 Mi chunks, non-temporal", Partition::chunks, true, false},
};

/// Streams over all tensors of a list once. Dtype configurations with masters, and
/// arrays that are not aligned to 64 bytes, have no non-temporal stores.
void stream(const TensorList& list, const StreamVariant& variant, int threads);

/// Reads the gradients of all tensors once.
void read_grads(const TensorList& list, int threads);

}  // namespace fused_adamw::bench
