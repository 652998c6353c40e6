// Copies between typed arrays and device memory.
#include "../cuda/transfer.h"
#include "device-memory-object.h"
#include "exports.h"

namespace fused_adamw {
namespace {

/// The host memory of a typed array that has as many bytes as a device memory.
void* host_memory(Napi::Env env, const Napi::Value& value, const DeviceMemoryObject& like) {
  void* data = nullptr;
  napi_typedarray_type type;
  size_t length = 0;
  if (napi_get_typedarray_info(env, value, &type, &length, &data, nullptr, nullptr) != napi_ok)
    throw Napi::TypeError::New(env, "Expected a typed array or device memory for a copy");
  const size_t size = type == napi_float64_array   ? 8
                      : type == napi_float32_array ? 4
                      : type == napi_uint16_array  ? 2
                                                   : 0;
  if (size == 0 || length * size != like.bytes())
    throw Napi::RangeError::New(env, "Expected as many bytes on both sides of a copy");
  return data;
}

/// copy(to, from): device memory or typed arrays, but not two typed arrays. Returns when host memory may be used again.
void copy(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  if (!DeviceMemoryObject::is_instance(env, info[0])) {
    const auto& from = DeviceMemoryObject::of(env, info[1], "from");
    cuda::copy_to_host(host_memory(env, info[0], from), from.memory(), from.offset(), from.bytes());
  } else if (!DeviceMemoryObject::is_instance(env, info[1])) {
    const auto& to = DeviceMemoryObject::of(env, info[0], "to");
    cuda::copy_from_host(to.memory(), to.offset(), host_memory(env, info[1], to), to.bytes());
  } else {
    const auto &to = DeviceMemoryObject::of(env, info[0], "to"), &from = DeviceMemoryObject::of(env, info[1], "from");
    if (to.bytes() != from.bytes()) throw Napi::RangeError::New(env, "Expected as many bytes on both sides of a copy");
    cuda::copy_memory(to.memory(), from.memory(), to.bytes(), to.offset(), from.offset());
  }
}

/// A copy in flight: what it uses, and the promise that it settles.
struct PendingCopy {
  Napi::Promise::Deferred promise;
  Napi::ObjectReference to, from;
  std::shared_ptr<InFlight> in_flight;
  int ordinal;
  napi_threadsafe_function settle_on_thread = nullptr;
  cuda::Status status = cuda::kSuccess;

  /// On a thread of the driver.
  static void done(cuda::StreamHandle, cuda::Status status, void* context) {
    auto* copy = static_cast<PendingCopy*>(context);
    copy->status = status;
    // Fails only if the JavaScript thread is ending.
    napi_call_threadsafe_function(copy->settle_on_thread, copy, napi_tsfn_nonblocking);
  }
  /// On the JavaScript thread.
  static void settle(napi_env env, napi_value, void*, void* data) {
    const std::unique_ptr<PendingCopy> copy(static_cast<PendingCopy*>(data));
    if (!env) {  // the thread is ending, and its references with it
      copy->to.SuppressDestruct();
      copy->from.SuppressDestruct();
      return;
    }
    copy->in_flight->end_copy(copy->ordinal);
    napi_release_threadsafe_function(copy->settle_on_thread, napi_tsfn_release);
    try {
      copy->resolve_or_reject(env);
    } catch (const Napi::Error&) {
      // A thread that is being terminated runs no JavaScript any more.
    }
  }
  void resolve_or_reject(Napi::Env env) const {
    try {
      cuda::check(status, "a copy");
      promise.Resolve(env.Undefined());
    } catch (const cuda::DriverError& error) {
      promise.Reject(to_javascript(env, error).Value());
    }
  }
};

/// startCopy(to, from): Promise; one is device memory, the other a typed array whose memory stays where it is.
Napi::Value start_copy(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  const bool to_device = DeviceMemoryObject::is_instance(env, info[0]);
  const auto& memory = DeviceMemoryObject::of(env, info[to_device ? 0 : 1], "a copy");
  void* host = host_memory(env, info[to_device ? 1 : 0], memory);
  const auto& in_flight = Environment::of(env).in_flight;
  const int ordinal = memory.device().ordinal();
  auto copy = std::make_unique<PendingCopy>(
      PendingCopy{Napi::Promise::Deferred::New(env), Napi::Persistent(info[0].As<Napi::Object>()),
                  Napi::Persistent(info[1].As<Napi::Object>()), in_flight, ordinal});
  const Napi::String name = Napi::String::New(env, "fused-adamw copy");
  if (napi_create_threadsafe_function(env, nullptr, nullptr, name, 0, 1, nullptr, nullptr, nullptr, PendingCopy::settle,
                                      &copy->settle_on_thread) != napi_ok)
    throw Napi::Error::New(env);
  in_flight->begin_copy(ordinal);
  try {
    if (to_device)
      cuda::start_copy_from_host(memory.memory(), host, memory.bytes(), PendingCopy::done, copy.get(), memory.offset());
    else
      cuda::start_copy_to_host(host, memory.memory(), memory.bytes(), PendingCopy::done, copy.get(), memory.offset());
  } catch (...) {
    in_flight->end_copy(ordinal);
    napi_release_threadsafe_function(copy->settle_on_thread, napi_tsfn_abort);
    throw;
  }
  return copy.release()->promise.Promise();
}

}  // namespace

void export_copies(Napi::Env env, Napi::Object exports) {
  exports["copy"] = guarded_function<copy>(env, "copy");
  exports["startCopy"] = guarded_function<start_copy>(env, "startCopy");
}

}  // namespace fused_adamw
