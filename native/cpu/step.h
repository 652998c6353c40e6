// One step over the tensors of a binding on the CPU.
#pragma once

#include "../core/tensor-list.h"
#include "isa/kernels.h"

namespace fused_adamw::cpu {

/// Rounds the scalars of `count` groups to both arithmetic types.
void round_groups(const StepOptions& options, const Group* groups, size_t count, GroupScalars* out);

/// Updates tensors [first, last) of the binding in place. `scalars` holds
/// binding.group_count() groups. Allocates nothing.
void step(const Binding& binding, const Variant& variant, const GroupScalars* scalars, size_t first, size_t last,
          int threads);

}  // namespace fused_adamw::cpu
