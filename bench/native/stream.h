// The roof of the benchmarks: a plain in-place stream of the bytes of a step
// (it reads weight, gradient, mean, variance and master, and writes all but the
// gradient), with as little arithmetic as cannot be left out.
#pragma once

#include <vector>

#include "../../native/core/tensor-list.h"
#include "../../native/cpu/isa/kernels.h"

namespace fused_adamw::bench {

/// How the elements are given out to threads.
enum class Cut {
  step,    // as the step does it
  parts,   // one contiguous part a thread
  chunks,  // chunks of 1 Mi elements, first come, first served
};

struct StreamVariant {
  const char* name;
  Cut cut;
  bool nontemporal;  // stores that pass the caches by
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

/// Streams over all tensors of a binding once. A layout with masters, and
/// arrays that are not aligned to 64 bytes, have no non-temporal stores.
void stream(const Binding& binding, const StreamVariant& variant, int threads);

}  // namespace fused_adamw::bench
