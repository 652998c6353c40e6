// The limit that the benchmarks compare with: a plain in-place stream of the bytes of
// a step. It reads weight, gradient, mean, variance and master, writes all but the
// gradient, and does as little arithmetic as possible.
#pragma once

#include <vector>

#include "../../native/core/tensor-list.h"
#include "../../native/cpu/isa/kernels.h"

namespace fused_adamw::bench {

/// How the elements are distributed to threads.
enum class Cut {
  step,    // as in a step
  parts,   // one contiguous part per thread
  chunks,  // chunks of 1 Mi elements, first come, first served
};

struct StreamVariant {
  const char* name;
  Cut cut;
  bool nontemporal;  // stores that bypass the caches
  bool prefetch;     // software prefetch some pages ahead
};

inline constexpr StreamVariant kStreamVariants[] = {
    {"stream", Cut::step, false, false},
    {"stream, parts", Cut::parts, false, false},
    {"stream, parts, non-temporal", Cut::parts, true, false},
    {"stream, parts, prefetch", Cut::parts, false, true},
    {"stream, 1 Mi chunks", Cut::chunks, false, false},
    {"stream, 1 Mi chunks, non-temporal", Cut::chunks, true, false},
};

/// Streams over all tensors of a list once. Arrays that are not aligned to 64
/// bytes, and tensors with masters, take no non-temporal stores.
void stream(const Binding& binding, const StreamVariant& variant, int threads);

}  // namespace fused_adamw::bench
