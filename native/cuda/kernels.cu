// The kernels: one launch updates any number of tensors of one layout.
#include "kernels.h"
#include "loop.h"

namespace {
using namespace fused_adamw;
using namespace fused_adamw::cuda;
}  // namespace

#if !defined(FUSED_ADAMW_DEVICE_CODE)
#error "the build defines FUSED_ADAMW_DEVICE_CODE: what this was made from, and by which compiler"
#endif
/// Read from the file that carries the kernels, by lib/backend/cuda.ts.
extern "C" __device__ const char fused_adamw_device_code[] = FUSED_ADAMW_DEVICE_CODE;

#define DEFINE_KERNEL(rule, layout)                                                                    \
  extern "C" __global__ void __launch_bounds__(kBlock, 4) adamw_##rule##_##layout(                     \
      const __grid_constant__ StepParameters<Arithmetic<Dtypes<Layout::layout>::Weight>> parameters) { \
    step_thread<Rule::rule, Layout::layout>(parameters, blockIdx.x, gridDim.x, threadIdx.x);           \
  }
FUSED_ADAMW_KERNELS(DEFINE_KERNEL)
