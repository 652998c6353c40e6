// The names of the kernels: one for each rule and layout.
#pragma once

#include "../core/dtypes.h"

// X(rule, layout), in the order of `Rule` and `Layout`.
#define FUSED_ADAMW_LAYOUTS_OF(X, rule) \
  X(rule, float32)                      \
  X(rule, float64)                      \
  X(rule, float16)                      \
  X(rule, float16_float32_states)       \
  X(rule, float16_master)               \
  X(rule, bfloat16)                     \
  X(rule, bfloat16_float32_states)      \
  X(rule, bfloat16_master)
#define FUSED_ADAMW_KERNELS(X)       \
  FUSED_ADAMW_LAYOUTS_OF(X, mxnet)   \
  FUSED_ADAMW_LAYOUTS_OF(X, coupled) \
  FUSED_ADAMW_LAYOUTS_OF(X, pytorch)

namespace fused_adamw::cuda {

#define KERNEL_NAME(rule, layout) "adamw_" #rule "_" #layout,
inline constexpr const char* kKernelNames[kRules * kLayouts] = {FUSED_ADAMW_KERNELS(KERNEL_NAME)};
#undef KERNEL_NAME

}  // namespace fused_adamw::cuda
