// The kernels that decide about a step on the GPU, a thread at a time: whether it takes place, and its scalars. The
// tests compile them for the host, as loop.h.
#pragma once

#include <cmath>

#include "norm.h"

namespace fused_adamw::cuda {

struct DecisionParameters {
  const SquareSum* of_tensors;
  uint32_t tensor_count;
  uint32_t group_count;
  uint32_t uses_float32;  // whether any tensor is updated in float32
  double rescale;         // of the gradients, apart from the LossScaler and clipping
  DecisionScalars scalars;
  Decision* decision;
  float* scale;  // where to write the scale of the next step; null for nowhere
  // The scalars of each group for each number of skipped steps, and where those go that the step takes; null where no
  // tensor has the arithmetic type.
  const DeviceGroup<float>* candidates_f32;
  const DeviceGroup<double>* candidates_f64;
  DeviceGroup<float>* chosen_f32;
  DeviceGroup<double>* chosen_f64;
};

/// isSkipped() of lib/step/scalar-checks.ts.
ADAMW_INLINE bool is_skipped(double rescale, bool uses_float32) {
  if (rescale - rescale != 0 || rescale == 0) return true;
  const auto rounded = static_cast<float>(rescale);
  return uses_float32 && (rounded - rounded != 0 || rounded == 0);
}

/// LossScaler.update() of lib/gradients/loss-scaler.ts.
ADAMW_INLINE void update_scale(Decision& decision, const DecisionScalars& scalars, bool finite) {
  if (finite && ++decision.growth_tracker < scalars.interval) return;
  decision.growth_tracker = 0;
  const double next = decision.scale * (finite ? scalars.growth : scalars.backoff);
  const auto rounded = static_cast<float>(next);
  if (rounded > 0 && rounded - rounded == 0) decision.scale = next;
}

/// What lib/step/measurement.ts finds out on the host, by one thread.
ADAMW_INLINE void decide_thread(const DecisionParameters& parameters, unsigned block, unsigned thread) {
  using std::sqrt;
  if (block != 0 || thread != 0) return;
  const DecisionScalars& scalars = parameters.scalars;
  SquareSum total{};
#if defined(__CUDACC__)
#pragma unroll 16
#endif
  for (uint32_t i = 0; i < parameters.tensor_count; ++i) {
    total.sum += parameters.of_tensors[i].sum;
    total.invalid += parameters.of_tensors[i].invalid;
  }
  Decision decision{};
  if (scalars.restarts != 0) {
    decision.scale = scalars.scale;
    decision.growth_tracker = scalars.tracker;
  } else {
    decision = *parameters.decision;
  }
  decision.candidate = decision.skips - static_cast<uint32_t>(scalars.skips);
  decision.rescale = scalars.scales != 0 ? parameters.rescale / decision.scale : parameters.rescale;
  decision.norm = sqrt(total.sum) * (decision.rescale < 0 ? -decision.rescale : decision.rescale);
  decision.finite = total.invalid == 0;
  decision.outcome = Decision::Outcome::taken;
  if (is_skipped(decision.rescale, parameters.uses_float32 != 0)) {
    decision.outcome = Decision::Outcome::skipped_by_rescale;
  } else {
    if (decision.finite == 0 || (scalars.clips != 0 && decision.norm - decision.norm != 0)) {
      decision.outcome = Decision::Outcome::skipped_by_norm;
    } else if (scalars.clips != 0) {
      const double factor = scalars.max_norm / (decision.norm + 1e-6);
      if (factor < 1) decision.rescale *= factor;
    }
    if (scalars.scales != 0 && scalars.dynamic != 0) update_scale(decision, scalars, decision.finite != 0);
  }
  if (decision.outcome != Decision::Outcome::taken) ++decision.skips;
  *parameters.decision = decision;
  if (parameters.scale) *parameters.scale = static_cast<float>(decision.scale);
}

template <typename T>
ADAMW_INLINE void choose(const DeviceGroup<T>* candidates, DeviceGroup<T>* chosen, const Decision& decision,
                         uint32_t group_count, uint32_t group) {
  if (!candidates) return;
  const DeviceGroup<T>& candidate = candidates[decision.candidate * group_count + group];
  Scalars<T> scalars = candidate.scalars;
  scalars.rescale = static_cast<T>(decision.rescale);
  chosen[group].scalars = scalars;
  chosen[group].count = candidate.count;
}

/// The scalars of one group, after decide_thread().
ADAMW_INLINE void choose_scalars_thread(const DecisionParameters& parameters, unsigned block, unsigned thread) {
  const uint32_t group = block * kBlock + thread;
  if (group >= parameters.group_count) return;
  const Decision decision = *parameters.decision;
  choose(parameters.candidates_f32, parameters.chosen_f32, decision, parameters.group_count, group);
  choose(parameters.candidates_f64, parameters.chosen_f64, decision, parameters.group_count, group);
}

}  // namespace fused_adamw::cuda
