// The names of the kernels in kernels.cu.
#pragma once

#include <string>

#include "../core/dtype-configs.h"

namespace fused_adamw::cuda {

/// Those around the step.
enum class NormKernel { sum_items, sum_tensors };
inline constexpr NormKernel kNormKernels[] = {NormKernel::sum_items, NormKernel::sum_tensors};
constexpr const char* kernel_name(NormKernel kernel) {
  constexpr const char* names[] = {"norm_sum_items", "norm_sum_tensors"};
  return names[static_cast<int>(kernel)];
}

inline std::string kernel_name(Rule rule, DTypeConfig config) {
  return std::string("adamw_") + kRuleNames[static_cast<int>(rule)] + "_" + info(config).identifier;
}

}  // namespace fused_adamw::cuda
