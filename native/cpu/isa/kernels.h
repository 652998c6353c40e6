// The instruction-set variants of the step's loop, and which one runs.
#pragma once

#include <string_view>
#include <vector>

#include "../../core/dtypes.h"

namespace fused_adamw::cpu {

/// A run of elements of one tensor.
struct Span {
  void* weight;
  const void* grad;
  void* mean;
  void* variance;
  float* master;   // null without one
  size_t length;   // elements
  uint64_t first;  // place in the tensor of the first element, a multiple of kBlock
  uint32_t key;    // of the tensor, for stochastic rounding
  uint32_t count;  // update count, for stochastic rounding
};

/// Elements that a kernel for narrow types converts at a time; a tensor is cut
/// at multiples of it.
inline constexpr size_t kBlock = 256;

struct GroupScalars {
  Scalars<float> single;
  Scalars<double> wide;
  uint32_t count;
};

using Kernel = void (*)(const Span&, const GroupScalars&);

/// Conversion of `length` values; the tests run them on every bit pattern.
struct Conversions {
  void (*from_float16)(const Float16*, float*, size_t);
  void (*to_float16)(const float*, Float16*, size_t);
  void (*from_bfloat16)(const BFloat16*, float*, size_t);
  void (*to_bfloat16)(const float*, BFloat16*, size_t);
};

struct Variant {
  const char* name;
  bool (*supported)();
  Kernel kernels[kRules][kLayouts];
  Conversions conversions;

  Kernel kernel(Rule rule, Layout layout) const { return kernels[static_cast<int>(rule)][static_cast<int>(layout)]; }
};

/// The variants that this machine runs and whose arithmetic proved exact, the
/// preferred one first.
const std::vector<const Variant*>& variants();

/// The variant of that name, or null.
const Variant* find_variant(std::string_view name);

/// Whether the variant's loops round every operation. A compiler that contracts
/// a * b + c to one rounding is caught here.
bool rounds_exactly(const Variant& variant);

}  // namespace fused_adamw::cpu
