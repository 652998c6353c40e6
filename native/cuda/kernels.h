// The names of the kernels in kernels.cu.
#pragma once

#include <string>

#include "../core/dtype-configs.h"

namespace fused_adamw::cuda {

/// Those of the norm of gradients and of what follows from it (norm.h, decision.h), and of sums (accumulate-loop.h).
enum class GradientKernel { sum_items, sum_tensors, decide, choose_scalars, accumulate };
inline constexpr GradientKernel kGradientKernels[] = {GradientKernel::sum_items, GradientKernel::sum_tensors,
                                                      GradientKernel::decide, GradientKernel::choose_scalars,
                                                      GradientKernel::accumulate};
constexpr const char* kernel_name(GradientKernel kernel) {
  constexpr const char* names[] = {"gradient_sum_items", "gradient_sum_tensors", "gradient_decide",
                                   "gradient_choose_scalars", "gradient_accumulate"};
  return names[static_cast<int>(kernel)];
}

inline std::string kernel_name(Rule rule, DTypeConfig config) {
  return std::string("adamw_") + kRuleNames[static_cast<int>(rule)] + "_" + info(config).identifier;
}

}  // namespace fused_adamw::cuda
