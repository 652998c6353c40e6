// The kernels: one launch updates any number of tensors of one dtype configuration.
#include "accumulate-loop.h"
#include "decision.h"
#include "loop.h"
#include "norm.h"

namespace {
using namespace fused_adamw;
using namespace fused_adamw::cuda;
}  // namespace

#define DEFINE_KERNEL(rule, config)                                                             \
  extern "C" __global__ void __launch_bounds__(kBlock, 4) adamw_##rule##_##config(              \
      const __grid_constant__ StepParameters<ArithmeticType<DTypeConfig::config>> parameters) { \
    step_thread<Rule::rule, DTypeConfig::config>(parameters, blockIdx.x, threadIdx.x);          \
  }
#define DTYPE_CONFIG(identifier, ...) FUSED_ADAMW_RULES(DEFINE_KERNEL, identifier)
#include "../core/dtype-configs.def"

#define DEFINE_GRADIENT_KERNEL(name, Parameters)                       \
  extern "C" __global__ void __launch_bounds__(kBlock)                 \
      gradient_##name(const __grid_constant__ Parameters parameters) { \
    name##_thread(parameters, blockIdx.x, threadIdx.x);                \
  }
DEFINE_GRADIENT_KERNEL(sum_items, NormParameters)
DEFINE_GRADIENT_KERNEL(sum_tensors, NormParameters)
DEFINE_GRADIENT_KERNEL(decide, DecisionParameters)
DEFINE_GRADIENT_KERNEL(choose_scalars, DecisionParameters)
DEFINE_GRADIENT_KERNEL(accumulate, AccumulateParameters)
