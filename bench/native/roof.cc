// The machine's limits that the benchmarks compare a step with, as an addon for the
// same process: a stream of the same bytes over the same arrays, the bare loop, and
// an empty call. Not part of the package.
#include <napi.h>

#include <algorithm>
#include <chrono>

#include "../../native/cpu/float-environment.h"
#include "../../native/cpu/step.h"
#include "stream.h"

namespace fused_adamw::bench {
namespace {

/// The arrays of a step, which it keeps alive.
class Arrays : public Napi::ObjectWrap<Arrays> {
 public:
  static Napi::Function Define(Napi::Env env) {
    return DefineClass(env, "Arrays",
                       {InstanceMethod<&Arrays::Stream>("stream"), InstanceMethod<&Arrays::ReadGrads>("readGrads"),
                        InstanceMethod<&Arrays::Loop>("loop"), InstanceMethod<&Arrays::Dispose>("dispose")});
  }

  /// new Arrays(config: string, weights, grads, means, variances, masters: typed arrays[]), the lists by role
  explicit Arrays(const Napi::CallbackInfo& info) : Napi::ObjectWrap<Arrays>(info), list_(parse(info)) {
    const Napi::Array lists = Napi::Array::New(info.Env());
    for (uint32_t i = 1; i <= kRoles; ++i) lists[i] = info[i];
    kept_ = Napi::Persistent(lists);
  }

 private:
  static void* address(const Napi::CallbackInfo& info, int list, uint32_t i, size_t* length) {
    const Napi::HandleScope scope(info.Env());
    void* data = nullptr;
    const napi_value array = info[list].As<Napi::Array>().Get(i);
    if (napi_get_typedarray_info(info.Env(), array, nullptr, length, &data, nullptr, nullptr) != napi_ok)
      throw Napi::TypeError::New(info.Env(), "Expected lists of typed arrays");
    return data;
  }

  static TensorList parse(const Napi::CallbackInfo& info) {
    const std::string name = info[0].As<Napi::String>();
    const auto* found = std::find_if(std::begin(kDTypeConfigInfo), std::end(kDTypeConfigInfo),
                                     [&](const DTypeConfigInfo& is) { return name == is.name; });
    if (found == std::end(kDTypeConfigInfo))
      throw Napi::RangeError::New(info.Env(), "Expected the name of a dtype configuration");
    const uint32_t size = info[1].As<Napi::Array>().Length();
    std::vector<TensorArrays> tensors(size);
    std::vector<void*> grads(size);
    for (uint32_t i = 0; i < size; ++i) {
      TensorArrays& tensor = tensors[i];
      tensor.config = static_cast<DTypeConfig>(found - kDTypeConfigInfo);
      for (const Role role : kEveryRole)
        if (role_bytes(tensor.config, role) > 0)
          tensor.arrays[role] = address(info, 1 + static_cast<int>(role), i, &tensor.length);
      grads[i] = tensor.arrays[Role::grad];
    }
    TensorList list(Rule::mxnet, std::move(tensors));
    if (list.set_grads(grads)) throw Napi::RangeError::New(info.Env(), "Expected arrays that do not overlap");
    list.set_groups(std::vector<uint32_t>(size), 1);
    return list;
  }

  /// stream(variant, threads): a pass over all arrays.
  void Stream(const Napi::CallbackInfo& info) {
    stream(list_, kStreamVariants[info[0].As<Napi::Number>().Uint32Value()], info[1].As<Napi::Number>().Int32Value());
  }

  /// readGrads(threads): a read of all gradients.
  void ReadGrads(const Napi::CallbackInfo& info) { read_grads(list_, info[0].As<Napi::Number>().Int32Value()); }

  /// loop(isa, passes): nanoseconds of one pass of the bare update on this thread.
  Napi::Value Loop(const Napi::CallbackInfo& info) {
    const std::string isa = info[0].As<Napi::String>();
    const int passes = info[1].As<Napi::Number>().Int32Value();
    const cpu::Variant* variant = cpu::find_variant(isa);
    if (!variant) throw Napi::RangeError::New(info.Env(), "Expected an instruction set of this machine");
    cpu::GroupScalars scalars;
    const ScalarGroup group{0.001, 1, 0.01, 1e-6, 1, 1};
    cpu::round_groups({1, INFINITY, 0.9, 0.999}, &group, 1, &scalars);
    const FloatEnvironment environment;
    const auto start = std::chrono::steady_clock::now();
    for (int pass = 0; pass < passes; ++pass)
      for (size_t i = 0; i < list_.size(); ++i) {
        const TensorArrays& t = list_.tensor(i);
        variant->kernel(Rule::mxnet, t.config)({t.arrays, t.length, 0, 0, 1}, scalars);
      }
    const std::chrono::duration<double, std::nano> time = std::chrono::steady_clock::now() - start;
    return Napi::Number::New(info.Env(), time.count() / passes);
  }

  void Dispose(const Napi::CallbackInfo&) {
    list_ = TensorList(Rule::mxnet, {});
    kept_.Reset();
  }

  TensorList list_;
  Napi::Reference<Napi::Array> kept_;
};

/// nothing(): the cost of a call.
napi_value Nothing(napi_env, napi_callback_info) { return nullptr; }

Napi::Object Init(Napi::Env env, Napi::Object exports) {
  Napi::Array variants = Napi::Array::New(env);
  for (const StreamVariant& variant : kStreamVariants) variants[variants.Length()] = variant.name;
  exports["variants"] = variants;
  exports["Arrays"] = Arrays::Define(env);
  napi_value nothing;
  napi_create_function(env, "nothing", NAPI_AUTO_LENGTH, Nothing, nullptr, &nothing);
  exports["nothing"] = Napi::Value(env, nothing);
  return exports;
}

}  // namespace

NODE_API_MODULE(roof, Init)

}  // namespace fused_adamw::bench
