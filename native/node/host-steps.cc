// Steps over typed arrays, on the CPU.
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
    if (!square_sums_) {
      std::vector<size_t> lengths(list_.size());
      for (size_t i = 0; i < lengths.size(); ++i) lengths[i] = list_.tensor(i).length;
      square_sums_.emplace(lengths);
    }
    return square_sums_->compute(list_.tensors(), cpu::active_variant(), cpu::num_threads(), sums);
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
