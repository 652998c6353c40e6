// Sums of gradients in the memory of a GPU.
#pragma once

#include <vector>

#include "../core/gradient-norm.h"
#include "device.h"

namespace fused_adamw::cuda {

/// into = into + scale * grad, for each pair of arrays, in memory that `memories` own. On the legacy default stream,
/// after all steps and copies so far and before later ones. Does not wait for the device.
void accumulate(Device& device, const std::vector<Accumulation>& accumulations, Memories memories, double scale);

}  // namespace fused_adamw::cuda
