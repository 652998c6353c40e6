// What is done with gradients outside of a step.
#include "../cpu/gradients.h"

#include "../cpu/threads.h"
#include "../cuda/accumulate.h"
#include "../cuda/square-sums.h"
#include "device-memory-object.h"
#include "exports.h"
#include "held-list.h"
#include "tensor-steps.h"

namespace fused_adamw {
namespace {

View read_bytes(Napi::Env env, const Napi::Value& value, size_t length, size_t end, const char* name) {
  const View view = read_view(env, value, napi_uint8_array, name);
  const auto* bytes = static_cast<const uint8_t*>(view.data);
  if (view.length != length || std::any_of(bytes, bytes + length, [end](uint8_t byte) { return byte >= end; }))
    throw Napi::RangeError::New(env, std::string("Expected a number of each array for ") + name);
  return view;
}

/// sumsOfSquares(grads: typed arrays, configs: Uint8Array, sums: Float64Array): boolean; as TensorList.sumsOfSquares,
/// for gradients whose dtypes are those of dtype configurations
Napi::Value sums_of_squares(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  const View sums = read_view(env, info[2], napi_float64_array, "sums");
  const View configs = read_bytes(env, info[1], sums.length, kDTypeConfigs, "configs");
  const HeldList grads(env, info[0], sums.length, "grads");
  std::vector<TensorArrays> tensors(sums.length);
  std::vector<size_t> lengths(sums.length);
  for_each_tensor(env, tensors.size(), [&](uint32_t i) {
    tensors[i].config = static_cast<DTypeConfig>(static_cast<const uint8_t*>(configs.data)[i]);
    const View grad = read_array(env, grads[i], role_bytes(tensors[i].config, Role::grad), grads.name());
    tensors[i].arrays[Role::grad] = grad.data;
    tensors[i].length = lengths[i] = grad.length;
  });
  cpu::SquareSums square_sums(lengths);
  return Napi::Boolean::New(env, square_sums.compute(tensors.data(), cpu::active_variant(), cpu::num_threads(),
                                                     static_cast<double*>(sums.data)));
}

/// cuda.sumsOfSquares(device, grads: DeviceMemory[], configs, sums): boolean; the same for memory of a GPU, after all
/// work so far that this package has put on it
Napi::Value sums_of_squares_on_device(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  cuda::Device& device = cuda::Device::get(info[0].As<Napi::Number>().Int32Value());
  const View sums = read_view(env, info[3], napi_float64_array, "sums");
  const View configs = read_bytes(env, info[2], sums.length, kDTypeConfigs, "configs");
  const HeldList grads(env, info[1], sums.length, "grads");
  std::vector<TensorArrays> tensors(sums.length);
  cuda::Memories memories;
  for_each_tensor(env, tensors.size(), [&](uint32_t i) {
    tensors[i].config = static_cast<DTypeConfig>(static_cast<const uint8_t*>(configs.data)[i]);
    const View grad = take_elements(env, device, memories, DeviceMemoryObject::of(env, grads[i], grads.name()),
                                    role_bytes(tensors[i].config, Role::grad), grads.name());
    tensors[i].arrays[Role::grad] = grad.data;
    tensors[i].length = grad.length;
  });
  return Napi::Boolean::New(
      env, cuda::sums_of_squares(device, tensors, std::move(memories), static_cast<double*>(sums.data)));
}

/// Reads the arguments `into`, `grads` and `dtypes` from the `first` on; read(value, element_bytes, name) returns the
/// View of an array.
template <typename Read>
std::vector<Accumulation> read_accumulations(const Napi::CallbackInfo& info, size_t first, const Read& read) {
  const Napi::Env env = info.Env();
  const View dtypes = read_view(env, info[first + 2], napi_uint8_array, "dtypes");
  read_bytes(env, info[first + 2], dtypes.length, kAccumulations, "dtypes");
  const HeldList into(env, info[first], dtypes.length, "into");
  const HeldList grads(env, info[first + 1], dtypes.length, "grads");
  std::vector<Accumulation> accumulations(dtypes.length);
  for_each_tensor(env, accumulations.size(), [&](uint32_t i) {
    const uint8_t kind = static_cast<const uint8_t*>(dtypes.data)[i];
    const View sum = read(into[i], kAccumulationBytes[kind].into, into.name());
    const View grad = read(grads[i], kAccumulationBytes[kind].grad, grads.name());
    if (sum.length != grad.length) throw Napi::RangeError::New(env, "Expected arrays of equal length for grads");
    accumulations[i] = {kind, sum.data, grad.data, sum.length};
  });
  return accumulations;
}

/// accumulate(into, grads: typed arrays, dtypes: Uint8Array, scale); dtypes are positions in FUSED_ADAMW_ACCUMULATIONS
void accumulate(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  const auto accumulations = read_accumulations(
      info, 0, [env](napi_value value, size_t bytes, const char* name) { return read_array(env, value, bytes, name); });
  cpu::accumulate(accumulations, info[3].As<Napi::Number>().DoubleValue(), cpu::active_variant(), cpu::num_threads());
}

/// cuda.accumulate(device, into, grads: DeviceMemory[], dtypes, scale): the same for memory of a GPU, which it does not
/// wait for
void accumulate_on_device(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  cuda::Device& device = cuda::Device::get(info[0].As<Napi::Number>().Int32Value());
  cuda::Memories memories;
  const auto accumulations = read_accumulations(info, 1, [&](napi_value value, size_t bytes, const char* name) {
    return take_elements(env, device, memories, DeviceMemoryObject::of(env, value, name), bytes, name);
  });
  cuda::accumulate(device, accumulations, std::move(memories), info[4].As<Napi::Number>().DoubleValue());
}

}  // namespace

void export_gradients(Napi::Env env, Napi::Object exports) {
  exports["sumsOfSquares"] = guarded_function<sums_of_squares>(env, "sumsOfSquares");
  exports["accumulate"] = guarded_function<accumulate>(env, "accumulate");
}

void export_cuda_gradients(Napi::Env env, Napi::Object cuda) {
  cuda["sumsOfSquares"] = guarded_function<sums_of_squares_on_device>(env, "sumsOfSquares");
  cuda["accumulate"] = guarded_function<accumulate_on_device>(env, "accumulate");
}

}  // namespace fused_adamw
