// How every kernel is launched.
#pragma once

#include "driver.h"
#include "work.h"

namespace fused_adamw::cuda {

/// Puts so many blocks of a kernel on the stream, if any. Needs a current context.
template <class Parameters>
void launch_kernel(FunctionHandle kernel, size_t blocks, Parameters& parameters, StreamHandle stream) {
  if (blocks == 0) return;
  void* arguments[] = {&parameters};
  FUSED_ADAMW_CUDA(cuLaunchKernel, kernel, static_cast<unsigned>(blocks), 1, 1, kBlock, 1, 1, 0, stream, arguments,
                   nullptr);
}

/// Blocks in which each of `count` has a place, where a block has so many.
inline size_t blocks_for(size_t count, size_t of_a_block) { return (count + of_a_block - 1) / of_a_block; }

}  // namespace fused_adamw::cuda
