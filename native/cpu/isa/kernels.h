// The instruction-set variants of the step's loop, and the one that is active.
#pragma once

#include <string_view>
#include <vector>

#include "../../core/dtype-configs.h"
#include "../../core/gradient-norm.h"
#include "../../core/scalars.h"

namespace fused_adamw::cpu {

/// Consecutive elements of one tensor.
struct Span {
  ByRole<void*> arrays;  // null where the configuration has none
  size_t length;         // elements
  uint64_t first;        // index in the tensor of the first element, a multiple of kBlock
  uint32_t key;          // of the tensor, for stochastic rounding
  uint32_t count;        // update count, for stochastic rounding
};

/// Elements that a kernel converts at a time. Tensors are split at multiples of it.
inline constexpr size_t kBlock = 256;

/// The scalars of a group, rounded to both arithmetic types.
struct GroupScalars {
  Scalars<float> f32;
  Scalars<double> f64;
  uint32_t count;
  bool stochastic_weights;

  template <typename T>
  ADAMW_INLINE const Scalars<T>& of() const {
    if constexpr (std::is_same_v<T, double>)
      return f64;
    else
      return f32;
  }
};
GroupScalars round_scalars(const StepScalars& step, const ScalarGroup& group);

using Kernel = void (*)(const Span&, const GroupScalars&);

/// Conversions of `length` values. They are here for the tests, which run them on every bit pattern.
struct Conversions {
  void (*from_float16)(const Float16*, float*, size_t);
  void (*to_float16)(const float*, Float16*, size_t);
  void (*from_bfloat16)(const BFloat16*, float*, size_t);
  void (*to_bfloat16)(const float*, BFloat16*, size_t);
};

/// The sum of the squares of at most kNormBlock elements; sets `finite` to false where one is infinite or NaN.
using SumOfSquares = double (*)(const void* grad, size_t length, bool* finite);

/// Adds `length` elements from `first` on.
using Accumulate = void (*)(void* into, const void* grad, size_t first, size_t length, double scale);

struct Variant {
  const char* name;
  bool (*supported)();
  Kernel kernels[kKernels];
  Conversions conversions;
  SumOfSquares sum_of_squares[kDTypeConfigs];  // of the gradients of a configuration
  Accumulate accumulate[kAccumulations];

  Kernel kernel(Rule rule, DTypeConfig config) const { return kernels[kernel_index(rule, config)]; }
};

/// The variants that this machine runs and that round every operation, the preferred one first.
const std::vector<const Variant*>& variants();

/// The variant of that name, or null.
const Variant* find_variant(std::string_view name);

/// The variant that steps run, by default the preferred one. Needs one in variants().
const Variant& active_variant();
void set_active_variant(const Variant& variant);

/// Whether the variant's loops round every operation. This catches compilers that
/// contract a * b + c to one rounding.
bool rounds_exactly(const Variant& variant);

}  // namespace fused_adamw::cpu
