#include "dlpack.h"

#include <mutex>
#include <set>
#include <string>
#include <vector>

#include "device-memory-object.h"
#include "exports.h"
#include "read.h"

namespace fused_adamw {
namespace dlpack {
namespace {

/// The tensors of other libraries that are in use.
struct InUse {
  std::mutex mutex;
  std::set<const void*> tensors;
};
InUse& in_use() {
  static InUse& instance = *new InUse;
  return instance;
}

void* elements_of(const Tensor& tensor) { return static_cast<char*>(tensor.data) + tensor.byte_offset; }

}  // namespace

Managed::Managed(void* tensor, bool is_versioned) : tensor_(tensor), is_versioned_(is_versioned) {
  const std::lock_guard lock(in_use().mutex);
  if (!in_use().tensors.insert(tensor).second) throw std::invalid_argument("a DLPack tensor that is in use already");
}

Managed::~Managed() {
  if (!tensor_) return;
  void* const tensor = tensor_;
  give_back();
  if (is_versioned_) {
    auto* versioned = static_cast<Versioned*>(tensor);
    if (versioned->deleter) versioned->deleter(versioned);
  } else {
    auto* unversioned = static_cast<Unversioned*>(tensor);
    if (unversioned->deleter) unversioned->deleter(unversioned);
  }
}

void Managed::give_back() {
  const std::lock_guard lock(in_use().mutex);
  in_use().tensors.erase(tensor_);
  tensor_ = nullptr;
}

bool Managed::is_in_use(const void* tensor) {
  const std::lock_guard lock(in_use().mutex);
  return in_use().tensors.count(tensor) > 0;
}

const Tensor& Managed::tensor_of(void* tensor, bool is_versioned) {
  return is_versioned ? static_cast<Versioned*>(tensor)->tensor : static_cast<Unversioned*>(tensor)->tensor;
}

void* Managed::elements() const { return elements_of(tensor_of(tensor_, is_versioned_)); }

namespace {

constexpr napi_type_tag kHoldTag = {0x5d0c7f1ba92e4386, 0x9e61d24c80fb3a57};

/// The address of a DLPack tensor: a bigint or an External.
void* pointer_of(const Napi::Value& value) {
  if (value.IsExternal()) return value.As<Napi::External<void>>().Data();
  bool lossless;
  return reinterpret_cast<void*>(value.As<Napi::BigInt>().Uint64Value(&lossless));
}

Napi::Value numbers(Napi::Env env, const int64_t* values, int32_t count) {
  if (!values) return env.Null();
  Napi::Array list = Napi::Array::New(env, static_cast<size_t>(count));
  for (int32_t i = 0; i < count; ++i)
    list[static_cast<uint32_t>(i)] = Napi::Number::New(env, static_cast<double>(values[i]));
  return list;
}

/// describe(pointer: bigint | External, isVersioned): what a tensor says of itself. Of a version that is not known only
/// `major` is read.
Napi::Value describe(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  void* pointer = pointer_of(info[0]);
  const bool is_versioned = info[1].As<Napi::Boolean>();
  Napi::Object result = Napi::Object::New(env);
  result["isInUse"] = Napi::Boolean::New(env, Managed::is_in_use(pointer));
  result["major"] = is_versioned ? static_cast<Versioned*>(pointer)->major : 0;
  if (is_versioned && static_cast<Versioned*>(pointer)->major != 1) return result;
  const Tensor& tensor = Managed::tensor_of(pointer, is_versioned);
  result["isReadOnly"] =
      Napi::Boolean::New(env, is_versioned && (static_cast<Versioned*>(pointer)->flags & kReadOnly) != 0);
  result["deviceType"] = tensor.device.type;
  result["deviceId"] = tensor.device.id;
  result["code"] = tensor.dtype.code;
  result["bits"] = tensor.dtype.bits;
  result["lanes"] = tensor.dtype.lanes;
  result["shape"] = tensor.dimensions > 0 ? numbers(env, tensor.shape, tensor.dimensions) : Napi::Array::New(env);
  result["strides"] = numbers(env, tensor.strides, tensor.dimensions);
  result["address"] = Napi::BigInt::New(env, reinterpret_cast<uint64_t>(elements_of(tensor)));
  return result;
}

/// Holds a tensor of another library.
class Hold : public Napi::ObjectWrap<Hold> {
 public:
  static Napi::Function define(Napi::Env env) {
    return DefineClass(env, "Hold",
                       {InstanceMethod<&Hold::take>("take"), InstanceMethod<&Hold::buffer>("buffer"),
                        InstanceMethod<&Hold::release>("release"), InstanceMethod<&Hold::give_back>("giveBack")});
  }

  explicit Hold(const Napi::CallbackInfo& info) : Napi::ObjectWrap<Hold>(info) {
    guarded(info.Env(), [&] { info.This().As<Napi::Object>().TypeTag(&kHoldTag); });
  }

  const std::shared_ptr<Managed>& managed() const { return managed_; }

 private:
  /// take(pointer: bigint | External, isVersioned): once. Nothing can fail after the tensor is taken.
  void take(const Napi::CallbackInfo& info) {
    guarded(info.Env(), [&] {
      void* const pointer = pointer_of(info[0]);
      const bool is_versioned = info[1].As<Napi::Boolean>();
      managed_ = std::make_shared<Managed>(pointer, is_versioned);
    });
  }

  /// buffer(bytes): an ArrayBuffer over the elements, which holds them, too.
  Napi::Value buffer(const Napi::CallbackInfo& info) {
    const Napi::Env env = info.Env();
    return guarded(env, [&]() -> Napi::Value {
      const auto bytes = static_cast<size_t>(info[0].As<Napi::Number>().Int64Value());
      auto holder = std::make_unique<std::shared_ptr<Managed>>(managed_);
      const auto finalize = [](napi_env, void*, void* hint) { delete static_cast<std::shared_ptr<Managed>*>(hint); };
      napi_value buffer;
      if (napi_create_external_arraybuffer(env, managed_->elements(), bytes, finalize, holder.get(), &buffer) !=
          napi_ok)
        throw Napi::Error::New(env, "Expected an engine that allows external ArrayBuffers");
      holder_ = holder.release();
      buffer_ = Napi::Weak(Napi::Value(env, buffer).As<Napi::Object>());
      return Napi::Value(env, buffer);
    });
  }

  /// release(): detaches the buffer, and the deleter is called now or, on a GPU, once no work uses the memory.
  void release(const Napi::CallbackInfo& info) {
    const Napi::Env env = info.Env();
    guarded(env, [&] {
      const Napi::Value buffer = buffer_.IsEmpty() ? env.Undefined() : Napi::Value(buffer_.Value());
      if (!buffer.IsEmpty() && buffer.IsObject()) {
        if (napi_detach_arraybuffer(env, buffer) != napi_ok) return;  // then the garbage collector is waited for
        holder_->reset();  // its finalizer, which deletes it, comes later: the buffer was there until now
      }
      buffer_.Reset();
      managed_.reset();
    });
  }

  /// giveBack(): as release(), but nobody calls the deleter: the tensor is its former owner's again.
  void give_back(const Napi::CallbackInfo& info) {
    if (managed_) managed_->give_back();
    release(info);
  }

  std::shared_ptr<Managed> managed_;  // null before take() and after release()
  std::shared_ptr<Managed>* holder_ = nullptr;
  Napi::ObjectReference buffer_;  // weak
};

/// A tensor of ours in use by another library.
template <class ManagedTensor>
struct Produced {
  ManagedTensor managed{};
  std::vector<int64_t> shape, strides;
  std::shared_ptr<cuda::Memory> memory;          // of a GPU
  Napi::ObjectReference array;                   // of the host
  std::shared_ptr<ReleasedReferences> released;  // where the array is given back

  /// On any thread.
  static void destroy(ManagedTensor* managed) {
    auto* produced = static_cast<Produced*>(managed->context);
    produced->released->add(std::move(produced->array));
    delete produced;
  }
};

/// What JavaScript gets for a tensor of ours: a `name` and a `pointer`, as a capsule of Python. Who takes the tensor
/// changes the name, and calls the deleter in the end; if nobody does, that is done here.
class Capsule : public Napi::ObjectWrap<Capsule> {
 public:
  static Napi::Function define(Napi::Env env) {
    return DefineClass(
        env, "DlpackCapsule",
        {InstanceAccessor<&Capsule::name, &Capsule::set_name>("name"), InstanceAccessor<&Capsule::pointer>("pointer")});
  }

  /// new DlpackCapsule(memory: TypedArray | DeviceMemory, code, bits, shape, isVersioned)
  explicit Capsule(const Napi::CallbackInfo& info) : Napi::ObjectWrap<Capsule>(info) {
    guarded(info.Env(), [&] {
      Environment::of(info.Env()).released->sweep();
      if (info[4].As<Napi::Boolean>())
        fill<Versioned>(info);
      else
        fill<Unversioned>(info);
    });
  }
  ~Capsule() {
    if (pointer_ && name_.rfind("used_", 0) != 0) destroy_(pointer_);
  }

 private:
  template <class ManagedTensor>
  void fill(const Napi::CallbackInfo& info) {
    const Napi::Env env = info.Env();
    auto produced = std::make_unique<Produced<ManagedTensor>>();
    produced->released = Environment::of(env).released;
    Tensor& tensor = produced->managed.tensor;
    if (DeviceMemoryObject::is_instance(env, info[0])) {
      const auto& memory = DeviceMemoryObject::of(env, info[0], "toDlpack");
      memory.memory()->share();
      produced->memory = memory.memory();
      tensor.data = memory.address();
      tensor.device = {kCuda, memory.device().ordinal()};
    } else {
      if (napi_get_typedarray_info(env, info[0], nullptr, nullptr, &tensor.data, nullptr, nullptr) != napi_ok)
        throw Napi::TypeError::New(env, "Expected a typed array or device memory for toDlpack");
      produced->array = Napi::Persistent(info[0].As<Napi::Object>());
      tensor.device = {kCpu, 0};
    }
    tensor.dtype = {static_cast<uint8_t>(info[1].As<Napi::Number>().Uint32Value()),
                    static_cast<uint8_t>(info[2].As<Napi::Number>().Uint32Value()), 1};
    const Napi::Array shape = info[3].As<Napi::Array>();
    for (uint32_t i = 0; i < shape.Length(); ++i)
      produced->shape.push_back(shape.Get(i).As<Napi::Number>().Int64Value());
    produced->strides.assign(produced->shape.size(), 1);
    for (size_t i = produced->shape.size(); i-- > 1;)
      produced->strides[i - 1] = produced->strides[i] * produced->shape[i];
    tensor.dimensions = static_cast<int32_t>(produced->shape.size());
    tensor.shape = produced->shape.data();
    tensor.strides = produced->strides.data();
    ManagedTensor& managed = produced->managed;
    if constexpr (std::is_same_v<ManagedTensor, Versioned>) managed.major = 1;
    managed.context = produced.get();
    managed.deleter = Produced<ManagedTensor>::destroy;
    name_ = std::is_same_v<ManagedTensor, Versioned> ? "dltensor_versioned" : "dltensor";
    pointer_ = &produced.release()->managed;
    destroy_ = [](void* pointer) {
      auto* unused = static_cast<ManagedTensor*>(pointer);
      unused->deleter(unused);
    };
  }

  Napi::Value name(const Napi::CallbackInfo& info) { return Napi::String::New(info.Env(), name_); }
  void set_name(const Napi::CallbackInfo& info, const Napi::Value& value) {
    guarded(info.Env(), [&] { name_ = value.ToString().Utf8Value(); });
  }
  Napi::Value pointer(const Napi::CallbackInfo& info) {
    return Napi::BigInt::New(info.Env(), reinterpret_cast<uint64_t>(pointer_));
  }

  std::string name_;
  void* pointer_ = nullptr;
  void (*destroy_)(void*) = nullptr;  // calls the deleter
};

}  // namespace

std::shared_ptr<Managed> held(Napi::Env env, const Napi::Value& value) {
  bool is_hold = false;
  void* hold = nullptr;
  if (!value.IsObject() || napi_check_object_type_tag(env, value, &kHoldTag, &is_hold) != napi_ok || !is_hold ||
      napi_unwrap(env, value, &hold) != napi_ok)
    return nullptr;
  return static_cast<Hold*>(hold)->managed();
}

}  // namespace dlpack

void export_dlpack(Napi::Env env, Napi::Object exports) {
  exports["describe"] = guarded_function<dlpack::describe>(env, "describe");
  exports["Hold"] = dlpack::Hold::define(env);
  exports["Capsule"] = dlpack::Capsule::define(env);
}

}  // namespace fused_adamw
