// One step over the tensors of a binding on the CPU.
#pragma once

#include "../binding.h"
#include "kernels.h"

namespace fused_adamw::cpu {

/// Updates tensors [first, last) of the binding in place. `groups` holds
/// binding.group_count() groups.
void step(const Binding& binding, const Variant& variant, const StepOptions& options, const Group* groups, size_t first,
          size_t last, int threads);

}  // namespace fused_adamw::cpu
