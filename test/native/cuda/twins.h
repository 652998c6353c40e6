// Tensors on a device with copies on the host, to compare a step there with one
// of the CPU.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstring>
#include <memory>
#include <vector>

#include "../support.h"
#include "core/tensor-list.h"
#include "cpu/gradients.h"
#include "cpu/step.h"
#include "cuda/step.h"
#include "cuda/transfer.h"

namespace fused_adamw::cuda::testing {

using fused_adamw::testing::Random;

/// An array of a device, some elements after the start of its memory.
template <typename T>
class DeviceArray {
 public:
  DeviceArray(Device& device, const T* values, size_t length, size_t misalignment)
      : memory_(device.allocate((length + misalignment) * sizeof(T))), offset_(misalignment * sizeof(T)) {
    set(values, length);
  }
  void set(const T* values, size_t length) { copy_from_host(memory_, offset_, values, length * sizeof(T)); }
  /// By an asynchronous copy.
  void start_to_set(const T* values, size_t length) {
    auto pinned = memory_->device().allocate_pinned(length * sizeof(T) + 1);
    std::memcpy(pinned->data(), values, length * sizeof(T));
    const StreamCallback done = [](StreamHandle, Status, void* context) { delete static_cast<PinnedMemory*>(context); };
    start_copy_from_host(memory_, pinned->data(), length * sizeof(T), done, pinned.get(), offset_);
    pinned.release();
  }
  std::vector<T> get(size_t length) const {
    std::vector<T> values(length);
    copy_to_host(values.data(), memory_, offset_, length * sizeof(T));
    return values;
  }
  T* address() const { return reinterpret_cast<T*>(memory_->pointer() + offset_); }
  const std::shared_ptr<Memory>& memory() const { return memory_; }

 private:
  std::shared_ptr<Memory> memory_;
  size_t offset_;
};

/// One tensor of any dtype configuration.
class Twin {
 public:
  virtual ~Twin() = default;
  virtual TensorArrays on_device() const = 0;
  virtual TensorArrays on_host() = 0;
  virtual void add_memories(Memories& memories) const = 0;
  virtual std::shared_ptr<Memory> grad_memory() const = 0;
  /// Makes the next gradients, which change_grad() sets: in the same memory or in new memory.
  virtual void make_grad(bool in_place, Random& random) = 0;
  /// Sets the next gradients in the same memory by an asynchronous copy.
  virtual void start_to_change_grad() = 0;
  virtual void change_grad() = 0;
  virtual ::testing::AssertionResult is_equal() const = 0;
};

template <class Arrays>
class TwinOf : public Twin {
 public:
  TwinOf(Device& device, size_t length, Random& random)
      : device_(device), key_(static_cast<uint32_t>(random.next())), host_(length, random) {
    // Often misaligned by the same number of elements.
    misalignment_ = random.below(3) ? 0 : random.below(9);
    for_each_array([&](auto role) {
      const bool is_apart = role == Role::variance && !random.below(4);
      std::get<index(role)>(arrays_) =
          make(host_.template data<role.value>(), length, is_apart ? random.below(9) : misalignment_);
    });
  }

  TensorArrays on_device() const override {
    TensorArrays result{Arrays::kConfig, host_.length(), {}, key_};
    for_each_array([&](auto role) { result.arrays[role] = std::get<index(role)>(arrays_)->address(); });
    return result;
  }
  TensorArrays on_host() override { return {Arrays::kConfig, host_.length(), host_.addresses(), key_}; }
  void add_memories(Memories& memories) const override {
    for_each_array([&](auto role) {
      if (role != Role::grad) memories.push_back(std::get<index(role)>(arrays_)->memory());
    });
  }
  std::shared_ptr<Memory> grad_memory() const override { return grad()->memory(); }
  void make_grad(bool in_place, Random& random) override {
    next_.resize(host_.length());
    for (Grad& value : next_)
      fused_adamw::testing::write(value, static_cast<Arithmetic<Grad>>(fused_adamw::testing::random_value(random)));
    next_grad_ = in_place ? nullptr : make(next_.data(), next_.size(), misalignment_);
  }
  void change_grad() override {
    std::copy(next_.begin(), next_.end(), host_.template data<Role::grad>());
    if (next_grad_)
      grad() = std::move(next_grad_);
    else
      grad()->set(next_.data(), next_.size());
  }
  void start_to_change_grad() override {
    std::copy(next_.begin(), next_.end(), host_.template data<Role::grad>());
    grad()->start_to_set(next_.data(), next_.size());
  }
  ::testing::AssertionResult is_equal() const override {
    ::testing::AssertionResult result = ::testing::AssertionSuccess();
    for_each_array([&](auto role) {
      if (!result) return;
      const size_t length = host_.length();
      result = fused_adamw::testing::same_elements(std::get<index(role)>(arrays_)->get(length).data(),
                                                   host_.template array<role.value>().data(), length,
                                                   kRoleNames[index(role)]);
      if (!result) result << " of a tensor of " << length << ", " << info(Arrays::kConfig).name;
    });
    return result;
  }

 private:
  using Grad = RoleType<Arrays::kConfig, Role::grad>;
  template <typename T>
  using Pointer = std::unique_ptr<DeviceArray<T>>;  // null where the configuration has no such array

  static constexpr size_t index(Role role) { return static_cast<size_t>(role); }
  template <typename Visit>
  static void for_each_array(const Visit& visit) {
    fused_adamw::testing::for_each_role([&](auto role) {
      if constexpr (kHasRole<Arrays::kConfig, role.value>) visit(role);
    });
  }
  template <typename T>
  Pointer<T> make(const T* values, size_t length, size_t misalignment) const {
    return std::make_unique<DeviceArray<T>>(device_, values, length, misalignment);
  }
  Pointer<Grad>& grad() { return std::get<index(Role::grad)>(arrays_); }
  const Pointer<Grad>& grad() const { return std::get<index(Role::grad)>(arrays_); }

  Device& device_;
  uint32_t key_;
  Arrays host_;
  size_t misalignment_ = 0;
  typename fused_adamw::testing::RoleTuple<Arrays::kConfig, Pointer>::type arrays_;
  Pointer<Grad> next_grad_;
  std::vector<Grad> next_;
};

/// Tensors and a step over them, on a device and on the host.
class Twins {
 public:
  Twins(Device& device, Rule rule, StreamHandle stream, const std::vector<std::pair<DTypeConfig, size_t>>& tensors,
        Random& random)
      : random_(random), device_(device), rule_(rule), stream_(stream) {
    for (const auto& [config, length] : tensors)
      fused_adamw::testing::with_config(config, [&, length = length](auto* type) {
        using Arrays = std::remove_pointer_t<decltype(type)>;
        twins_.push_back(std::make_unique<TwinOf<Arrays>>(device, length, random));
      });
    make_step();
  }
  /// A new step in the place of the one before, whose launches may still run.
  void make_step() {
    std::vector<TensorArrays> on_device, on_host;
    Memories memories;
    for (const auto& twin : twins_) {
      on_device.push_back(twin->on_device());
      on_host.push_back(twin->on_host());
      twin->add_memories(memories);
    }
    step_ = std::make_unique<Step>(device_, TensorList(rule_, std::move(on_device)), std::move(memories), stream_);
    host_ = std::make_unique<TensorList>(rule_, std::move(on_host));
    set_grads();
  }

  size_t size() const { return twins_.size(); }
  Step& step() { return *step_; }
  /// Destroys the step, whose launches may still run.
  void drop_step() { step_.reset(); }

  /// Makes the next gradients, which change_grads() sets: in the same memory or in new memory.
  void make_grads(bool in_place) {
    for (const auto& twin : twins_) twin->make_grad(in_place, random_);
    in_place_ = in_place;
  }
  std::shared_ptr<Memory> some_grad_memory() const { return twins_.front()->grad_memory(); }
  void change_grads() {
    for (const auto& twin : twins_) twin->change_grad();
    if (!in_place_) set_grads();
  }
  /// By asynchronous copies into the memory that they have.
  void start_to_change_grads() {
    make_grads(true);
    for (const auto& twin : twins_) twin->start_to_change_grad();
  }
  /// Assigns tensor i to group i modulo count.
  void set_group_count(size_t count) {
    std::vector<uint32_t> groups(size());
    for (size_t i = 0; i < size(); ++i) groups[i] = static_cast<uint32_t>(i % count);
    step_->set_groups(groups, count);
    host_->set_groups(groups, count);
  }
  /// One step with new scalars, the tensors split into so many launches.
  void run(size_t parts = 1) {
    const StepScalars scalars = make_scalars();
    step_->begin(scalars, groups_.data());
    run_on_device(parts);
    run_on_host(scalars);
  }
  /// The same where the device decides. Does not wait for it.
  void decide(size_t parts = 1) {
    StepScalars scalars = make_scalars();
    DecisionScalars decision;
    decision.clips = 1;
    decision.max_norm = random_.below(2) ? 1 : 1e30;
    decision.restarts = 1;
    step_->decide(scalars, groups_.data(), 1, decision, nullptr, nullptr);
    run_on_device(parts);

    std::vector<double> sums(size());
    double sum = 0;
    const bool are_finite = sums_on_host(sums.data());
    for (const double each : sums) sum += each;
    const double norm = std::sqrt(sum) * scalars.rescale;
    if (are_finite && norm < INFINITY) {
      scalars.rescale *= std::min(1.0, decision.max_norm / (norm + 1e-6));
      run_on_host(scalars);
    } else if (scalars.zero_grads != 0) {
      for (size_t i = 0; i < size(); ++i) {
        const TensorArrays& tensor = host_->tensor(i);
        std::memset(tensor.arrays[Role::grad], 0, tensor.length * role_bytes(tensor.config, Role::grad));
      }
    }
  }
  /// Whether the sums of the squares of the gradients have the bits of the CPU.
  bool sums_are_equal() {
    std::vector<double> on_device(size()), on_host(size());
    const bool are_finite = sums_on_host(on_host.data());
    if (step_->sums_of_squares(on_device.data()) != are_finite) return false;
    return std::equal(on_host.begin(), on_host.end(), on_device.begin(), fused_adamw::testing::same_bits<double>);
  }
  ::testing::AssertionResult are_equal() const {
    for (const auto& twin : twins_)
      if (const auto result = twin->is_equal(); !result) return result;
    return ::testing::AssertionSuccess();
  }

 private:
  StepScalars make_scalars() {
    StepScalars scalars = fused_adamw::testing::random_step_scalars(random_);
    scalars.zero_grads = random_.below(4) == 0;
    groups_.resize(host_->group_count());
    for (ScalarGroup& group : groups_) group = fused_adamw::testing::random_group(random_);
    return scalars;
  }
  void run_on_device(size_t parts) {
    for (size_t i = 0; i < parts; ++i) step_->run(size() * i / parts, size() * (i + 1) / parts);
  }
  void run_on_host(const StepScalars& of_step) {
    std::vector<cpu::GroupScalars> scalars(groups_.size());
    cpu::round_groups(of_step, groups_.data(), groups_.size(), scalars.data());
    cpu::step(*host_, *cpu::find_variant("baseline"), scalars.data(), 0, size(), 1, of_step.zero_grads != 0);
  }
  bool sums_on_host(double* sums) {
    std::vector<size_t> lengths;
    for (size_t i = 0; i < size(); ++i) lengths.push_back(host_->tensor(i).length);
    cpu::SquareSums square_sums(lengths);
    return square_sums.compute(host_->tensors(), *cpu::find_variant("baseline"), 1, sums);
  }
  void set_grads() {
    std::vector<void*> on_device, on_host;
    Memories memories;
    for (const auto& twin : twins_) {
      on_device.push_back(twin->on_device().arrays[Role::grad]);
      on_host.push_back(twin->on_host().arrays[Role::grad]);
      memories.push_back(twin->grad_memory());
    }
    EXPECT_FALSE(step_->set_grads(on_device, std::move(memories)));
    EXPECT_FALSE(host_->set_grads(on_host));
  }

  Random& random_;
  Device& device_;
  Rule rule_;
  StreamHandle stream_;
  bool in_place_ = false;
  std::vector<std::unique_ptr<Twin>> twins_;
  std::unique_ptr<Step> step_;
  std::unique_ptr<TensorList> host_;
  std::vector<ScalarGroup> groups_;  // scalars of the last step
};

/// Tensors of random lengths of random dtype configurations.
inline std::vector<std::pair<DTypeConfig, size_t>> random_tensors(size_t count, Random& random) {
  std::vector<std::pair<DTypeConfig, size_t>> tensors;
  for (size_t i = 0; i < count; ++i)
    tensors.emplace_back(fused_adamw::testing::random_config(random),
                         random.below(random.below(8) ? 600 : 3 * kItemLength));
  return tensors;
}

}  // namespace fused_adamw::cuda::testing
