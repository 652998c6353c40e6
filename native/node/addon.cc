// Node-API: reads arguments and calls the rest. Only this file and addon-cuda.cc speak it.
//
// TypeScript (lib/) has validated what it passes and words every message that a
// user is meant to read. What could touch memory wrongly is checked again here.
#include "addon.h"

#if defined(__linux__)
#include <sys/mman.h>
#endif

#include <atomic>
#include <string>

#include "../cpu/isa/kernels.h"
#include "../cpu/openmp.h"
#include "../cpu/processors.h"
#include "../cpu/step.h"
#include "../cpu/threads.h"

namespace fused_adamw {
namespace {

#if !defined(FUSED_ADAMW_BUILD)
#error "the build defines FUSED_ADAMW_BUILD, its own name"
#endif

std::atomic<const cpu::Variant*> active_variant{nullptr};

napi_typedarray_type type_of_size(size_t bytes) {
  return bytes == 2 ? napi_uint16_array : bytes == 4 ? napi_float32_array : napi_float64_array;
}

/// The elements of a list of arrays, one after the other.
class List {
 public:
  List(Napi::Env env, const Napi::Value& list, size_t size, const char* name)
      : env_(env), list_(list.As<Napi::Array>()), name_(name) {
    if (!list.IsArray() || list_.Length() != size)
      throw Napi::TypeError::New(env, std::string("Expected a list of arrays for ") + name);
  }
  View view(uint32_t i, size_t element_size) const {
    napi_value value;
    if (napi_get_element(env_, list_, i, &value) != napi_ok) throw Napi::Error::New(env_);
    return read_view(env_, value, type_of_size(element_size), name_);
  }
  const char* name() const { return name_; }

 private:
  Napi::Env env_;
  Napi::Array list_;
  const char* name_;
};

class BindingObject : public Napi::ObjectWrap<BindingObject> {
 public:
  static Napi::Function Define(Napi::Env env) {
    return DefineClass(env, "Binding",
                       {
                           InstanceMethod<&BindingObject::SetGrads>("setGrads"),
                           InstanceMethod<&BindingObject::SetGroups>("setGroups"),
                           InstanceMethod<&BindingObject::Step>("step"),
                           InstanceMethod<&BindingObject::Dispose>("dispose"),
                       });
  }

  /// new Binding(rule, layouts: Uint8Array, keys: Uint32Array, weights, means, variances, masters)
  explicit BindingObject(const Napi::CallbackInfo& info)
      : Napi::ObjectWrap<BindingObject>(info), binding_(guarded(info.Env(), [&] {
          return read_binding(info, 0, [&](const Napi::Value& list, size_t size, const char* name) {
            return List(info.Env(), list, size, name);
          });
        })) {}

 private:
  /// setGrads(grads): takes every gradient's address, unless it returns two arrays that share memory.
  Napi::Value SetGrads(const Napi::CallbackInfo& info) {
    return guarded(info.Env(), [&]() -> Napi::Value {
      const Napi::Env env = info.Env();
      const List list(env, info[0], binding_.size(), "grads");
      const auto overlap = binding_.set_grads(read_grads(env, binding_, list));
      if (!overlap) has_grads_ = true;
      return to_javascript(env, overlap);
    });
  }

  /// setGroups(groupOf: Uint32Array, scalars: Float64Array): see GroupArguments
  void SetGroups(const Napi::CallbackInfo& info) {
    guarded(info.Env(), [&] {
      const GroupArguments arguments = GroupArguments::read(info, binding_.size());
      rounded_.resize(arguments.group_count);
      binding_.set_groups(arguments.group_of, arguments.group_count);
      scalars_holder_ = Napi::Persistent(info[1].As<Napi::Object>());
      scalars_ = arguments.scalars;
    });
  }

  /// step(first, last): updates these tensors in place. The calls of one step
  /// go through the tensors in order; the first reads the scalars.
  void Step(const Napi::CallbackInfo& info) {
    guarded(info.Env(), [&] {
      const size_t first = info[0].As<Napi::Number>().Uint32Value();
      const size_t last = info[1].As<Napi::Number>().Uint32Value();
      if (!has_grads_ || !scalars_ || first > last || last > binding_.size())
        throw Napi::Error::New(info.Env(), "Expected setGrads, setGroups and a range of tensors before a step");
      if (first == 0) {
        cpu::round_groups(options_of(scalars_), groups_of(scalars_), rounded_.size(), rounded_.data());
      }
      cpu::step(binding_, *active_variant, rounded_.data(), first, last, cpu::num_threads());
    });
  }

  /// dispose(): frees the lists now rather than when the event loop comes to the finalizer.
  void Dispose(const Napi::CallbackInfo&) {
    binding_ = Binding(binding_.rule(), {});
    std::vector<cpu::GroupScalars>().swap(rounded_);
    scalars_holder_.Reset();
    scalars_ = nullptr;
    has_grads_ = false;
  }

  Binding binding_;
  Napi::ObjectReference scalars_holder_;
  const double* scalars_ = nullptr;
  std::vector<cpu::GroupScalars> rounded_;  // of the step that runs
  bool has_grads_ = false;
};

/// address(memory: TypedArray | ArrayBuffer | SharedArrayBuffer's view): bigint
Napi::Value Address(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  void* data = nullptr;
  if (info[0].IsArrayBuffer())
    data = info[0].As<Napi::ArrayBuffer>().Data();
  else if (napi_get_typedarray_info(env, info[0], nullptr, nullptr, &data, nullptr, nullptr) != napi_ok)
    throw Napi::TypeError::New(env, "Expected a typed array or an ArrayBuffer");
  return Napi::BigInt::New(env, reinterpret_cast<uint64_t>(data));
}

/// preferHugePages(buffer): asks the system for huge pages under memory that
/// nobody has written to yet. A hint: nothing is lost where it is not taken.
void PreferHugePages(const Napi::CallbackInfo& info) {
#if defined(__linux__)
  constexpr uintptr_t kHugePage = 2 * 1024 * 1024;
  Napi::ArrayBuffer buffer = info[0].As<Napi::ArrayBuffer>();
  const auto begin = (reinterpret_cast<uintptr_t>(buffer.Data()) + kHugePage - 1) / kHugePage * kHugePage;
  const auto end = (reinterpret_cast<uintptr_t>(buffer.Data()) + buffer.ByteLength()) / kHugePage * kHugePage;
  if (begin < end) madvise(reinterpret_cast<void*>(begin), end - begin, MADV_HUGEPAGE);
#else
  (void)info;
#endif
}

/// firstTouch(buffer, byteOffset, byteLength): see cpu::first_touch
void FirstTouch(const Napi::CallbackInfo& info) {
  Napi::ArrayBuffer buffer = info[0].As<Napi::ArrayBuffer>();
  const size_t offset = info[1].As<Napi::Number>().Int64Value(), length = info[2].As<Napi::Number>().Int64Value();
  if (offset > buffer.ByteLength() || length > buffer.ByteLength() - offset)
    throw Napi::RangeError::New(info.Env(), "Expected a part of the buffer");
  cpu::first_touch(static_cast<char*>(buffer.Data()) + offset, length);
}

/// setIsa(name): whether this machine runs that variant; if so, later steps do.
Napi::Value SetIsa(const Napi::CallbackInfo& info) {
  const cpu::Variant* variant = cpu::find_variant(info[0].As<Napi::String>().Utf8Value());
  if (variant) active_variant = variant;
  return Napi::Boolean::New(info.Env(), variant != nullptr);
}

Napi::Value Isa(const Napi::CallbackInfo& info) { return Napi::String::New(info.Env(), active_variant.load()->name); }

Napi::Value NumThreads(const Napi::CallbackInfo& info) { return Napi::Number::New(info.Env(), cpu::num_threads()); }

void SetNumThreads(const Napi::CallbackInfo& info) { cpu::set_num_threads(info[0].As<Napi::Number>().Int32Value()); }

/// obtainableThreads(): how many of numThreads() the system lets a step have, as far as is known
Napi::Value ObtainableThreads(const Napi::CallbackInfo& info) {
  return Napi::Number::New(info.Env(), cpu::obtainable_threads());
}

const char* name_of(cpu::Runtime runtime) { return runtime == cpu::Runtime::openmp ? "openmp" : "team"; }
cpu::Runtime runtime_of(const Napi::Value& name) {
  return name.As<Napi::String>().Utf8Value() == "openmp" ? cpu::Runtime::openmp : cpu::Runtime::team;
}

/// threading(): { runtime, openmp: string, reason: string }: the runtime of the
/// next large step, the OpenMP library, and why that is none
Napi::Value Threading(const Napi::CallbackInfo& info) {
  Napi::Object result = Napi::Object::New(info.Env());
  result["runtime"] = name_of(cpu::runtime());
  result["openmp"] = cpu::openmp::library();
  result["reason"] = cpu::openmp::unusable();
  return result;
}

/// setThreading(runtime | null): for the whole process; null returns to the default
void SetThreading(const Napi::CallbackInfo& info) {
  if (info[0].IsNull()) return cpu::set_runtime(nullptr);
  const cpu::Runtime runtime = runtime_of(info[0]);
  cpu::set_runtime(&runtime);
}

/// setDefaultThreading(runtime)
void SetDefaultThreading(const Napi::CallbackInfo& info) { cpu::set_default_runtime(runtime_of(info[0])); }

Napi::Object Init(Napi::Env env, Napi::Object exports) {
  if (cpu::variants().empty())
    throw Napi::Error::New(env, "the addon's compiler contracted products and sums to one rounding");
  if (!active_variant) active_variant = cpu::variants().front();

  Napi::Array isas = Napi::Array::New(env), layouts = Napi::Array::New(env);
  for (const cpu::Variant* variant : cpu::variants()) isas[isas.Length()] = variant->name;
  for (const LayoutInfo& layout : kLayoutInfo) layouts[layouts.Length()] = layout.name;
  exports["Binding"] = BindingObject::Define(env);
  exports["isas"] = isas;
  exports["layouts"] = layouts;
  exports["build"] = FUSED_ADAMW_BUILD;
  exports["compiler"] = __VERSION__;
  exports["availableProcessors"] = cpu::available_processors();
  exports["cuda"] = define_cuda(env);
  exports["address"] = Napi::Function::New<Address>(env, "address");
  exports["preferHugePages"] = Napi::Function::New<PreferHugePages>(env, "preferHugePages");
  exports["firstTouch"] = Napi::Function::New<FirstTouch>(env, "firstTouch");
  exports["setIsa"] = Napi::Function::New<SetIsa>(env, "setIsa");
  exports["isa"] = Napi::Function::New<Isa>(env, "isa");
  exports["numThreads"] = Napi::Function::New<NumThreads>(env, "numThreads");
  exports["setNumThreads"] = Napi::Function::New<SetNumThreads>(env, "setNumThreads");
  exports["obtainableThreads"] = Napi::Function::New<ObtainableThreads>(env, "obtainableThreads");
  exports["threading"] = Napi::Function::New<Threading>(env, "threading");
  exports["setThreading"] = Napi::Function::New<SetThreading>(env, "setThreading");
  exports["setDefaultThreading"] = Napi::Function::New<SetDefaultThreading>(env, "setDefaultThreading");
  return exports;
}

}  // namespace

NODE_API_MODULE(fused_adamw, Init)

}  // namespace fused_adamw
