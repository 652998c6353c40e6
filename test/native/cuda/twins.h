// Tensors on a device with copies on the host, to compare a step there with one
// of the CPU.
#pragma once

#include <memory>
#include <vector>

#include "../support.h"
#include "core/tensor-list.h"
#include "cpu/step.h"
#include "cuda/step.h"

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

/// One tensor of any layout.
class Twin {
 public:
  virtual ~Twin() = default;
  virtual TensorArrays on_device() const = 0;
  virtual TensorArrays on_host() = 0;
  virtual void add_memories(Memories& memories) const = 0;
  virtual std::shared_ptr<Memory> grad_memory() const = 0;
  /// Makes the next gradients, which change_grad() sets: in the same memory or in new memory.
  virtual void make_grad(bool in_place, Random& random) = 0;
  virtual void change_grad() = 0;
  virtual ::testing::AssertionResult is_equal() const = 0;
};

template <class Arrays>
class TwinOf : public Twin {
 public:
  TwinOf(Device& device, Layout layout, size_t length, Random& random)
      : device_(device),
        layout_(layout),
        key_(static_cast<uint32_t>(random.next())),
        host_(length, random),
        // Often misaligned by the same number of elements.
        misalignment_(random.below(3) ? 0 : random.below(9)),
        weight_(device, host_.weight.data(), length, misalignment_),
        grad_(std::make_unique<DeviceArray<W>>(device, host_.grad.data(), length, misalignment_)),
        mean_(device, host_.mean.data(), length, misalignment_),
        variance_(device, host_.variance.data(), length, random.below(4) ? misalignment_ : random.below(9)),
        master_(device, host_.master.data(), host_.master.size(), Arrays::kMaster ? misalignment_ : 0) {}

  TensorArrays on_device() const override {
    return {layout_,
            host_.weight.size(),
            weight_.address(),
            grad_->address(),
            mean_.address(),
            variance_.address(),
            Arrays::kMaster ? master_.address() : nullptr,
            key_,
            0};
  }
  TensorArrays on_host() override {
    return {layout_,
            host_.weight.size(),
            host_.weight.data(),
            host_.grad.data(),
            host_.mean.data(),
            host_.variance.data(),
            Arrays::kMaster ? host_.master.data() : nullptr,
            key_,
            0};
  }
  void add_memories(Memories& memories) const override {
    for (const auto& memory : {weight_.memory(), mean_.memory(), variance_.memory(), master_.memory()})
      memories.push_back(memory);
  }
  std::shared_ptr<Memory> grad_memory() const override { return grad_->memory(); }
  void make_grad(bool in_place, Random& random) override {
    next_.resize(host_.grad.size());
    for (W& value : next_)
      fused_adamw::testing::write(value, static_cast<Arithmetic<W>>(fused_adamw::testing::random_value(random)));
    next_grad_ =
        in_place ? nullptr : std::make_unique<DeviceArray<W>>(device_, next_.data(), next_.size(), misalignment_);
  }
  void change_grad() override {
    std::copy(next_.begin(), next_.end(), host_.grad.data());
    if (next_grad_)
      grad_ = std::move(next_grad_);
    else
      grad_->set(next_.data(), next_.size());
  }
  ::testing::AssertionResult is_equal() const override {
    for (auto result : {compare(weight_, host_.weight, "weight"), compare(*grad_, host_.grad, "grad"),
                        compare(mean_, host_.mean, "mean"), compare(variance_, host_.variance, "variance"),
                        compare(master_, host_.master, "master")})
      if (!result) return result << " of a tensor of " << host_.weight.size() << ", " << info(layout_).name;
    return ::testing::AssertionSuccess();
  }

 private:
  using W = std::remove_pointer_t<decltype(std::declval<Arrays>().weight.data())>;
  using S = std::remove_pointer_t<decltype(std::declval<Arrays>().mean.data())>;

  template <typename T>
  static ::testing::AssertionResult compare(const DeviceArray<T>& actual,
                                            const fused_adamw::testing::Guarded<T>& expected, const char* what) {
    return fused_adamw::testing::same_elements(actual.get(expected.size()).data(), expected.data(), expected.size(),
                                               what);
  }

  Device& device_;
  Layout layout_;
  uint32_t key_;
  Arrays host_;
  size_t misalignment_;
  DeviceArray<W> weight_;
  std::unique_ptr<DeviceArray<W>> grad_, next_grad_;
  std::vector<W> next_;
  DeviceArray<S> mean_, variance_;
  DeviceArray<float> master_;
};

/// Tensors and a step over them, on a device and on the host.
class Twins {
 public:
  Twins(Device& device, Rule rule, StreamHandle stream, const std::vector<std::pair<Layout, size_t>>& tensors,
        Random& random)
      : random_(random), device_(device), rule_(rule), stream_(stream) {
    for (const auto& [layout, length] : tensors)
      fused_adamw::testing::with_layout(layout, [&, layout = layout, length = length](auto* type) {
        using Arrays = std::remove_pointer_t<decltype(type)>;
        twins_.push_back(std::make_unique<TwinOf<Arrays>>(device, layout, length, random));
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
    step_ = std::make_unique<Step>(device_, Binding(rule_, std::move(on_device)), std::move(memories), stream_);
    host_ = std::make_unique<Binding>(rule_, std::move(on_host));
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
  void change_grads() {
    for (const auto& twin : twins_) twin->change_grad();
    if (!in_place_) set_grads();
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
    const StepOptions options = fused_adamw::testing::random_options(random_);
    std::vector<Group> groups(host_->group_count());
    for (Group& group : groups) group = fused_adamw::testing::random_group(random_);
    step_->begin(options, groups.data());
    for (size_t i = 0; i < parts; ++i) step_->run(size() * i / parts, size() * (i + 1) / parts);

    std::vector<cpu::GroupScalars> scalars(groups.size());
    cpu::round_groups(options, groups.data(), groups.size(), scalars.data());
    cpu::step(*host_, *cpu::find_variant("baseline"), scalars.data(), 0, size(), 1);
  }
  ::testing::AssertionResult are_equal() const {
    for (const auto& twin : twins_)
      if (const auto result = twin->is_equal(); !result) return result;
    return ::testing::AssertionSuccess();
  }

 private:
  void set_grads() {
    std::vector<const void*> on_device, on_host;
    Memories memories;
    for (const auto& twin : twins_) {
      on_device.push_back(twin->on_device().grad);
      on_host.push_back(twin->on_host().grad);
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
  std::unique_ptr<Binding> host_;
};

/// Tensors of random lengths in random layouts.
inline std::vector<std::pair<Layout, size_t>> random_tensors(size_t count, Random& random) {
  std::vector<std::pair<Layout, size_t>> tensors;
  for (size_t i = 0; i < count; ++i)
    tensors.emplace_back(static_cast<Layout>(random.below(kLayouts)),
                         random.below(random.below(8) ? 600 : 3 * kUnitLength));
  return tensors;
}

}  // namespace fused_adamw::cuda::testing
