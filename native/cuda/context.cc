#include "context.h"

namespace fused_adamw::cuda {

PrimaryContext::PrimaryContext(int ordinal) {
  const RelaxedCaptureMode mode;
  FUSED_ADAMW_CUDA(cuDeviceGet, &device_, ordinal);
  FUSED_ADAMW_CUDA(cuDevicePrimaryCtxRetain, &handle_, device_);
}
PrimaryContext::~PrimaryContext() { driver().cuDevicePrimaryCtxRelease_v2(device_); }

RelaxedCaptureMode::RelaxedCaptureMode() { FUSED_ADAMW_CUDA(cuThreadExchangeStreamCaptureMode, &previous_); }
RelaxedCaptureMode::~RelaxedCaptureMode() { driver().cuThreadExchangeStreamCaptureMode(&previous_); }

ContextGuard::ContextGuard(ContextHandle context) { FUSED_ADAMW_CUDA(cuCtxPushCurrent_v2, context); }
ContextGuard::~ContextGuard() {
  ContextHandle popped;
  driver().cuCtxPopCurrent_v2(&popped);
}

}  // namespace fused_adamw::cuda
