// The device code: its files, and the kernels that a device loaded.
#pragma once

#include <string>
#include <vector>

#include "../core/adamw.h"
#include "../core/dtypes.h"
#include "context.h"
#include "driver.h"

namespace fused_adamw::cuda {

/// Files with device code, the preferred one first; set before the first Device.
void set_device_code(std::vector<std::string> paths);

struct Kernel {
  FunctionHandle function = nullptr;
  unsigned resident_blocks = 0;  // that the device runs at a time
};

/// The device code loaded into a context; it stays to the end of the process.
class Module {
 public:
  /// Throws Unavailable with the reasons where no file is usable.
  explicit Module(const PrimaryContext& context);

  const Kernel& kernel(Rule rule, Layout layout) const {
    return kernels_[static_cast<int>(rule) * kLayouts + static_cast<int>(layout)];
  }

 private:
  Kernel kernels_[kRules * kLayouts];
};

}  // namespace fused_adamw::cuda
