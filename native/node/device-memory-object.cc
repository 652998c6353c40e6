#include "device-memory-object.h"

#include "dlpack.h"

namespace fused_adamw {
namespace {

constexpr napi_type_tag kTag = {0x8b1f2d6c53e94a07, 0xa4c7905e3bd8f162};

}  // namespace

Napi::Function DeviceMemoryObject::define(Napi::Env env) {
  return DefineClass(env, "DeviceMemory",
                     {
                         InstanceAccessor<&DeviceMemoryObject::device_ordinal>("device"),
                         InstanceAccessor<&DeviceMemoryObject::pointer>("pointer"),
                         InstanceAccessor<&DeviceMemoryObject::byte_length>("byteLength"),
                         InstanceMethod<&DeviceMemoryObject::share>("share"),
                         InstanceMethod<&DeviceMemoryObject::dispose>("dispose"),
                     });
}

DeviceMemoryObject::DeviceMemoryObject(const Napi::CallbackInfo& info) : Napi::ObjectWrap<DeviceMemoryObject>(info) {
  const Napi::Env env = info.Env();
  guarded(env, [&] {
    in_flight_ = Environment::of(env).in_flight;
    in_flight_->sweep();
    cuda::Device& device = cuda::Device::get(info[0].As<Napi::Number>().Int32Value());
    bytes_ = static_cast<size_t>(info[1].As<Napi::Number>().Int64Value());
    if (info[2].IsBigInt()) {
      bool lossless;
      pointer_ = info[2].As<Napi::BigInt>().Uint64Value(&lossless);
      memory_ = std::make_shared<cuda::Memory>(device, pointer_, bytes_, false);
      owner_ = dlpack::held(env, info[3]);
      if (!owner_ && (info[3].IsObject() || info[3].IsExternal()))
        owner_ = std::make_shared<Napi::ObjectReference>(Napi::Persistent(info[3].As<Napi::Object>()));
    } else {
      constexpr size_t kAlignment = 64;
      const size_t residue = info[2].As<Napi::Number>().Uint32Value() % kAlignment;
      memory_ = device.allocate(residue == 0 ? bytes_ : bytes_ + kAlignment);
      pointer_ = memory_->pointer() + (residue + kAlignment - memory_->pointer() % kAlignment) % kAlignment;
      external_bytes_ = static_cast<int64_t>(memory_->bytes());
      Napi::MemoryManagement::AdjustExternalMemory(env, external_bytes_);
    }
    const Napi::Object object = info.This().As<Napi::Object>();
    object.TypeTag(&kTag);
    slots_ = Environment::of(env).device_memories;
    slot_ = slots_->add(this);
    object.DefineProperty(Napi::PropertyDescriptor::Value("slot", Napi::Number::New(env, slot_)));
  });
}

DeviceMemoryObject::~DeviceMemoryObject() {
  release(Env());
  if (slots_) slots_->remove(slot_);
}

bool DeviceMemoryObject::is_instance(Napi::Env env, napi_value value) {
  bool is_tagged = false;
  return napi_check_object_type_tag(env, value, &kTag, &is_tagged) == napi_ok && is_tagged;
}

DeviceMemoryObject& DeviceMemoryObject::of(Napi::Env env, napi_value value, const char* name) {
  void* object = nullptr;
  if (!is_instance(env, value) || napi_unwrap(env, value, &object) != napi_ok)
    throw Napi::TypeError::New(env, std::string("Expected device memory for ") + name);
  auto& memory = *static_cast<DeviceMemoryObject*>(object);
  if (!memory.memory_) throw Napi::Error::New(env, std::string("Expected live device memory for ") + name);
  return memory;
}

Napi::Value DeviceMemoryObject::device_ordinal(const Napi::CallbackInfo& info) {
  return Napi::Number::New(info.Env(), memory_ ? memory_->device().ordinal() : -1);
}

Napi::Value DeviceMemoryObject::pointer(const Napi::CallbackInfo& info) {
  return Napi::BigInt::New(info.Env(), static_cast<uint64_t>(pointer_));
}

Napi::Value DeviceMemoryObject::byte_length(const Napi::CallbackInfo& info) {
  return Napi::Number::New(info.Env(), static_cast<double>(bytes_));
}

void DeviceMemoryObject::share(const Napi::CallbackInfo&) {
  if (memory_) memory_->share();
}

void DeviceMemoryObject::dispose(const Napi::CallbackInfo& info) {
  guarded(info.Env(), [&] { release(info.Env()); });
}

void DeviceMemoryObject::release(Napi::Env env) {
  if (!memory_) return;
  const std::weak_ptr<cuda::Memory> memory = memory_;
  const int ordinal = memory_->device().ordinal();
  memory_.reset();
  if (memory.expired())
    owner_.reset();
  else if (owner_)
    in_flight_->keep(std::move(owner_), memory, ordinal);
  if (external_bytes_ != 0) Napi::MemoryManagement::AdjustExternalMemory(env, -external_bytes_);
}

View take_elements(Napi::Env env, const cuda::Device& device, cuda::Memories& memories,
                   const DeviceMemoryObject& memory, size_t element_bytes, const char* name) {
  if (&memory.device() != &device || memory.bytes() % element_bytes != 0)
    throw Napi::RangeError::New(env, std::string("Expected elements in memory of one device for ") + name);
  memories.push_back(memory.memory());
  return View{memory.address(), memory.bytes() / element_bytes};
}

}  // namespace fused_adamw
