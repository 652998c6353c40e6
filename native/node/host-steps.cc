// Steps over typed arrays, on the CPU.
#include <cstring>

#include "../cpu/gradients.h"
#include "../cpu/isa/kernels.h"
#include "../cpu/step.h"
#include "../cpu/threads.h"
#include "tensor-steps.h"

namespace fused_adamw {
namespace {

auto reader(Napi::Env env) {
  return [env](napi_value value, size_t element_bytes, const char* name) {
    return read_array(env, value, element_bytes, name);
  };
}

cpu::SquareSums square_sums_of(const TensorList& list) {
  std::vector<size_t> lengths(list.size());
  for (size_t i = 0; i < lengths.size(); ++i) lengths[i] = list.tensor(i).length;
  return cpu::SquareSums(lengths);
}

/// A copy of the list and of all that a step reads, since the list may take other tensors meanwhile.
class StepJob : public BackgroundJob {
 public:
  StepJob(const TensorList& list, const ScalarTable& scalars)
      : list_(list), scalars_(list.group_count()), zero_grads_(scalars.step().zero_grads != 0) {
    cpu::round_groups(scalars.step(), scalars.groups(), scalars_.size(), scalars_.data());
  }

 private:
  void compute() override { cpu::step(list_, variant_, scalars_.data(), 0, list_.size(), threads_, zero_grads_); }

  const TensorList list_;
  std::vector<cpu::GroupScalars> scalars_;
  const bool zero_grads_;
  const cpu::Variant& variant_ = cpu::active_variant();
  const int threads_ = cpu::num_threads();
};

class SumsOfSquaresJob : public BackgroundJob {
 public:
  explicit SumsOfSquaresJob(const TensorList& list)
      : list_(list), square_sums_(square_sums_of(list)), sums_(list.size()) {}

 private:
  void compute() override { finite_ = square_sums_.compute(list_.tensors(), variant_, threads_, sums_.data()); }
  Napi::Value result(Napi::Env env) override {
    Napi::Object result = Napi::Object::New(env);
    Napi::Float64Array sums = Napi::Float64Array::New(env, sums_.size());
    std::copy(sums_.begin(), sums_.end(), sums.Data());
    result["sums"] = sums;
    result["finite"] = finite_;
    return result;
  }

  const TensorList list_;
  cpu::SquareSums square_sums_;
  std::vector<double> sums_;
  bool finite_ = false;
  const cpu::Variant& variant_ = cpu::active_variant();
  const int threads_ = cpu::num_threads();
};

class HostSteps : public TensorSteps {
 public:
  explicit HostSteps(TensorList list) : list_(std::move(list)) {}

  using TensorSteps::set_grads;

  const TensorList& list() const override { return list_; }
  std::optional<Overlap> set_grads(Napi::Env env, const HeldList& grads) override {
    return list_.set_grads(read_grads(env, list_, [&](uint32_t i, size_t element_bytes) {
      return read_array(env, grads[i], element_bytes, grads.name());
    }));
  }
  void set_groups(const std::vector<uint32_t>& groups, size_t group_count) override {
    rounded_.resize(group_count);
    list_.set_groups(groups, group_count);
  }
  void begin(const ScalarTable&) override {}
  void run(const ScalarTable& scalars, size_t first, size_t last) override {
    if (first == 0) cpu::round_groups(scalars.step(), scalars.groups(), rounded_.size(), rounded_.data());
    cpu::step(list_, cpu::active_variant(), rounded_.data(), first, last, cpu::num_threads(),
              scalars.step().zero_grads != 0);
  }
  bool sums_of_squares(double* sums) override {
    if (!square_sums_) square_sums_.emplace(square_sums_of(list_));
    return square_sums_->compute(list_.tensors(), cpu::active_variant(), cpu::num_threads(), sums);
  }
  void zero_grads() override {
    for (size_t i = 0; i < list_.size(); ++i) {
      const TensorArrays& tensor = list_.tensor(i);
      if (tensor.length > 0)
        std::memset(tensor.arrays[Role::grad], 0, tensor.length * role_bytes(tensor.config, Role::grad));
    }
  }
  std::unique_ptr<BackgroundJob> step_job(const ScalarTable& scalars) const override {
    return std::make_unique<StepJob>(list_, scalars);
  }
  std::unique_ptr<BackgroundJob> sums_of_squares_job() const override {
    return std::make_unique<SumsOfSquaresJob>(list_);
  }

 private:
  TensorList list_;
  std::vector<cpu::GroupScalars> rounded_;  // of the current step
  std::optional<cpu::SquareSums> square_sums_;
};

}  // namespace

std::unique_ptr<TensorSteps> make_host_steps(Napi::Env env, const TensorListArguments& arguments) {
  return std::make_unique<HostSteps>(read_tensors(env, arguments, reader(env)));
}

}  // namespace fused_adamw
