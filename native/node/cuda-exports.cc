// The driver, its devices, addresses and page-locked memory.
#include <cstring>

#include "device-memory-object.h"
#include "exports.h"
#include "read.h"

namespace fused_adamw {
namespace {

/// probe(): { driverVersion?, devices?, reason? }; what the driver reports without a context, or why it cannot be used.
Napi::Value probe(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  Napi::Object result = Napi::Object::New(env);
  try {
    Napi::Array devices = Napi::Array::New(env);
    result["driverVersion"] = cuda::driver_version();
    const int count = cuda::device_count();
    for (int i = 0; i < count; ++i) {
      const cuda::DeviceInfo device = cuda::device_info(i);
      Napi::Object each = Napi::Object::New(env);
      each["name"] = device.name;
      each["computeCapability"] = std::to_string(device.major) + "." + std::to_string(device.minor);
      each["bytes"] = static_cast<double>(device.bytes);
      devices[devices.Length()] = each;
    }
    if (count == 0) throw cuda::Unavailable(cuda::kThereIsNoDevice);
    result["devices"] = devices;
  } catch (const std::runtime_error& error) {
    result["reason"] = error.what();
  }
  return result;
}

/// unusable(device): null, or why no step can run there. Initialises the device.
Napi::Value unusable(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  try {
    cuda::Device::get(info[0].As<Napi::Number>().Int32Value());
    return env.Null();
  } catch (const std::runtime_error& error) {
    return Napi::String::New(env, error.what());
  }
}

/// pointerInfo(pointer: bigint, wanted): { device, bytes }, with at least `wanted` bytes if there are so many, or a
/// string that says what else the address is.
Napi::Value pointer_info(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  try {
    bool lossless;
    const cuda::PointerInfo found = cuda::pointer_info(info[0].As<Napi::BigInt>().Uint64Value(&lossless),
                                                       static_cast<size_t>(info[1].As<Napi::Number>().Int64Value()));
    Napi::Object result = Napi::Object::New(env);
    result["device"] = found.ordinal;
    result["bytes"] = static_cast<double>(found.bytes);
    return result;
  } catch (const std::invalid_argument& error) {
    return Napi::String::New(env, error.what());
  }
}

/// pinned(bytes, device): ArrayBuffer of zeros in page-locked memory, which serves all devices. Throws where the engine
/// allows no external ArrayBuffers.
Napi::Value pinned(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  const auto bytes = static_cast<size_t>(info[0].As<Napi::Number>().Int64Value());
  auto memory = cuda::Device::get(info[1].As<Napi::Number>().Int32Value()).allocate_pinned(bytes);
  std::memset(memory->data(), 0, bytes);
  const auto release = [](napi_env, void*, void* hint) { delete static_cast<cuda::PinnedMemory*>(hint); };
  napi_value buffer;
  if (napi_create_external_arraybuffer(env, memory->data(), bytes, release, memory.get(), &buffer) != napi_ok)
    throw Napi::Error::New(env, "Expected an engine that allows external ArrayBuffers");
  memory.release();
  return Napi::Value(env, buffer);
}

/// usedDevice(): the ordinal of a device that is ready already, or -1. Initialises none.
Napi::Value used_device(const Napi::CallbackInfo& info) {
  const cuda::Device* device = cuda::Device::in_use();
  return Napi::Number::New(info.Env(), device ? device->ordinal() : -1);
}

/// synchronize(device): waits until all our work there is done.
void synchronize(const Napi::CallbackInfo& info) {
  cuda::Device::get(info[0].As<Napi::Number>().Int32Value()).synchronize();
  Environment::of(info.Env()).in_flight->sweep();
}

/// waitEvent(device, event: bigint, stream: bigint): the stream, and asynchronous copies, wait for an event of another
/// library. Returns null, or what the stream is instead of one of the device.
Napi::Value wait_event(const Napi::CallbackInfo& info) {
  bool lossless;
  cuda::Device& device = cuda::Device::get(info[0].As<Napi::Number>().Int32Value());
  const auto event = reinterpret_cast<cuda::EventHandle>(info[1].As<Napi::BigInt>().Uint64Value(&lossless));
  const auto stream = reinterpret_cast<cuda::StreamHandle>(info[2].As<Napi::BigInt>().Uint64Value(&lossless));
  const std::lock_guard lock(device.mutex());
  const cuda::ContextGuard guard(device.context());
  try {
    device.expect_stream(stream);
  } catch (const std::invalid_argument& error) {
    return Napi::String::New(info.Env(), error.what());
  }
  device.wait_for(event, stream);
  return info.Env().Null();
}

/// setDeviceCode(image: Uint8Array), before a device is used.
void set_device_code(const Napi::CallbackInfo& info) {
  const View image = read_view(info.Env(), info[0], napi_uint8_array, "image");
  cuda::set_device_code(std::string(static_cast<const char*>(image.data), image.length));
}

/// hasDeviceCode(): whether some thread has set it.
Napi::Value has_device_code(const Napi::CallbackInfo& info) {
  return Napi::Boolean::New(info.Env(), cuda::has_device_code());
}

}  // namespace

void export_cuda(Napi::Env env, Napi::Object exports) {
  exports["DeviceMemory"] = DeviceMemoryObject::define(env);
  exports["probe"] = guarded_function<probe>(env, "probe");
  exports["unusable"] = guarded_function<unusable>(env, "unusable");
  exports["pointerInfo"] = guarded_function<pointer_info>(env, "pointerInfo");
  exports["pinned"] = guarded_function<pinned>(env, "pinned");
  exports["usedDevice"] = guarded_function<used_device>(env, "usedDevice");
  exports["synchronize"] = guarded_function<synchronize>(env, "synchronize");
  exports["waitEvent"] = guarded_function<wait_event>(env, "waitEvent");
  exports["hasDeviceCode"] = guarded_function<has_device_code>(env, "hasDeviceCode");
  exports["setDeviceCode"] = guarded_function<set_device_code>(env, "setDeviceCode");
}

}  // namespace fused_adamw
