// How many processors this process may use.
#pragma once

namespace fused_adamw::cpu {

/// Processors that this process may use: by affinity and by cgroup quota.
int available_processors();

}  // namespace fused_adamw::cpu
