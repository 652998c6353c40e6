// The device code, and the kernels that a device loaded.
#pragma once

#include <iterator>
#include <string>

#include "../core/dtype-configs.h"
#include "context.h"
#include "driver.h"
#include "kernels.h"

namespace fused_adamw::cuda {

/// The device code, a fatbin or anything else that cuModuleLoadData() takes; set before the first Device.
void set_device_code(std::string image);
bool has_device_code();

/// The device code loaded into a context; it stays to the end of the process.
class Module {
 public:
  /// Throws Unavailable with the reason where the code is not usable.
  explicit Module(const PrimaryContext& context);

  FunctionHandle kernel(Rule rule, DTypeConfig config) const { return kernels_[kernel_index(rule, config)]; }
  FunctionHandle kernel(GradientKernel kernel) const { return gradient_kernels_[static_cast<int>(kernel)]; }

 private:
  FunctionHandle kernels_[kKernels] = {};
  FunctionHandle gradient_kernels_[std::size(kGradientKernels)] = {};
};

}  // namespace fused_adamw::cuda
