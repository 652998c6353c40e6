// Steps over DeviceMemory objects, on their GPU.
#include "../cuda/step.h"
#include "device-memory-object.h"
#include "tensor-steps.h"

namespace fused_adamw {
namespace {

class CudaSteps : public TensorSteps {
 public:
  CudaSteps(cuda::Device& device, TensorList list, cuda::Memories memories, cuda::StreamHandle stream)
      : step_(device, std::move(list), std::move(memories), stream) {}

  using TensorSteps::set_grads;

  const TensorList& list() const override { return step_.list(); }
  const cuda::Device* device() const override { return &step_.device(); }
  std::optional<Overlap> set_grads(Napi::Env env, const View& slots) override {
    if (slots.length != list().size()) throw Napi::RangeError::New(env, "Expected a slot for each tensor for grad");
    cuda::Memories memories;
    memories.reserve(slots.length);
    const DeviceMemorySlots& all = *Environment::of(env).device_memories;
    const auto addresses = read_grads(env, list(), [&](uint32_t i, size_t element_bytes) {
      const DeviceMemoryObject* memory = all.find(static_cast<const uint32_t*>(slots.data)[i]);
      if (!memory || !memory->memory()) throw Napi::Error::New(env, "Expected live device memory for grad");
      return take_elements(env, step_.device(), memories, *memory, element_bytes, "grad");
    });
    return step_.set_grads(addresses, std::move(memories));
  }
  void set_groups(const std::vector<uint32_t>& groups, size_t group_count) override {
    step_.set_groups(groups, group_count);
  }
  void begin(const ScalarTable& scalars) override {
    step_.begin(scalars.step(), scalars.groups());
    has_begun_ = true;
  }
  void run(const ScalarTable&, size_t first, size_t last) override {
    if (!has_begun_) throw std::logic_error("Expected begin before a step");
    step_.run(first, last);
  }
  void decide(const ScalarTable& candidates, const DecisionScalars& scalars, const DeviceMemoryObject* scale) override {
    const size_t count = list().group_count() ? candidates.group_count() / list().group_count() : 0;
    if (count == 0 || count > cuda::kMostCandidates || count * list().group_count() != candidates.group_count())
      throw std::logic_error("Expected some times the scalars of each group for candidates");
    if (!scale)
      step_.decide(candidates.step(), candidates.groups(), count, scalars, nullptr, nullptr);
    else
      step_.decide(candidates.step(), candidates.groups(), count, scalars, scale->memory(),
                   static_cast<float*>(scale->address()));
    has_begun_ = true;
  }
  bool is_decided(size_t number) const override { return step_.is_decided(number); }
  std::array<double, 3> decision(size_t number) const override {
    const cuda::Decision decision = step_.decision(number);
    return {static_cast<double>(decision.outcome), decision.norm, static_cast<double>(decision.finite)};
  }
  bool sums_of_squares(double* sums) override { return step_.sums_of_squares(sums); }
  void zero_grads() override { step_.zero_grads(); }

 private:
  cuda::Step step_;
  bool has_begun_ = false;
};

}  // namespace

std::unique_ptr<TensorSteps> make_cuda_steps(Napi::Env env, const TensorListArguments& arguments, cuda::Device& device,
                                             cuda::StreamHandle stream) {
  cuda::Memories memories;
  TensorList list = read_tensors(env, arguments, [&](napi_value value, size_t element_bytes, const char* name) {
    return take_elements(env, device, memories, DeviceMemoryObject::of(env, value, name), element_bytes, name);
  });
  try {
    return std::make_unique<CudaSteps>(device, std::move(list), std::move(memories), stream);
  } catch (const std::invalid_argument& error) {
    throw Napi::RangeError::New(env, "Expected a stream of cuda:" + std::to_string(device.ordinal()) +
                                         " for stream but received " + error.what());
  }
}

}  // namespace fused_adamw
