// The names of the kernels in kernels.cu.
#pragma once

#include <string>

#include "../core/dtype-configs.h"

namespace fused_adamw::cuda {

inline std::string kernel_name(Rule rule, DTypeConfig config) {
  return std::string("adamw_") + kRuleNames[static_cast<int>(rule)] + "_" + info(config).identifier;
}

}  // namespace fused_adamw::cuda
