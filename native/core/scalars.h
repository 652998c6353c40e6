// The scalars of a step: as the host computes them, and rounded for the kernels.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

#include "adamw.h"

namespace fused_adamw {

// X(name): the scalars that all tensors of a step share, and those that differ from group
// to group. `count` is the update count, for stochastic rounding. `progress` is written: it
// counts the tensors that the step has updated. If `zero_grads` is not 0, the gradients are cleared; if
// `stochastic_weights` is not 0, bfloat16 weights without masters are rounded stochastically. The order is part of the
// interface with lib/backend/abi.ts, which compares the names when it loads the addon.
#define FUSED_ADAMW_STEP_SCALARS(X) X(rescale) X(clip) X(beta1) X(beta2) X(zero_grads) X(stochastic_weights) X(progress)
#define FUSED_ADAMW_GROUP_SCALARS(X) X(eta) X(lr) X(wd) X(epsilon) X(root) X(count)

// X(name): what a GPU decides about a step by, in the same way. Whether it clips by `max_norm`; whether it divides the
// gradients by the scale of a LossScaler, and the growthFactor, backoffFactor and growthInterval of that. If `restarts`
// is not 0, `scale` and `tracker` are the scale and the growthTracker before the step, else the last step has left them
// on the device; `skips` counts the steps since the last such start that were skipped, as far as the host knows.
#define FUSED_ADAMW_DECISION_SCALARS(X) \
  X(clips) X(max_norm) X(scales) X(dynamic) X(growth) X(backoff) X(interval) X(restarts) X(scale) X(tracker) X(skips)

#define FUSED_ADAMW_DECLARE(name) double name = 0;
#define FUSED_ADAMW_NAME(name) #name,

struct StepScalars {
  FUSED_ADAMW_STEP_SCALARS(FUSED_ADAMW_DECLARE)
};
struct ScalarGroup {
  FUSED_ADAMW_GROUP_SCALARS(FUSED_ADAMW_DECLARE)
};
struct DecisionScalars {
  FUSED_ADAMW_DECISION_SCALARS(FUSED_ADAMW_DECLARE)
};

inline constexpr std::array<const char*, sizeof(StepScalars) / sizeof(double)> kStepScalarNames = {
    FUSED_ADAMW_STEP_SCALARS(FUSED_ADAMW_NAME)};
inline constexpr std::array<const char*, sizeof(ScalarGroup) / sizeof(double)> kGroupScalarNames = {
    FUSED_ADAMW_GROUP_SCALARS(FUSED_ADAMW_NAME)};
inline constexpr std::array<const char*, sizeof(DecisionScalars) / sizeof(double)> kDecisionScalarNames = {
    FUSED_ADAMW_DECISION_SCALARS(FUSED_ADAMW_NAME)};

#undef FUSED_ADAMW_DECLARE
#undef FUSED_ADAMW_NAME

/// Rounds the scalars of a step to the arithmetic type, each once.
template <typename T>
inline Scalars<T> round_scalars(const StepScalars& step, const ScalarGroup& group) {
  return {
      static_cast<T>(step.rescale),
      static_cast<T>(step.clip),
      static_cast<T>(step.beta1),
      static_cast<T>(step.beta2),
      lerp_factor<T>(step.beta1),
      static_cast<T>(1 - step.beta2),
      static_cast<T>(group.eta),
      static_cast<T>(group.lr),
      static_cast<T>(group.wd),
      static_cast<T>(group.epsilon),
      static_cast<T>(1 - group.lr * group.wd),
      static_cast<T>(group.root),
  };
}

/// The update count as the random numbers take it: its lower 32 bits.
inline uint32_t round_count(const ScalarGroup& group) {
  return static_cast<uint32_t>(static_cast<uint64_t>(group.count));
}

}  // namespace fused_adamw
