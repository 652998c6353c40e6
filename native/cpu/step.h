// One step over a list of tensors on the CPU.
#pragma once

#include "../core/tensor-list.h"
#include "isa/kernels.h"

namespace fused_adamw::cpu {

/// Rounds the scalars of `count` groups to both arithmetic types.
void round_groups(const StepScalars& step, const ScalarGroup* groups, size_t count, GroupScalars* out);

/// Updates tensors [first, last) of the list in place. `scalars` holds
/// list.group_count() groups. Allocates nothing.
///
/// @param zero_grads whether to clear the gradients, each part while it is in a cache
void step(const TensorList& list, const Variant& variant, const GroupScalars* scalars, size_t first, size_t last,
          int threads, bool zero_grads = false);

}  // namespace fused_adamw::cpu
