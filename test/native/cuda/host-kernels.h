// The kernels on the host, where step_thread() is called for one thread after the other.
#pragma once

#include "cuda/kernels.h"
#include "cuda/loop.h"

namespace fused_adamw::cuda::testing {

struct HostKernel {
  const char* name;
  Rule rule;
  Layout layout;
  size_t parameter_bytes, group_bytes;
  /// One block. `parameters` are the StepParameters of the layout's arithmetic type.
  void (*run_block)(const void* parameters, unsigned block, unsigned blocks);
};

template <Layout layout>
using ParametersOf = StepParameters<Arithmetic<typename Dtypes<layout>::Weight>>;
template <Layout layout>
using GroupOf = DeviceGroup<Arithmetic<typename Dtypes<layout>::Weight>>;

template <Rule rule, Layout layout>
void run_block(const void* parameters, unsigned block, unsigned blocks) {
  for (unsigned thread = 0; thread < kBlock; ++thread)
    step_thread<rule, layout>(*static_cast<const ParametersOf<layout>*>(parameters), block, blocks, thread);
}

#define HOST_KERNEL(rule, layout)        \
  {"adamw_" #rule "_" #layout,           \
   Rule::rule,                           \
   Layout::layout,                       \
   sizeof(ParametersOf<Layout::layout>), \
   sizeof(GroupOf<Layout::layout>),      \
   &run_block<Rule::rule, Layout::layout>},
inline constexpr HostKernel kHostKernels[] = {FUSED_ADAMW_KERNELS(HOST_KERNEL)};
#undef HOST_KERNEL

}  // namespace fused_adamw::cuda::testing
