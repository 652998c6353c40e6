// What the files that speak Node-API share: addon.cc and addon-cuda.cc.
#pragma once

// A worker that is terminated takes no errors any more: they are dropped, not
// fatal to the process.
#define NODE_API_SWALLOW_UNTHROWABLE_EXCEPTIONS
#include <napi.h>

#include <optional>
#include <string>

#include "binding.h"

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
  static constexpr size_t kCommon = sizeof(StepOptions) / sizeof(double), kEach = sizeof(Group) / sizeof(double);

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

inline StepOptions options_of(const double* scalars) { return {scalars[0], scalars[1], scalars[2], scalars[3]}; }
inline const Group* groups_of(const double* scalars) {
  return reinterpret_cast<const Group*>(scalars + GroupArguments::kCommon);
}

constexpr size_t kTensorsPerScope = 256;  // handles are freed after as many

/// What the addon exports as `cuda`.
Napi::Object define_cuda(Napi::Env env);

}  // namespace fused_adamw
