// Steps over DeviceMemory objects, on their GPU.
#include "../cuda/step.h"
#include "device-memory-object.h"
#include "tensor-steps.h"

namespace fused_adamw {
namespace {

/// Reads arrays of one device and collects the memories that own them.
auto reader(Napi::Env env, const cuda::Device& device, cuda::Memories& memories) {
  return [env, &device, &memories](napi_value value, size_t element_bytes, const char* name) {
    const DeviceMemoryObject& memory = DeviceMemoryObject::of(env, value, name);
    if (&memory.device() != &device || memory.bytes() % element_bytes != 0)
      throw Napi::RangeError::New(env, std::string("Expected elements in memory of one device for ") + name);
    memories.push_back(memory.memory());
    return View{memory.address(), memory.bytes() / element_bytes};
  };
}

class CudaSteps : public TensorSteps {
 public:
  CudaSteps(cuda::Device& device, TensorList list, cuda::Memories memories, cuda::StreamHandle stream)
      : step_(device, std::move(list), std::move(memories), stream) {}

  const TensorList& list() const override { return step_.list(); }
  std::optional<Overlap> set_grads(Napi::Env env, const HeldList& grads) override {
    cuda::Memories memories;
    const auto addresses = read_grads(env, list(), grads, reader(env, step_.device(), memories));
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

 private:
  cuda::Step step_;
  bool has_begun_ = false;
};

}  // namespace

std::unique_ptr<TensorSteps> make_cuda_steps(Napi::Env env, const TensorListArguments& arguments, cuda::Device& device,
                                             cuda::StreamHandle stream) {
  cuda::Memories memories;
  TensorList list = read_tensors(env, arguments, reader(env, device, memories));
  try {
    return std::make_unique<CudaSteps>(device, std::move(list), std::move(memories), stream);
  } catch (const std::invalid_argument& error) {
    throw Napi::RangeError::New(env, "Expected a stream of cuda:" + std::to_string(device.ordinal()) +
                                         " for stream but received " + error.what());
  }
}

}  // namespace fused_adamw
