// The names of the kernels in kernels.cu.
#pragma once

#include <string>

#include "../core/dtype-configs.h"

namespace fused_adamw::cuda {

/// Those of the norm of gradients and of what follows from it (norm.h, decision.h).
enum class NormKernel { sum_items, sum_tensors, decide, choose_scalars };
inline constexpr NormKernel kNormKernels[] = {NormKernel::sum_items, NormKernel::sum_tensors, NormKernel::decide,
                                              NormKernel::choose_scalars};
constexpr const char* kernel_name(NormKernel kernel) {
  constexpr const char* names[] = {"norm_sum_items", "norm_sum_tensors", "norm_decide", "norm_choose_scalars"};
  return names[static_cast<int>(kernel)];
}

inline std::string kernel_name(Rule rule, DTypeConfig config) {
  return std::string("adamw_") + kRuleNames[static_cast<int>(rule)] + "_" + info(config).identifier;
}

}  // namespace fused_adamw::cuda
