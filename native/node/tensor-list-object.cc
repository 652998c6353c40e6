#include "tensor-list-object.h"

#include <algorithm>

#include "device-memory-object.h"

namespace fused_adamw {
namespace {

Napi::Value to_javascript(Napi::Env env, const Overlap& overlap) {
  Napi::Array result = Napi::Array::New(env, 4);
  result[0u] = static_cast<int>(overlap.written_role);
  result[1u] = overlap.written_tensor;
  result[2u] = static_cast<int>(overlap.other_role);
  result[3u] = overlap.other_tensor;
  return result;
}

/// By role: whether any of these dtype configurations has such an array.
ByRole<bool> roles_of(const View& configs) {
  ByRole<bool> has{};
  const auto* begin = static_cast<const uint8_t*>(configs.data);
  for (const Role role : kEveryRole)
    has[role] = std::any_of(begin, begin + configs.length, [role](uint8_t config) {
      return config < kDTypeConfigs && role_bytes(static_cast<DTypeConfig>(config), role) > 0;
    });
  return has;
}

}  // namespace

Napi::Function TensorListObject::define(Napi::Env env) {
  return DefineClass(env, "TensorList",
                     {
                         InstanceMethod<&TensorListObject::assign>("assign"),
                         InstanceMethod<&TensorListObject::set_grads>("setGrads"),
                         InstanceMethod<&TensorListObject::set_groups>("setGroups"),
                         InstanceMethod<&TensorListObject::begin>("begin"),
                         InstanceMethod<&TensorListObject::step>("step"),
                         InstanceMethod<&TensorListObject::decide>("decide"),
                         InstanceMethod<&TensorListObject::is_decided>("isDecided"),
                         InstanceMethod<&TensorListObject::read_decision>("readDecision"),
                         InstanceMethod<&TensorListObject::start_step>("startStep"),
                         InstanceMethod<&TensorListObject::start_sums_of_squares>("startSumsOfSquares"),
                         InstanceMethod<&TensorListObject::sums_of_squares>("sumsOfSquares"),
                         InstanceMethod<&TensorListObject::zero_grads>("zeroGrads"),
                         InstanceMethod<&TensorListObject::dispose>("dispose"),
                     });
}

TensorListObject::TensorListObject(const Napi::CallbackInfo& info) : Napi::ObjectWrap<TensorListObject>(info) {}

void TensorListObject::assign(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  guarded(env, [&] {
    clear();
    in_flight_ = Environment::of(env).in_flight;
    const int device = info[0].As<Napi::Number>().Int32Value();
    bool lossless;
    const auto stream = reinterpret_cast<cuda::StreamHandle>(info[1].As<Napi::BigInt>().Uint64Value(&lossless));
    const int rule = info[2].As<Napi::Number>().Int32Value();
    if (rule < 0 || rule >= kRules) throw Napi::RangeError::New(env, "Expected a rule");
    View configs = read_view(env, info[3], napi_uint8_array, "configs");
    const size_t size = configs.length;
    const ByRole<bool> has = roles_of(configs);
    const Napi::Array lists = info[5].As<Napi::Array>();
    if (!lists.IsArray() || lists.Length() != kRoles)
      throw Napi::TypeError::New(env, "Expected a list for each role for lists");
    std::array<std::optional<HeldList>, kRoles> held;
    for (const Role role : kEveryRole) {
      const auto k = static_cast<uint32_t>(role);
      const Napi::Value list = lists[k];
      if (role != Role::grad && !list.IsUndefined() && has[role]) held[k].emplace(env, list, size, kRoleNames[k]);
    }
    // From here on no code of the user runs: what is read stays as it is.
    configs = read_view(env, info[3], napi_uint8_array, "configs");
    const View keys = read_view(env, info[4], napi_uint32_array, "keys");
    if (configs.length != size || keys.length != size)
      throw Napi::RangeError::New(env, "Expected a dtype configuration and a key for each tensor");
    const TensorListArguments arguments{static_cast<Rule>(rule), configs, keys, held.data()};
    steps_ = device < 0 ? make_host_steps(env, arguments)
                        : make_cuda_steps(env, arguments, cuda::Device::get(device), stream);
    for (size_t k = 0; k < held.size(); ++k)
      if (held[k]) held_[k] = held[k]->reference();
  });
}

TensorSteps& TensorListObject::steps(Napi::Env env) const {
  if (!steps_) throw Napi::Error::New(env, "Expected assign() before the use of a TensorList");
  return *steps_;
}

Napi::Value TensorListObject::set_grads(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  return guarded(env, [&]() -> Napi::Value {
    if (info[0].IsTypedArray()) {
      const View slots = read_view(env, info[0], napi_uint32_array, "grad");
      if (const auto overlap = steps(env).set_grads(env, slots)) return to_javascript(env, *overlap);
      has_grads_ = true;
      return env.Null();
    }
    const HeldList grads(env, info[0], steps(env).list().size(), kRoleNames[static_cast<int>(Role::grad)]);
    Napi::ObjectReference reference = grads.reference();
    // Code of the user may have run while the list was copied, hence again steps().
    const auto overlap = steps(env).set_grads(env, grads);
    if (overlap) return to_javascript(env, *overlap);
    held_[static_cast<size_t>(Role::grad)] = std::move(reference);
    has_grads_ = true;
    return env.Null();
  });
}

void TensorListObject::set_groups(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  guarded(env, [&] {
    ScalarTable scalars(env, info[1]);
    steps(env).set_groups(read_groups(env, info[0], steps(env).list().size(), scalars.group_count()),
                          scalars.group_count());
    scalars_ = std::move(scalars);
  });
}

void TensorListObject::begin(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  guarded(env, [&] {
    if (!has_grads_ || scalars_.is_empty())
      throw Napi::Error::New(env, "Expected setGrads and setGroups before a step");
    in_flight_->sweep();
    steps(env).begin(scalars_);
  });
}

void TensorListObject::step(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  guarded(env, [&] {
    const size_t first = info[0].As<Napi::Number>().Uint32Value();
    const size_t last = info[1].As<Napi::Number>().Uint32Value();
    if (!has_grads_ || scalars_.is_empty() || first > last || last > steps(env).list().size())
      throw Napi::Error::New(env, "Expected setGrads, setGroups and a range of tensors before a step");
    steps(env).run(scalars_, first, last);
    scalars_.add_progress(last - first);
  });
}

void TensorListObject::decide(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  guarded(env, [&] {
    const ScalarTable candidates(env, info[0]);
    const View decision = read_view(env, info[1], napi_float64_array, "decision");
    if (!has_grads_ || scalars_.is_empty() || decision.length != kDecisionScalarNames.size())
      throw Napi::Error::New(env, "Expected setGrads, setGroups and the scalars of a decision before a step");
    const DeviceMemoryObject* scale = nullptr;
    if (!info[2].IsUndefined()) {
      scale = &DeviceMemoryObject::of(env, info[2], "scale");
      if (&scale->device() != steps(env).device() || scale->bytes() != sizeof(float))
        throw Napi::Error::New(env, "Expected a float32 on the device of the tensors for scale");
    }
    in_flight_->sweep();
    steps(env).decide(candidates, *static_cast<const DecisionScalars*>(decision.data), scale);
    scalars_.note_beginning();
  });
}

Napi::Value TensorListObject::is_decided(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  return guarded(env, [&]() -> Napi::Value {
    return Napi::Boolean::New(env, steps(env).is_decided(info[0].As<Napi::Number>().Uint32Value()));
  });
}

void TensorListObject::read_decision(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  guarded(env, [&] {
    const auto found = steps(env).decision(info[0].As<Napi::Number>().Uint32Value());
    const View to = read_view(env, info[1], napi_float64_array, "to");
    if (to.length != found.size()) throw Napi::Error::New(env, "Expected an array of a decision's size for to");
    std::copy(found.begin(), found.end(), static_cast<double*>(to.data));
  });
}

Napi::Value TensorListObject::start_step(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  return guarded(env, [&]() -> Napi::Value {
    if (!has_grads_ || scalars_.is_empty())
      throw Napi::Error::New(env, "Expected setGrads and setGroups before a step");
    return start(env, steps(env).step_job(scalars_));
  });
}

Napi::Value TensorListObject::start_sums_of_squares(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  return guarded(env, [&]() -> Napi::Value {
    if (!has_grads_) throw Napi::Error::New(env, "Expected setGrads before sumsOfSquares");
    return start(env, steps(env).sums_of_squares_job());
  });
}

Napi::Value TensorListObject::start(Napi::Env env, std::unique_ptr<BackgroundJob> job) const {
  for (const Napi::ObjectReference& reference : held_)
    if (!reference.IsEmpty()) job->hold(Napi::Persistent(reference.Value()));
  return Environment::of(env).background_jobs.start(env, std::move(job));
}

Napi::Value TensorListObject::sums_of_squares(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  return guarded(env, [&]() -> Napi::Value {
    const View sums = read_view(env, info[0], napi_float64_array, "sums");
    if (!has_grads_ || sums.length != steps(env).list().size())
      throw Napi::Error::New(env, "Expected setGrads before sumsOfSquares, and a sum for each tensor");
    return Napi::Boolean::New(env, steps(env).sums_of_squares(static_cast<double*>(sums.data)));
  });
}

void TensorListObject::zero_grads(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  guarded(env, [&] {
    if (!has_grads_) throw Napi::Error::New(env, "Expected setGrads before zeroGrads");
    steps(env).zero_grads();
  });
}

void TensorListObject::dispose(const Napi::CallbackInfo& info) {
  guarded(info.Env(), [&] { clear(); });
}

void TensorListObject::clear() {
  has_grads_ = false;
  steps_.reset();
  scalars_ = ScalarTable();
  for (Napi::ObjectReference& reference : held_) reference.Reset();
}

}  // namespace fused_adamw
