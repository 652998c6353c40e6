// How a TensorListObject's tensors are read and stepped, by where their memory is.
#pragma once

#include <array>
#include <memory>
#include <optional>
#include <vector>

#include "../core/tensor-list.h"
#include "../cuda/device.h"
#include "background-jobs.h"
#include "held-list.h"
#include "read.h"

namespace fused_adamw {

class DeviceMemoryObject;

/// A list of tensors in one memory, and the steps over it.
class TensorSteps {
 public:
  virtual ~TensorSteps() = default;
  virtual const TensorList& list() const = 0;
  /// Of the tensors; null for the CPU.
  virtual const cuda::Device* device() const { return nullptr; }
  /// As TensorList::set_grads, for typed arrays, which the caller keeps.
  virtual std::optional<Overlap> set_grads(Napi::Env env, const HeldList&) {
    throw Napi::TypeError::New(env, "Expected the slots of device memories for grad");
  }
  /// The same for DeviceMemory objects by their slots (uint32), whose memories it keeps.
  virtual std::optional<Overlap> set_grads(Napi::Env env, const View&) {
    throw Napi::TypeError::New(env, "Expected a list of arrays, one for each tensor, for grad");
  }
  /// As TensorList::set_groups.
  virtual void set_groups(const std::vector<uint32_t>& groups, size_t group_count) = 0;
  /// Does everything of a step that may fail, before the step has changed anything.
  virtual void begin(const ScalarTable& scalars) = 0;
  /// Updates tensors [first, last).
  virtual void run(const ScalarTable& scalars, size_t first, size_t last) = 0;
  /// run() over all tensors as a job, with the scalars as they are now.
  virtual std::unique_ptr<BackgroundJob> step_job(const ScalarTable&) const {
    throw std::logic_error("Expected tensors on the CPU");
  }
  /// sums_of_squares() as a job, whose result is { sums: Float64Array, finite }.
  virtual std::unique_ptr<BackgroundJob> sums_of_squares_job() const {
    throw std::logic_error("Expected tensors on the CPU");
  }
  /// As cuda::Step::decide().
  virtual void decide(const ScalarTable&, const DecisionScalars&, const DeviceMemoryObject*) {
    throw std::logic_error("Expected tensors on a GPU");
  }
  virtual bool is_decided(size_t) const { throw std::logic_error("Expected tensors on a GPU"); }
  /// The outcome (cuda::Decision::Outcome), the norm, and whether all gradients are finite.
  virtual std::array<double, 3> decision(size_t) const { throw std::logic_error("Expected tensors on a GPU"); }
  /// Writes the sum of the squares of each gradient; false if an element is infinite or NaN.
  virtual bool sums_of_squares(double* sums) = 0;
  virtual void zero_grads() = 0;
};

/// What the constructor of a TensorList was given; the lists by role.
struct TensorListArguments {
  Rule rule;
  View configs, keys;
  const std::optional<HeldList>* lists;
};

/// Typed arrays.
std::unique_ptr<TensorSteps> make_host_steps(Napi::Env env, const TensorListArguments& arguments);
/// DeviceMemory objects of one GPU.
std::unique_ptr<TensorSteps> make_cuda_steps(Napi::Env env, const TensorListArguments& arguments, cuda::Device& device,
                                             cuda::StreamHandle stream);

constexpr size_t kTensorsPerScope = 256;  // handles are freed after so many tensors

template <typename Visit>
void for_each_tensor(Napi::Env env, size_t size, const Visit& visit) {
  for (size_t start = 0; start < size; start += kTensorsPerScope) {
    const Napi::HandleScope scope(env);
    for (size_t i = start; i < std::min(size, start + kTensorsPerScope); ++i) visit(static_cast<uint32_t>(i));
  }
}

/// Reads the arrays of all roles but the gradients. read_array(value, element_bytes, name)
/// returns the View of one.
template <typename ReadArray>
TensorList read_tensors(Napi::Env env, const TensorListArguments& arguments, const ReadArray& read_array) {
  std::vector<TensorArrays> tensors(arguments.configs.length);
  for_each_tensor(env, tensors.size(), [&](uint32_t i) {
    TensorArrays& tensor = tensors[i];
    const uint8_t config = static_cast<const uint8_t*>(arguments.configs.data)[i];
    if (config >= kDTypeConfigs) throw Napi::RangeError::New(env, "Expected a dtype configuration");
    tensor.config = static_cast<DTypeConfig>(config);
    tensor.key = static_cast<const uint32_t*>(arguments.keys.data)[i];
    bool is_first = true;
    for (const Role role : kEveryRole) {
      const size_t bytes = role_bytes(tensor.config, role);
      if (role == Role::grad || bytes == 0) continue;
      const std::optional<HeldList>& list = arguments.lists[static_cast<int>(role)];
      const char* name = kRoleNames[static_cast<int>(role)];
      if (!list) throw Napi::TypeError::New(env, std::string("Expected a list of arrays for ") + name);
      const View view = read_array((*list)[i], bytes, name);
      if (is_first) tensor.length = view.length;
      if (view.length != tensor.length)
        throw Napi::RangeError::New(env, std::string("Expected arrays of equal length for ") + name);
      tensor.arrays[role] = view.data;
      is_first = false;
    }
  });
  return TensorList(arguments.rule, std::move(tensors));
}

/// Reads the gradients, one for each tensor and as long as its weight. read_grad(i, element_bytes) returns the View of
/// one.
template <typename ReadGrad>
std::vector<void*> read_grads(Napi::Env env, const TensorList& list, const ReadGrad& read_grad) {
  std::vector<void*> addresses(list.size());
  for_each_tensor(env, list.size(), [&](uint32_t i) {
    const TensorArrays& tensor = list.tensor(i);
    const View view = read_grad(i, role_bytes(tensor.config, Role::grad));
    if (view.length != tensor.length) throw Napi::RangeError::New(env, "Expected arrays of equal length for grad");
    addresses[i] = view.data;
  });
  return addresses;
}

}  // namespace fused_adamw
