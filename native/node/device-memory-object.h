// DeviceMemory as JavaScript sees it.
#pragma once

#include <memory>

#include "environment.h"
#include "read.h"

namespace fused_adamw {

/// A range of a GPU's memory: allocated here, or at an address from another library.
class DeviceMemoryObject : public Napi::ObjectWrap<DeviceMemoryObject> {
 public:
  static Napi::Function define(Napi::Env env);

  /// new DeviceMemory(device, bytes, residue): zeroed memory whose address is `residue` modulo 64
  /// new DeviceMemory(device, bytes, pointer: bigint, owner): memory of another library, which pointerInfo() has
  /// checked before; the owner (an object, or a hold of dlpack.cc) is kept until nothing uses the memory
  explicit DeviceMemoryObject(const Napi::CallbackInfo& info);
  ~DeviceMemoryObject();

  static bool is_instance(Napi::Env env, napi_value value);
  /// The object behind a value. Throws for any other value, and where the memory was disposed of.
  static DeviceMemoryObject& of(Napi::Env env, napi_value value, const char* name);

  /// Null after dispose().
  const std::shared_ptr<cuda::Memory>& memory() const { return memory_; }
  cuda::Device& device() const { return memory_->device(); }
  void* address() const { return reinterpret_cast<void*>(pointer_); }
  size_t bytes() const { return bytes_; }
  size_t offset() const { return pointer_ - memory_->pointer(); }

 private:
  Napi::Value device_ordinal(const Napi::CallbackInfo& info);
  Napi::Value pointer(const Napi::CallbackInfo& info);
  Napi::Value byte_length(const Napi::CallbackInfo& info);
  void share(const Napi::CallbackInfo& info);
  void dispose(const Napi::CallbackInfo& info);

  /// Gives the memory back once nothing uses it. Calls no function of the driver.
  void release(Napi::Env env);

  std::shared_ptr<InFlight> in_flight_;
  std::shared_ptr<DeviceMemorySlots> slots_;  // null where the constructor threw
  uint32_t slot_ = 0;
  std::shared_ptr<cuda::Memory> memory_;  // null once released
  cuda::DevicePointer pointer_ = 0;
  size_t bytes_ = 0;
  int64_t external_bytes_ = 0;   // that the garbage collector knows of
  std::shared_ptr<void> owner_;  // null without one
};

/// The elements of a memory of the device, which is added to those that own the addresses.
View take_elements(Napi::Env env, const cuda::Device& device, cuda::Memories& memories,
                   const DeviceMemoryObject& memory, size_t element_bytes, const char* name);

}  // namespace fused_adamw
