// The kernels on the host, where their function of one thread is called for each in turn.
#pragma once

#include <array>
#include <string>
#include <utility>

#include "cuda/accumulate-loop.h"
#include "cuda/decision.h"
#include "cuda/kernels.h"

namespace fused_adamw::cuda::testing {

/// A kernel of whatever kind.
struct HostKernel {
  std::string name;
  size_t parameter_bytes;
  /// Runs one block.
  void (*run_block)(const void* parameters, unsigned block);
};

/// One whose parameters are the StepParameters of the configuration's arithmetic type.
struct HostStepKernel : HostKernel {
  Rule rule;
  DTypeConfig config;
  size_t group_bytes;
};

template <Rule rule, DTypeConfig config>
HostStepKernel make_host_kernel() {
  using T = ArithmeticType<config>;
  const auto run_block = [](const void* parameters, unsigned block) {
    for (unsigned thread = 0; thread < kBlock; ++thread)
      step_thread<rule, config>(*static_cast<const StepParameters<T>*>(parameters), block, thread);
  };
  return {{kernel_name(rule, config), sizeof(StepParameters<T>), run_block}, rule, config, sizeof(DeviceGroup<T>)};
}

template <int... kernels>
std::array<HostStepKernel, kKernels> make_host_kernels(std::integer_sequence<int, kernels...>) {
  return {make_host_kernel<rule_of_kernel(kernels), config_of_kernel(kernels)>()...};
}
inline const std::array<HostStepKernel, kKernels> kHostKernels =
    make_host_kernels(std::make_integer_sequence<int, kKernels>{});

/// One of those around the step.
struct HostGradientKernel : HostKernel {
  GradientKernel kernel;
};

template <class Parameters, auto run_thread>
HostGradientKernel make_host_kernel(GradientKernel kernel) {
  const auto run_block = [](const void* parameters, unsigned block) {
    for (unsigned thread = 0; thread < kBlock; ++thread)
      run_thread(*static_cast<const Parameters*>(parameters), block, thread);
  };
  return {{kernel_name(kernel), sizeof(Parameters), run_block}, kernel};
}
inline const HostGradientKernel kHostGradientKernels[] = {
    make_host_kernel<NormParameters, sum_items_thread>(GradientKernel::sum_items),
    make_host_kernel<NormParameters, sum_tensors_thread>(GradientKernel::sum_tensors),
    make_host_kernel<DecisionParameters, decide_thread>(GradientKernel::decide),
    make_host_kernel<DecisionParameters, choose_scalars_thread>(GradientKernel::choose_scalars),
    make_host_kernel<AccumulateParameters, accumulate_thread>(GradientKernel::accumulate),
};

}  // namespace fused_adamw::cuda::testing
