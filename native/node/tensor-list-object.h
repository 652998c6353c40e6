// TensorList as JavaScript sees it.
#pragma once

#include <array>
#include <memory>

#include "tensor-steps.h"

namespace fused_adamw {

/// Holds strong references to every array whose address it has; they are taken in
/// the same call as the addresses.
class TensorListObject : public Napi::ObjectWrap<TensorListObject> {
 public:
  static Napi::Function define(Napi::Env env);

  /// new TensorList(): empty, until assign()
  explicit TensorListObject(const Napi::CallbackInfo& info);

 private:
  /// assign(device, stream: bigint, rule, configs: Uint8Array, keys: Uint32Array, lists): takes other tensors in place
  /// of all that it had. Objects are used again because the finalizer of one that was dropped waits for the event loop.
  ///
  /// device: -1 for typed arrays, else the ordinal of the GPU of DeviceMemory objects
  /// lists: by role, each with one array for each tensor; undefined for the gradients, and for roles that no tensor has
  void assign(const Napi::CallbackInfo& info);
  /// setGrads(list): takes typed arrays or, as a Uint32Array, the slots of DeviceMemory objects. Returns null, or
  /// [role, tensor, role, tensor] of two arrays that share memory, the written one first. Then the previous gradients
  /// stay.
  Napi::Value set_grads(const Napi::CallbackInfo& info);
  /// setGroups(groupOf: Uint32Array, scalars: Float64Array): the group of each tensor, and the array that holds the
  /// scalars of all later steps.
  void set_groups(const Napi::CallbackInfo& info);
  /// begin(): for a GPU, reads the scalars of a step and uploads what has changed. If this fails, nothing has changed.
  void begin(const Napi::CallbackInfo& info);
  /// step(first, last): updates tensors [first, last) in place. The calls of one step go through the tensors in order;
  /// on the CPU the call that starts at 0 reads the scalars.
  void step(const Napi::CallbackInfo& info);
  /// decide(candidates: Float64Array, decision: Float64Array, scale?: DeviceMemory): for a GPU, in place of begin().
  /// The device decides whether the step takes place, and which of the candidates it takes: they are laid out as the
  /// scalars of setGroups(), with all groups for each number of steps that may have been skipped. The decision is
  /// DecisionScalars; the scale of the next step goes into `scale`, a float32. `progress` becomes 0.5.
  void decide(const Napi::CallbackInfo& info);
  /// isDecided(number): whether readDecision() would return at once.
  Napi::Value is_decided(const Napi::CallbackInfo& info);
  /// readDecision(number, to: Float64Array): what was decided about a step, by its number since the last start. Waits
  /// for it, and may be called again. Writes the outcome (a cuda::Decision::Outcome), the norm, and whether all
  /// gradients are finite (0 or 1).
  void read_decision(const Napi::CallbackInfo& info);
  /// startStep(): Promise; as step() over all tensors, on the background thread and with the scalars as they are now.
  /// `progress` stays as it is.
  Napi::Value start_step(const Napi::CallbackInfo& info);
  /// startSumsOfSquares(): Promise<{ sums: Float64Array, finite: boolean }>, on the background thread.
  Napi::Value start_sums_of_squares(const Napi::CallbackInfo& info);
  /// sumsOfSquares(sums: Float64Array): writes the sum of the squares of each gradient, in the order of
  /// core/gradient-norm.h. Returns whether all elements are finite.
  Napi::Value sums_of_squares(const Napi::CallbackInfo& info);
  void zero_grads(const Napi::CallbackInfo& info);
  /// dispose(): frees everything. assign() may follow.
  void dispose(const Napi::CallbackInfo& info);

  TensorSteps& steps(Napi::Env env) const;
  Napi::Value start(Napi::Env env, std::unique_ptr<BackgroundJob> job) const;
  void clear();

  std::shared_ptr<InFlight> in_flight_;
  std::unique_ptr<TensorSteps> steps_;              // null before assign() and after dispose()
  std::array<Napi::ObjectReference, kRoles> held_;  // by role
  ScalarTable scalars_;
  bool has_grads_ = false;
};

}  // namespace fused_adamw
