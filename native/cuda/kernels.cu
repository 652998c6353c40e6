// The kernels: one launch updates any number of tensors of one dtype configuration.
#include "loop.h"

namespace {
using namespace fused_adamw;
using namespace fused_adamw::cuda;
}  // namespace

#if !defined(FUSED_ADAMW_DEVICE_CODE)
#error "the build must define FUSED_ADAMW_DEVICE_CODE: a hash of the sources, and the compiler"
#endif
/// lib/backend/cuda.ts reads this from the file with the device code.
extern "C" __device__ const char fused_adamw_device_code[] = FUSED_ADAMW_DEVICE_CODE;

#define DEFINE_KERNEL(rule, config)                                                             \
  extern "C" __global__ void __launch_bounds__(kBlock, 4) adamw_##rule##_##config(              \
      const __grid_constant__ StepParameters<ArithmeticType<DTypeConfig::config>> parameters) { \
    step_thread<Rule::rule, DTypeConfig::config>(parameters, blockIdx.x, threadIdx.x);          \
  }
#define DTYPE_CONFIG(identifier, ...) FUSED_ADAMW_RULES(DEFINE_KERNEL, identifier)
#include "../core/dtype-configs.def"
