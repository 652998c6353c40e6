// Node-API for CUDA: device memory, copies and steps on a GPU.
//
// As in addon.cc, TypeScript has validated what it passes and words what a user
// is meant to read.
#include <list>
#include <memory>
#include <mutex>
#include <set>

#include "../cuda/device.h"
#include "../cuda/step.h"
#include "../cuda/transfer.h"
#include "addon.h"

namespace fused_adamw {
namespace {

using cuda::Device;
using cuda::Memory;

/// With the driver's own name of the error as its code.
Napi::Error to_javascript(Napi::Env env, const cuda::DriverError& error) {
  Napi::Error result = Napi::Error::New(env, error.what());
  result.Value()["code"] = error.name();
  return result;
}

/// As guarded(), for functions that call the driver.
template <typename Body>
auto guarded_cuda(Napi::Env env, Body body) {
  return guarded(env, [&] {
    try {
      return body();
    } catch (const cuda::DriverError& error) {
      throw to_javascript(env, error);
    }
  });
}

/// What a JavaScript thread has in flight: the owners of foreign memory, which
/// are let go of on their own thread, and copies whose memory is the thread's.
class InFlight {
 public:
  ~InFlight() { wait(); }

  void keep(Napi::ObjectReference owner, std::weak_ptr<Memory> memory, int ordinal) {
    owners_.push_back({std::move(owner), std::move(memory), ordinal});
  }
  /// Lets go of the owners whose memory nothing uses any more.
  void sweep() {
    owners_.remove_if([](const Owned& owned) { return owned.memory.expired(); });
  }
  void begin_copy(int ordinal) { copies_.insert(ordinal); }
  void end_copy(int ordinal) { copies_.erase(copies_.find(ordinal)); }

  /// Before the thread's memory goes: waits for what still uses it.
  void wait() {
    std::set<int> ordinals(copies_.begin(), copies_.end());
    for (const Owned& owned : owners_)
      if (!owned.memory.expired()) ordinals.insert(owned.ordinal);
    for (const int ordinal : ordinals) {
      try {
        Device::get(ordinal).synchronize();
      } catch (const std::exception&) {
        // A driver that is going down has nothing in flight.
      }
    }
  }

 private:
  struct Owned {
    Napi::ObjectReference owner;
    std::weak_ptr<Memory> memory;
    int ordinal;
  };
  std::list<Owned> owners_;
  std::multiset<int> copies_;
};

/// What each JavaScript thread has of ours.
struct Environment {
  Napi::FunctionReference device_memory;
  std::shared_ptr<InFlight> in_flight = std::make_shared<InFlight>();
};

constexpr napi_type_tag kDeviceMemoryTag = {0x8b1f2d6c53e94a07, 0xa4c7905e3bd8f162};

/// A range of device memory.
class DeviceMemory : public Napi::ObjectWrap<DeviceMemory> {
 public:
  static Napi::Function Define(Napi::Env env) {
    return DefineClass(env, "DeviceMemory",
                       {
                           InstanceAccessor<&DeviceMemory::Ordinal>("device"),
                           InstanceAccessor<&DeviceMemory::Pointer>("pointer"),
                           InstanceAccessor<&DeviceMemory::ByteLength>("byteLength"),
                           InstanceMethod<&DeviceMemory::Dispose>("dispose"),
                       });
  }

  /// new DeviceMemory(device, bytes, residue): zeroed memory whose address is `residue` modulo 64
  /// new DeviceMemory(device, bytes, pointer: bigint, owner): memory of others, checked with
  /// pointerInfo() before; the owner is held until nothing uses it
  explicit DeviceMemory(const Napi::CallbackInfo& info) : Napi::ObjectWrap<DeviceMemory>(info) {
    const Napi::Env env = info.Env();
    guarded_cuda(env, [&] {
      in_flight_ = env.GetInstanceData<Environment>()->in_flight;
      in_flight_->sweep();
      Device& device = Device::get(info[0].As<Napi::Number>().Int32Value());
      bytes_ = static_cast<size_t>(info[1].As<Napi::Number>().Int64Value());
      if (info[2].IsBigInt()) {
        bool lossless;
        pointer_ = info[2].As<Napi::BigInt>().Uint64Value(&lossless);
        memory_ = std::make_shared<Memory>(device, pointer_, bytes_, false);
        if (info[3].IsObject() || info[3].IsExternal()) owner_ = Napi::Persistent(info[3].As<Napi::Object>());
      } else {
        constexpr size_t kAlignment = 64;
        const size_t residue = info[2].As<Napi::Number>().Uint32Value() % kAlignment;
        memory_ = device.allocate(residue == 0 ? bytes_ : bytes_ + kAlignment);
        pointer_ = memory_->pointer() + (residue + kAlignment - memory_->pointer() % kAlignment) % kAlignment;
        told_ = static_cast<int64_t>(memory_->bytes());
        Napi::MemoryManagement::AdjustExternalMemory(env, told_);
      }
      info.This().As<Napi::Object>().TypeTag(&kDeviceMemoryTag);
    });
  }
  ~DeviceMemory() { release(Env()); }

  /// The object behind a value; throws for anything else.
  static DeviceMemory& of(Napi::Env env, napi_value value, const char* name) {
    bool is_tagged = false;
    void* object = nullptr;
    if (napi_check_object_type_tag(env, value, &kDeviceMemoryTag, &is_tagged) != napi_ok || !is_tagged ||
        napi_unwrap(env, value, &object) != napi_ok)
      throw Napi::TypeError::New(env, std::string("Expected device memory for ") + name);
    auto& memory = *static_cast<DeviceMemory*>(object);
    if (!memory.memory_) throw Napi::Error::New(env, std::string("Expected live device memory for ") + name);
    return memory;
  }

  const std::shared_ptr<Memory>& memory() const { return memory_; }
  Device& device() const { return memory_->device(); }
  void* address() const { return reinterpret_cast<void*>(pointer_); }
  size_t bytes() const { return bytes_; }
  size_t offset() const { return pointer_ - memory_->pointer(); }

 private:
  Napi::Value Ordinal(const Napi::CallbackInfo& info) {
    return Napi::Number::New(info.Env(), memory_ ? memory_->device().ordinal() : -1);
  }
  Napi::Value Pointer(const Napi::CallbackInfo& info) {
    return Napi::BigInt::New(info.Env(), static_cast<uint64_t>(pointer_));
  }
  Napi::Value ByteLength(const Napi::CallbackInfo& info) {
    return Napi::Number::New(info.Env(), static_cast<double>(bytes_));
  }
  void Dispose(const Napi::CallbackInfo& info) { release(info.Env()); }

  /// Gives the memory back once nothing uses it; no call of the driver.
  void release(Napi::Env env) {
    if (!memory_) return;
    const std::weak_ptr<Memory> memory = memory_;
    const int ordinal = memory_->device().ordinal();
    memory_.reset();
    if (memory.expired())
      owner_.Reset();
    else if (!owner_.IsEmpty())
      in_flight_->keep(std::move(owner_), memory, ordinal);
    if (told_ != 0) Napi::MemoryManagement::AdjustExternalMemory(env, -told_);
  }

  std::shared_ptr<InFlight> in_flight_;
  std::shared_ptr<Memory> memory_;  // null once it was released
  cuda::DevicePointer pointer_ = 0;
  size_t bytes_ = 0;
  int64_t told_ = 0;             // what the garbage collector was told of
  Napi::ObjectReference owner_;  // empty without one
};

/// The elements of a list of memories of one device, each of which is kept.
class MemoryList {
 public:
  MemoryList(Napi::Env env, const Device& device, const Napi::Value& list, size_t size, const char* name,
             cuda::Memories& kept)
      : env_(env), device_(device), list_(list.As<Napi::Array>()), name_(name), kept_(kept) {
    if (!list.IsArray() || list_.Length() != size)
      throw Napi::TypeError::New(env, std::string("Expected a list of device memories for ") + name);
  }
  View view(uint32_t i, size_t element_size) const {
    napi_value value;
    if (napi_get_element(env_, list_, i, &value) != napi_ok) throw Napi::Error::New(env_);
    const DeviceMemory& memory = DeviceMemory::of(env_, value, name_);
    if (&memory.device() != &device_ || memory.bytes() % element_size != 0)
      throw Napi::RangeError::New(env_, std::string("Expected elements in memory of one device for ") + name_);
    kept_.push_back(memory.memory());
    return {memory.address(), memory.bytes() / element_size};
  }
  const char* name() const { return name_; }

 private:
  Napi::Env env_;
  const Device& device_;
  Napi::Array list_;
  const char* name_;
  cuda::Memories& kept_;
};

class CudaBinding : public Napi::ObjectWrap<CudaBinding> {
 public:
  static Napi::Function Define(Napi::Env env) {
    return DefineClass(env, "Binding",
                       {
                           InstanceMethod<&CudaBinding::SetGrads>("setGrads"),
                           InstanceMethod<&CudaBinding::SetGroups>("setGroups"),
                           InstanceMethod<&CudaBinding::Begin>("begin"),
                           InstanceMethod<&CudaBinding::Run>("step"),
                           InstanceMethod<&CudaBinding::Dispose>("dispose"),
                       });
  }

  /// new Binding(device, stream: bigint, rule, layouts: Uint8Array, keys: Uint32Array, weights, means, variances,
  /// masters)
  explicit CudaBinding(const Napi::CallbackInfo& info) : Napi::ObjectWrap<CudaBinding>(info) {
    const Napi::Env env = info.Env();
    guarded_cuda(env, [&] {
      in_flight_ = env.GetInstanceData<Environment>()->in_flight;
      Device& device = Device::get(info[0].As<Napi::Number>().Int32Value());
      bool lossless;
      const auto stream = reinterpret_cast<cuda::StreamHandle>(info[1].As<Napi::BigInt>().Uint64Value(&lossless));
      cuda::Memories memories;
      Binding binding = read_binding(info, 2, [&](const Napi::Value& list, size_t size, const char* name) {
        return MemoryList(env, device, list, size, name, memories);
      });
      try {
        step_ = std::make_unique<cuda::Step>(device, std::move(binding), std::move(memories), stream);
      } catch (const std::invalid_argument& error) {
        throw Napi::RangeError::New(env, "Expected a stream of cuda:" + std::to_string(device.ordinal()) +
                                             " for stream but received " + error.what());
      }
    });
  }

 private:
  cuda::Step& step(Napi::Env env) const {
    if (!step_) throw Napi::Error::New(env, "Expected a binding that was not disposed of");
    return *step_;
  }

  /// setGrads(grads): as that of addon.cc's Binding
  Napi::Value SetGrads(const Napi::CallbackInfo& info) {
    const Napi::Env env = info.Env();
    return guarded_cuda(env, [&] {
      cuda::Step& step = this->step(env);
      cuda::Memories memories;
      const MemoryList list(env, step.device(), info[0], step.binding().size(), "grads", memories);
      const std::vector<const void*> grads = read_grads(env, step.binding(), list);
      const auto overlap = step.set_grads(grads, std::move(memories));
      if (!overlap) has_grads_ = true;
      return to_javascript(env, overlap);
    });
  }

  /// setGroups(groupOf, scalars): as that of addon.cc's Binding
  void SetGroups(const Napi::CallbackInfo& info) {
    guarded_cuda(info.Env(), [&] {
      cuda::Step& step = this->step(info.Env());
      const GroupArguments arguments = GroupArguments::read(info, step.binding().size());
      step.set_groups(arguments.group_of, arguments.group_count);
      scalars_holder_ = Napi::Persistent(info[1].As<Napi::Object>());
      scalars_ = arguments.scalars;
    });
  }

  /// begin(): reads the scalars of a step and sends what the device lacks. What fails here has changed nothing.
  void Begin(const Napi::CallbackInfo& info) {
    guarded_cuda(info.Env(), [&] {
      if (!has_grads_ || !scalars_) throw Napi::Error::New(info.Env(), "Expected setGrads and setGroups before a step");
      in_flight_->sweep();
      step(info.Env()).begin(options_of(scalars_), groups_of(scalars_));
      has_begun_ = true;
    });
  }

  /// step(first, last): launches the update of these tensors.
  void Run(const Napi::CallbackInfo& info) {
    guarded_cuda(info.Env(), [&] {
      cuda::Step& step = this->step(info.Env());
      const size_t first = info[0].As<Napi::Number>().Uint32Value();
      const size_t last = info[1].As<Napi::Number>().Uint32Value();
      if (!has_begun_ || first > last || last > step.binding().size())
        throw Napi::Error::New(info.Env(), "Expected begin and a range of tensors before a step");
      step.run(first, last);
    });
  }

  /// dispose(): lets go of the memories, once the last launch is done.
  void Dispose(const Napi::CallbackInfo&) {
    step_.reset();
    scalars_holder_.Reset();
    scalars_ = nullptr;
  }

  std::shared_ptr<InFlight> in_flight_;
  std::unique_ptr<cuda::Step> step_;
  Napi::ObjectReference scalars_holder_;
  const double* scalars_ = nullptr;
  bool has_grads_ = false, has_begun_ = false;
};

/// The host memory of a typed array that has as many bytes as a device memory.
void* host_memory(Napi::Env env, const Napi::Value& value, const DeviceMemory& like) {
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

bool is_device_memory(Napi::Env env, const Napi::Value& value) {
  bool is_tagged = false;
  return value.IsObject() && napi_check_object_type_tag(env, value, &kDeviceMemoryTag, &is_tagged) == napi_ok &&
         is_tagged;
}

/// copy(to, from): device memory or typed arrays, not both typed arrays. Returns when host memory may be used again.
void Copy(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  guarded_cuda(env, [&] {
    if (!is_device_memory(env, info[0])) {
      const DeviceMemory& from = DeviceMemory::of(env, info[1], "from");
      void* to = host_memory(env, info[0], from);
      cuda::copy_to_host(to, from.memory(), from.offset(), from.bytes());
    } else if (!is_device_memory(env, info[1])) {
      const DeviceMemory& to = DeviceMemory::of(env, info[0], "to");
      cuda::copy_from_host(to.memory(), to.offset(), host_memory(env, info[1], to), to.bytes());
    } else {
      const DeviceMemory &to = DeviceMemory::of(env, info[0], "to"), &from = DeviceMemory::of(env, info[1], "from");
      if (to.bytes() != from.bytes())
        throw Napi::RangeError::New(env, "Expected as many bytes on both sides of a copy");
      cuda::copy_memory(to.memory(), from.memory(), to.bytes(), to.offset(), from.offset());
    }
  });
}

/// A copy in flight: what it uses, and whom it tells.
struct PendingCopy {
  Napi::Promise::Deferred promise;
  Napi::ObjectReference to, from;
  std::shared_ptr<InFlight> in_flight;
  int ordinal;
  napi_threadsafe_function tell = nullptr;
  cuda::Status status = cuda::kSuccess;

  /// On a thread of the driver.
  static void done(cuda::StreamHandle, cuda::Status status, void* context) {
    auto* copy = static_cast<PendingCopy*>(context);
    copy->status = status;
    napi_call_threadsafe_function(copy->tell, copy, napi_tsfn_nonblocking);  // fails only in a thread that ends
  }
  static void settle(Napi::Env env, const PendingCopy& copy) {
    try {
      cuda::check(copy.status, "a copy");
      copy.promise.Resolve(env.Undefined());
    } catch (const cuda::DriverError& error) {
      copy.promise.Reject(to_javascript(env, error).Value());
    }
  }
  /// On the JavaScript thread.
  static void resolve(napi_env env, napi_value, void*, void* data) {
    const std::unique_ptr<PendingCopy> copy(static_cast<PendingCopy*>(data));
    if (!env) {  // the thread ends, and its references with it
      copy->to.SuppressDestruct();
      copy->from.SuppressDestruct();
      return;
    }
    copy->in_flight->end_copy(copy->ordinal);
    napi_release_threadsafe_function(copy->tell, napi_tsfn_release);
    try {
      settle(env, *copy);
    } catch (const Napi::Error&) {
      // A thread that was told to end runs no JavaScript any more.
    }
  }
};

/// startCopy(to, from): Promise; one is device memory, the other a typed array whose memory stays where it is.
Napi::Value StartCopy(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  return guarded_cuda(env, [&]() -> Napi::Value {
    const bool to_device = is_device_memory(env, info[0]);
    const DeviceMemory& memory = DeviceMemory::of(env, info[to_device ? 0 : 1], "a copy");
    void* host = host_memory(env, info[to_device ? 1 : 0], memory);
    const auto& in_flight = env.GetInstanceData<Environment>()->in_flight;
    const int ordinal = memory.device().ordinal();
    auto copy = std::make_unique<PendingCopy>(
        PendingCopy{Napi::Promise::Deferred::New(env), Napi::Persistent(info[0].As<Napi::Object>()),
                    Napi::Persistent(info[1].As<Napi::Object>()), in_flight, ordinal});
    const Napi::String name = Napi::String::New(env, "fused-adamw copy");
    if (napi_create_threadsafe_function(env, nullptr, nullptr, name, 0, 1, nullptr, nullptr, nullptr,
                                        PendingCopy::resolve, &copy->tell) != napi_ok)
      throw Napi::Error::New(env);
    try {
      if (to_device)
        cuda::start_copy_from_host(memory.memory(), host, memory.bytes(), PendingCopy::done, copy.get(),
                                   memory.offset());
      else
        cuda::start_copy_to_host(host, memory.memory(), memory.bytes(), PendingCopy::done, copy.get(), memory.offset());
    } catch (...) {
      napi_release_threadsafe_function(copy->tell, napi_tsfn_abort);
      throw;
    }
    in_flight->begin_copy(ordinal);
    return copy.release()->promise.Promise();
  });
}

/// pinned(bytes, device): ArrayBuffer of zeros in page-locked memory, which serves all devices; throws where external
/// ArrayBuffers are not allowed.
Napi::Value Pinned(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  return guarded_cuda(env, [&]() -> Napi::Value {
    const auto bytes = static_cast<size_t>(info[0].As<Napi::Number>().Int64Value());
    auto memory = Device::get(info[1].As<Napi::Number>().Int32Value()).allocate_pinned(bytes);
    std::memset(memory->data(), 0, bytes);
    const auto release = [](napi_env, void*, void* hint) { delete static_cast<cuda::PinnedMemory*>(hint); };
    napi_value buffer;
    if (napi_create_external_arraybuffer(env, memory->data(), bytes, release, memory.get(), &buffer) != napi_ok)
      throw Napi::Error::New(env, "Expected an engine that allows external ArrayBuffers");
    memory.release();
    return Napi::Value(env, buffer);
  });
}

/// usedDevice(): the ordinal of a device that is ready already, or -1. Makes none ready.
Napi::Value UsedDevice(const Napi::CallbackInfo& info) {
  const Device* device = Device::in_use();
  return Napi::Number::New(info.Env(), device ? device->ordinal() : -1);
}

/// probe(): what the driver tells without a context, or why there is none.
Napi::Value Probe(const Napi::CallbackInfo& info) {
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

/// unusable(device): null, or why no step can run there. Makes the device ready.
Napi::Value Unusable(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  try {
    Device::get(info[0].As<Napi::Number>().Int32Value());
    return env.Null();
  } catch (const std::runtime_error& error) {
    return Napi::String::New(env, error.what());
  }
}

/// pointerInfo(pointer: bigint, wanted): { device, bytes }, where bytes are at least `wanted` if there are so many,
/// or what the address is instead, as a string.
Napi::Value PointerInfo(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  return guarded_cuda(env, [&]() -> Napi::Value {
    bool lossless;
    try {
      const cuda::PointerInfo found = cuda::pointer_info(info[0].As<Napi::BigInt>().Uint64Value(&lossless),
                                                         static_cast<size_t>(info[1].As<Napi::Number>().Int64Value()));
      Napi::Object result = Napi::Object::New(env);
      result["device"] = found.ordinal;
      result["bytes"] = static_cast<double>(found.bytes);
      return result;
    } catch (const std::invalid_argument& error) {
      return Napi::String::New(env, error.what());
    }
  });
}

/// synchronize(device): waits until all work of ours there is done.
void Synchronize(const Napi::CallbackInfo& info) {
  guarded_cuda(info.Env(), [&] {
    Device::get(info[0].As<Napi::Number>().Int32Value()).synchronize();
    info.Env().GetInstanceData<Environment>()->in_flight->sweep();
  });
}

/// setDeviceCode(paths): files with device code, before the first use of a device.
void SetDeviceCode(const Napi::CallbackInfo& info) {
  const Napi::Array list = info[0].As<Napi::Array>();
  std::vector<std::string> paths;
  for (uint32_t i = 0; i < list.Length(); ++i) paths.push_back(list.Get(i).As<Napi::String>().Utf8Value());
  cuda::set_device_code(std::move(paths));
}

}  // namespace

Napi::Object define_cuda(Napi::Env env) {
  auto* environment = new Environment;
  env.SetInstanceData(environment);
  env.AddCleanupHook([](InFlight* in_flight) { in_flight->wait(); }, environment->in_flight.get());
  Napi::Object exports = Napi::Object::New(env);
  exports["DeviceMemory"] = DeviceMemory::Define(env);
  exports["Binding"] = CudaBinding::Define(env);
  exports["probe"] = Napi::Function::New<Probe>(env, "probe");
  exports["unusable"] = Napi::Function::New<Unusable>(env, "unusable");
  exports["pointerInfo"] = Napi::Function::New<PointerInfo>(env, "pointerInfo");
  exports["copy"] = Napi::Function::New<Copy>(env, "copy");
  exports["startCopy"] = Napi::Function::New<StartCopy>(env, "startCopy");
  exports["pinned"] = Napi::Function::New<Pinned>(env, "pinned");
  exports["usedDevice"] = Napi::Function::New<UsedDevice>(env, "usedDevice");
  exports["synchronize"] = Napi::Function::New<Synchronize>(env, "synchronize");
  exports["setDeviceCode"] = Napi::Function::New<SetDeviceCode>(env, "setDeviceCode");
  return exports;
}

}  // namespace fused_adamw
