// The kernels on the host, where step_thread() is called for each thread in turn.
#pragma once

#include <array>
#include <string>
#include <utility>

#include "cuda/kernels.h"
#include "cuda/loop.h"

namespace fused_adamw::cuda::testing {

struct HostKernel {
  std::string name;
  Rule rule;
  DTypeConfig config;
  size_t parameter_bytes, group_bytes;
  /// Runs one block. `parameters` are the StepParameters of the configuration's arithmetic type.
  void (*run_block)(const void* parameters, unsigned block);
};

template <Rule rule, DTypeConfig config>
void run_block(const void* parameters, unsigned block) {
  using Parameters = StepParameters<ArithmeticType<config>>;
  for (unsigned thread = 0; thread < kBlock; ++thread)
    step_thread<rule, config>(*static_cast<const Parameters*>(parameters), block, thread);
}

template <Rule rule, DTypeConfig config>
HostKernel make_host_kernel() {
  using T = ArithmeticType<config>;
  return {kernel_name(rule, config), rule, config, sizeof(StepParameters<T>), sizeof(DeviceGroup<T>),
          &run_block<rule, config>};
}

template <int... kernels>
std::array<HostKernel, kKernels> make_host_kernels(std::integer_sequence<int, kernels...>) {
  return {make_host_kernel<rule_of_kernel(kernels), config_of_kernel(kernels)>()...};
}
inline const std::array<HostKernel, kKernels> kHostKernels =
    make_host_kernels(std::make_integer_sequence<int, kKernels>{});

}  // namespace fused_adamw::cuda::testing
