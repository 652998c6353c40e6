// The context of a GPU, and how our calls are made in it.
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

/// Our calls of the driver in its scope never invalidate a stream capture that
/// somebody else has begun, on this thread or another: an allocation or the
/// query of an event would, in the default mode.
class RelaxedCaptureMode {
 public:
  RelaxedCaptureMode();
  ~RelaxedCaptureMode();
  RelaxedCaptureMode(const RelaxedCaptureMode&) = delete;
  RelaxedCaptureMode& operator=(const RelaxedCaptureMode&) = delete;

 private:
  int previous_ = kRelaxedCapture;
};

/// Makes a context current, in the relaxed capture mode, and restores the previous
/// one at the end.
class ContextGuard {
 public:
  explicit ContextGuard(ContextHandle context);
  ~ContextGuard();
  ContextGuard(const ContextGuard&) = delete;
  ContextGuard& operator=(const ContextGuard&) = delete;

 private:
  RelaxedCaptureMode mode_;
};

}  // namespace fused_adamw::cuda
