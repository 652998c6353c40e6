// What the files that speak Node-API share: addon.cc and addon-cuda.cc.
#pragma once

// A worker that is terminated takes no errors any more: they are dropped, not
// fatal to the process.
#define NODE_API_SWALLOW_UNTHROWABLE_EXCEPTIONS
#include <napi.h>

#include <algorithm>
#include <optional>
#include <string>
#include <vector>

#include "../core/scalars.h"
#include "../core/tensor-list.h"

namespace fused_adamw {

/// Runs a method's body; the one place where a C++ exception becomes a
/// JavaScript error.
template <typename Body>
auto guarded(Napi::Env env, Body body) {
  try {
    return body();
  } catch (const Napi::Error&) {
    throw;
  } catch (const std::bad_alloc&) {
    throw Napi::Error::New(env, "Out of memory");
  } catch (const std::exception& error) {
    throw Napi::Error::New(env, error.what());
  }
}

struct View {
  void* data;
  size_t length;
};

/// The memory of a typed array; its true length, whatever a subclass says.
/// This also moves a small array out of V8's heap for good.
inline View read_view(Napi::Env env, napi_value value, napi_typedarray_type expected, const char* name) {
  napi_typedarray_type type;
  View view;
  if (napi_get_typedarray_info(env, value, &type, &view.length, &view.data, nullptr, nullptr) != napi_ok ||
      type != expected)
    throw Napi::TypeError::New(env, std::string("Expected a typed array of the dtype for ") + name);
  return view;
}

/// null, or [role, tensor, role, tensor] of two arrays that share memory, the written one first.
inline Napi::Value to_javascript(Napi::Env env, const std::optional<Overlap>& overlap) {
  if (!overlap) return env.Null();
  Napi::Array result = Napi::Array::New(env, 4);
  result[0u] = static_cast<int>(overlap->written_role);
  result[1u] = overlap->written_tensor;
  result[2u] = static_cast<int>(overlap->other_role);
  result[3u] = overlap->other_tensor;
  return result;
}

/// The arguments of setGroups(groupOf: Uint32Array, scalars: Float64Array): which
/// group each tensor belongs to, and the array that holds the scalars of every step from
/// now on: rescale, clip, beta1, beta2, then those of each group.
struct GroupArguments {
  static constexpr size_t kCommon = sizeof(StepScalars) / sizeof(double), kEach = sizeof(ScalarGroup) / sizeof(double);

  std::vector<uint32_t> group_of;
  double* scalars;
  size_t group_count;

  static GroupArguments read(const Napi::CallbackInfo& info, size_t tensors) {
    const Napi::Env env = info.Env();
    const View group_of = read_view(env, info[0], napi_uint32_array, "groupOf");
    const View scalars = read_view(env, info[1], napi_float64_array, "scalars");
    if (group_of.length != tensors || scalars.length < kCommon || (scalars.length - kCommon) % kEach != 0)
      throw Napi::RangeError::New(env, "Expected a group for each tensor and the scalars of each group");
    const auto* begin = static_cast<uint32_t*>(group_of.data);
    GroupArguments arguments{
        {begin, begin + group_of.length}, static_cast<double*>(scalars.data), (scalars.length - kCommon) / kEach};
    for (const uint32_t group : arguments.group_of)
      if (group >= arguments.group_count) throw Napi::RangeError::New(env, "Expected the number of a group");
    return arguments;
  }
};

inline StepScalars options_of(const double* scalars) { return {scalars[0], scalars[1], scalars[2], scalars[3]}; }
inline const ScalarGroup* groups_of(const double* scalars) {
  return reinterpret_cast<const ScalarGroup*>(scalars + GroupArguments::kCommon);
}

constexpr size_t kTensorsPerScope = 256;  // handles are freed after as many

template <typename Each>
void for_each_tensor(Napi::Env env, size_t size, const Each& each) {
  for (size_t start = 0; start < size; start += kTensorsPerScope) {
    const Napi::HandleScope scope(env);
    for (size_t i = start; i < std::min(size, start + kTensorsPerScope); ++i) each(static_cast<uint32_t>(i));
  }
}

/// Array i of a list, which must have so many elements. A List reads one kind of
/// memory: view(i, element_size), name().
template <class List>
void* data_of(Napi::Env env, const List& list, uint32_t i, size_t element_size, size_t length) {
  const View view = list.view(i, element_size);
  if (view.length != length)
    throw Napi::RangeError::New(env, std::string("Expected arrays of equal length for ") + list.name());
  return view.data;
}

/// The arguments rule, layouts: Uint8Array, keys: Uint32Array, weights, means,
/// variances, masters of a Binding, of which rule is number `at`.
/// list_of(value, size, name) makes the List of each.
template <typename ListOf>
TensorList read_binding(const Napi::CallbackInfo& info, size_t at, const ListOf& list_of) {
  const Napi::Env env = info.Env();
  const int rule = info[at].As<Napi::Number>().Int32Value();
  if (rule < 0 || rule >= kRules) throw Napi::RangeError::New(env, "Expected a rule");
  const View layouts = read_view(env, info[at + 1], napi_uint8_array, "layouts");
  const View keys = read_view(env, info[at + 2], napi_uint32_array, "keys");
  const size_t size = layouts.length;
  if (keys.length != size) throw Napi::RangeError::New(env, "Expected one key for each tensor");
  const auto weights = list_of(info[at + 3], size, "weights");
  const auto means = list_of(info[at + 4], size, "means");
  const auto variances = list_of(info[at + 5], size, "variances");
  const auto masters = list_of(info[at + 6], size, "masters");

  std::vector<TensorArrays> tensors(size);
  for_each_tensor(env, size, [&](uint32_t i) {
    const uint8_t layout = static_cast<uint8_t*>(layouts.data)[i];
    if (layout >= kDTypeConfigs) throw Napi::RangeError::New(env, "Expected a layout");
    TensorArrays& tensor = tensors[i];
    tensor.config = static_cast<DTypeConfig>(layout);
    tensor.key = static_cast<uint32_t*>(keys.data)[i];
    const View weight = weights.view(i, role_bytes(tensor.config, Role::weight));
    tensor.length = weight.length;
    tensor.arrays[Role::weight] = weight.data;
    tensor.arrays[Role::mean] = data_of(env, means, i, role_bytes(tensor.config, Role::mean), tensor.length);
    tensor.arrays[Role::variance] =
        data_of(env, variances, i, role_bytes(tensor.config, Role::variance), tensor.length);
    if (role_bytes(tensor.config, Role::master) > 0)
      tensor.arrays[Role::master] = data_of(env, masters, i, role_bytes(tensor.config, Role::master), tensor.length);
  });
  return TensorList(static_cast<Rule>(rule), std::move(tensors));
}

/// The addresses of a list of gradients, one for each tensor and like its weight.
template <class List>
std::vector<void*> read_grads(Napi::Env env, const TensorList& binding, const List& list) {
  std::vector<void*> grads(binding.size());
  for_each_tensor(env, binding.size(), [&](uint32_t i) {
    const TensorArrays& tensor = binding.tensor(i);
    grads[i] = data_of(env, list, i, role_bytes(tensor.config, Role::grad), tensor.length);
  });
  return grads;
}

/// What the addon exports as `cuda`.
Napi::Object define_cuda(Napi::Env env);

}  // namespace fused_adamw
