// The context of a GPU, and making it current.
#pragma once

#include "driver.h"

namespace fused_adamw::cuda {

/// A device's primary context, retained.
class PrimaryContext {
 public:
  explicit PrimaryContext(int ordinal);
  ~PrimaryContext();
  PrimaryContext(const PrimaryContext&) = delete;
  PrimaryContext& operator=(const PrimaryContext&) = delete;

  DeviceHandle device() const { return device_; }
  ContextHandle handle() const { return handle_; }

 private:
  DeviceHandle device_ = 0;
  ContextHandle handle_ = nullptr;
};

/// Makes a context current, and restores the previous one at the end.
class ContextGuard {
 public:
  explicit ContextGuard(ContextHandle context);
  ~ContextGuard();
  ContextGuard(const ContextGuard&) = delete;
  ContextGuard& operator=(const ContextGuard&) = delete;
};

}  // namespace fused_adamw::cuda
