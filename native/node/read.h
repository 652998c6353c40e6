// Reading arguments from JavaScript.
//
// TypeScript has validated what it passes and words every message that a user is
// meant to read. Whatever could lead to a wrong memory access is checked again here.
#pragma once

#include <string>
#include <vector>

#include "../core/scalars.h"
#include "errors.h"

namespace fused_adamw {

/// The memory of an array.
struct View {
  void* data;
  size_t length;
};

/// The memory of a typed array, with its true length, whatever a subclass reports.
/// This also moves the elements of a small array out of V8's heap for good.
inline View read_view(Napi::Env env, napi_value value, napi_typedarray_type expected, const char* name) {
  napi_typedarray_type type;
  View view;
  if (napi_get_typedarray_info(env, value, &type, &view.length, &view.data, nullptr, nullptr) != napi_ok ||
      type != expected)
    throw Napi::TypeError::New(env, std::string("Expected a typed array of the dtype for ") + name);
  return view;
}

/// The memory of a typed array of elements of so many bytes, as those of a dtype are stored.
inline View read_array(Napi::Env env, napi_value value, size_t element_bytes, const char* name) {
  const napi_typedarray_type type = element_bytes == 2   ? napi_uint16_array
                                    : element_bytes == 4 ? napi_float32_array
                                                         : napi_float64_array;
  return read_view(env, value, type, name);
}

/// The argument `scalars` of setGroups: those of the step, then those of each group. The
/// array is read at each step, since TypeScript writes new values into it, and its
/// `progress` is written.
class ScalarTable {
 public:
  ScalarTable() = default;
  ScalarTable(Napi::Env env, const Napi::Value& value) {
    const View view = read_view(env, value, napi_float64_array, "scalars");
    if (view.length < kStep || (view.length - kStep) % kGroup != 0)
      throw Napi::RangeError::New(env, "Expected the scalars of a step and of each group for scalars");
    data_ = static_cast<double*>(view.data);
    group_count_ = (view.length - kStep) / kGroup;
    holder_ = Napi::Persistent(value.As<Napi::Object>());
  }

  bool is_empty() const { return data_ == nullptr; }
  size_t group_count() const { return group_count_; }
  const StepScalars& step() const { return *reinterpret_cast<const StepScalars*>(data_); }
  /// Notes that so many more tensors are updated.
  void add_progress(size_t tensors) { reinterpret_cast<StepScalars*>(data_)->progress += static_cast<double>(tensors); }
  /// Notes that a step has begun.
  void note_beginning() { reinterpret_cast<StepScalars*>(data_)->progress += 0.5; }
  const ScalarGroup* groups() const { return reinterpret_cast<const ScalarGroup*>(data_ + kStep); }

 private:
  static constexpr size_t kStep = kStepScalarNames.size(), kGroup = kGroupScalarNames.size();

  Napi::ObjectReference holder_;
  double* data_ = nullptr;
  size_t group_count_ = 0;
};

/// The argument `groupOf` of setGroups: the group of each tensor.
inline std::vector<uint32_t> read_groups(Napi::Env env, const Napi::Value& value, size_t tensors, size_t group_count) {
  const View view = read_view(env, value, napi_uint32_array, "groupOf");
  const auto* begin = static_cast<const uint32_t*>(view.data);
  std::vector<uint32_t> groups(begin, begin + view.length);
  if (groups.size() != tensors) throw Napi::RangeError::New(env, "Expected a group for each tensor");
  for (const uint32_t group : groups)
    if (group >= group_count) throw Napi::RangeError::New(env, "Expected the number of a group");
  return groups;
}

}  // namespace fused_adamw
