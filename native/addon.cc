// The only file that speaks Node-API: reads arguments and calls the rest.
//
// TypeScript (lib/) has validated what it passes and words every message that a
// user is meant to read. What could touch memory wrongly is checked again here.

// A worker that is terminated takes no errors any more: they are dropped, not
// fatal to the process.
#define NODE_API_SWALLOW_UNTHROWABLE_EXCEPTIONS
#include <napi.h>

#if defined(__linux__)
#include <sys/mman.h>
#endif

#include <atomic>
#include <string>

#include "binding.h"
#include "cpu/kernels.h"
#include "cpu/step.h"
#include "cpu/threads.h"

namespace fused_adamw {
namespace {

#if !defined(FUSED_ADAMW_BUILD)
#error "the build defines FUSED_ADAMW_BUILD, its own name"
#endif

std::atomic<const cpu::Variant*> active_variant{nullptr};

/// Runs a method's body; the one place where a C++ exception becomes a
/// JavaScript error.
template <typename Body>
auto guarded(Napi::Env env, Body body) {
  try {
    return body();
  } catch (const Napi::Error&) {
    throw;
  } catch (const std::bad_alloc&) {
    throw Napi::Error::New(env, "Out of memory");
  } catch (const std::exception& error) {
    throw Napi::Error::New(env, error.what());
  }
}

struct View {
  void* data;
  size_t length;
};

/// The memory of a typed array; its true length, whatever a subclass says.
/// This also moves a small array out of V8's heap for good.
View read_view(Napi::Env env, napi_value value, napi_typedarray_type expected, const char* name) {
  napi_typedarray_type type;
  View view;
  if (napi_get_typedarray_info(env, value, &type, &view.length, &view.data, nullptr, nullptr) != napi_ok ||
      type != expected)
    throw Napi::TypeError::New(env, std::string("Expected a typed array of the dtype for ") + name);
  return view;
}

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
  void* data(uint32_t i, size_t element_size, size_t length) const {
    napi_value value;
    if (napi_get_element(env_, list_, i, &value) != napi_ok) throw Napi::Error::New(env_);
    const View view = read_view(env_, value, type_of_size(element_size), name_);
    if (view.length != length)
      throw Napi::RangeError::New(env_, std::string("Expected arrays of equal length for ") + name_);
    return view.data;
  }
  View view(uint32_t i, size_t element_size) const {
    napi_value value;
    if (napi_get_element(env_, list_, i, &value) != napi_ok) throw Napi::Error::New(env_);
    return read_view(env_, value, type_of_size(element_size), name_);
  }

 private:
  Napi::Env env_;
  Napi::Array list_;
  const char* name_;
};

constexpr size_t kTensorsPerScope = 256;  // handles are freed after as many

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
      : Napi::ObjectWrap<BindingObject>(info), binding_(guarded(info.Env(), [&] { return parse(info); })) {}

 private:
  static Binding parse(const Napi::CallbackInfo& info) {
    const Napi::Env env = info.Env();
    const int rule = info[0].As<Napi::Number>().Int32Value();
    if (rule < 0 || rule >= kRules) throw Napi::RangeError::New(env, "Expected a rule");
    const View layouts = read_view(env, info[1], napi_uint8_array, "layouts");
    const View keys = read_view(env, info[2], napi_uint32_array, "keys");
    const size_t size = layouts.length;
    if (keys.length != size) throw Napi::RangeError::New(env, "Expected one key for each tensor");
    const List weights(env, info[3], size, "weights"), means(env, info[4], size, "means");
    const List variances(env, info[5], size, "variances"), masters(env, info[6], size, "masters");

    std::vector<TensorArrays> tensors(size);
    for (size_t start = 0; start < size; start += kTensorsPerScope) {
      const Napi::HandleScope scope(env);
      for (size_t i = start; i < std::min(size, start + kTensorsPerScope); ++i) {
        const uint8_t layout = static_cast<uint8_t*>(layouts.data)[i];
        if (layout >= kLayouts) throw Napi::RangeError::New(env, "Expected a layout");
        TensorArrays& tensor = tensors[i];
        tensor.layout = static_cast<Layout>(layout);
        tensor.key = static_cast<uint32_t*>(keys.data)[i];
        const LayoutInfo& is = fused_adamw::info(tensor.layout);
        const View weight = weights.view(i, is.weight_size);
        tensor.length = weight.length;
        tensor.weight = weight.data;
        tensor.mean = means.data(i, is.state_size, tensor.length);
        tensor.variance = variances.data(i, is.state_size, tensor.length);
        if (is.master) tensor.master = static_cast<float*>(masters.data(i, sizeof(float), tensor.length));
      }
    }
    return Binding(static_cast<Rule>(rule), std::move(tensors));
  }

  /// setGrads(grads): takes every gradient's address and returns null, or
  /// returns [role, tensor, role, tensor] of two arrays that share memory, the
  /// written one first.
  Napi::Value SetGrads(const Napi::CallbackInfo& info) {
    return guarded(info.Env(), [&]() -> Napi::Value {
      const Napi::Env env = info.Env();
      const size_t size = binding_.size();
      const List list(env, info[0], size, "grads");
      std::vector<const void*> grads(size);
      for (size_t start = 0; start < size; start += kTensorsPerScope) {
        const Napi::HandleScope scope(env);
        for (size_t i = start; i < std::min(size, start + kTensorsPerScope); ++i) {
          const TensorArrays& tensor = binding_.tensor(i);
          grads[i] = list.data(i, fused_adamw::info(tensor.layout).weight_size, tensor.length);
        }
      }
      const auto overlap = binding_.set_grads(grads);
      if (!overlap) {
        has_grads_ = true;
        return env.Null();
      }
      Napi::Array result = Napi::Array::New(env, 4);
      result[0u] = static_cast<int>(overlap->written_role);
      result[1u] = overlap->written_tensor;
      result[2u] = static_cast<int>(overlap->other_role);
      result[3u] = overlap->other_tensor;
      return result;
    });
  }

  /// setGroups(groupOf: Uint32Array, scalars: Float64Array): which group each
  /// tensor belongs to, and the array that holds the scalars of every step from
  /// now on: rescale, clip, beta1, beta2, then those of each group.
  void SetGroups(const Napi::CallbackInfo& info) {
    guarded(info.Env(), [&] {
      const Napi::Env env = info.Env();
      const View group_of = read_view(env, info[0], napi_uint32_array, "groupOf");
      const View scalars = read_view(env, info[1], napi_float64_array, "scalars");
      constexpr size_t common = sizeof(StepOptions) / sizeof(double), each = sizeof(Group) / sizeof(double);
      if (group_of.length != binding_.size() || scalars.length < common || (scalars.length - common) % each != 0)
        throw Napi::RangeError::New(env, "Expected a group for each tensor and the scalars of each group");
      const size_t group_count = (scalars.length - common) / each;
      const auto* begin = static_cast<uint32_t*>(group_of.data);
      const std::vector<uint32_t> groups(begin, begin + group_of.length);
      for (uint32_t group : groups)
        if (group >= group_count) throw Napi::RangeError::New(env, "Expected the number of a group");
      rounded_.resize(group_count);
      binding_.set_groups(groups, group_count);
      scalars_holder_ = Napi::Persistent(info[1].As<Napi::Object>());
      scalars_ = static_cast<double*>(scalars.data);
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
        const StepOptions options{scalars_[0], scalars_[1], scalars_[2], scalars_[3]};
        const auto* groups = reinterpret_cast<const Group*>(scalars_ + sizeof(StepOptions) / sizeof(double));
        cpu::round_groups(options, groups, rounded_.size(), rounded_.data());
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

/// setIsa(name): whether this machine runs that variant; if so, later steps do.
Napi::Value SetIsa(const Napi::CallbackInfo& info) {
  const cpu::Variant* variant = cpu::find_variant(info[0].As<Napi::String>().Utf8Value());
  if (variant) active_variant = variant;
  return Napi::Boolean::New(info.Env(), variant != nullptr);
}

Napi::Value Isa(const Napi::CallbackInfo& info) { return Napi::String::New(info.Env(), active_variant.load()->name); }

Napi::Value NumThreads(const Napi::CallbackInfo& info) { return Napi::Number::New(info.Env(), cpu::num_threads()); }

void SetNumThreads(const Napi::CallbackInfo& info) { cpu::set_num_threads(info[0].As<Napi::Number>().Int32Value()); }

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
  exports["address"] = Napi::Function::New<Address>(env, "address");
  exports["preferHugePages"] = Napi::Function::New<PreferHugePages>(env, "preferHugePages");
  exports["setIsa"] = Napi::Function::New<SetIsa>(env, "setIsa");
  exports["isa"] = Napi::Function::New<Isa>(env, "isa");
  exports["numThreads"] = Napi::Function::New<NumThreads>(env, "numThreads");
  exports["setNumThreads"] = Napi::Function::New<SetNumThreads>(env, "setNumThreads");
  return exports;
}

}  // namespace

NODE_API_MODULE(fused_adamw, Init)

}  // namespace fused_adamw
