// The instruction sets and threads of steps on the CPU.
#include "../cpu/float-environment.h"
#include "../cpu/isa/kernels.h"
#include "../cpu/openmp.h"
#include "../cpu/processors.h"
#include "../cpu/stream.h"
#include "../cpu/threads.h"
#include "exports.h"

namespace fused_adamw {
namespace {

/// setIsa(name): boolean; whether this machine runs that variant. If so, later steps use it.
Napi::Value set_isa(const Napi::CallbackInfo& info) {
  const cpu::Variant* variant = cpu::find_variant(info[0].As<Napi::String>().Utf8Value());
  if (variant) cpu::set_active_variant(*variant);
  return Napi::Boolean::New(info.Env(), variant != nullptr);
}

/// isa(): string
Napi::Value isa(const Napi::CallbackInfo& info) { return Napi::String::New(info.Env(), cpu::active_variant().name); }

/// numThreads(): number
Napi::Value num_threads(const Napi::CallbackInfo& info) { return Napi::Number::New(info.Env(), cpu::num_threads()); }

/// setNumThreads(count)
void set_num_threads(const Napi::CallbackInfo& info) { cpu::set_num_threads(info[0].As<Napi::Number>().Int32Value()); }

/// obtainableThreads(): number; how many of numThreads() the system lets a step have, as far as is known
Napi::Value obtainable_threads(const Napi::CallbackInfo& info) {
  return Napi::Number::New(info.Env(), cpu::obtainable_threads());
}

const char* name_of(cpu::Runtime runtime) { return runtime == cpu::Runtime::openmp ? "openmp" : "team"; }
cpu::Runtime runtime_of(const Napi::Value& name) {
  return name.As<Napi::String>().Utf8Value() == "openmp" ? cpu::Runtime::openmp : cpu::Runtime::team;
}

/// threading(): { runtime, openmp: string, reason: string }; the runtime of the next large step, the OpenMP library,
/// and why there is none
Napi::Value threading(const Napi::CallbackInfo& info) {
  Napi::Object result = Napi::Object::New(info.Env());
  result["runtime"] = name_of(cpu::runtime());
  result["openmp"] = cpu::openmp::library();
  result["reason"] = cpu::openmp::unusable();
  return result;
}

/// setThreading(runtime | null): for the whole process; null returns to the default
void set_threading(const Napi::CallbackInfo& info) {
  if (info[0].IsNull()) return cpu::set_runtime(nullptr);
  const cpu::Runtime runtime = runtime_of(info[0]);
  cpu::set_runtime(&runtime);
}

/// setDefaultThreading(runtime)
void set_default_threading(const Napi::CallbackInfo& info) { cpu::set_default_runtime(runtime_of(info[0])); }

/// stream(weight, grad, mean, variance): Float32Arrays of one length, whose values change (stream.h)
void stream(const Napi::CallbackInfo& info) {
  float* arrays[4];
  for (size_t i = 0; i < 4; ++i) {
    auto array = info[i].As<Napi::Float32Array>();
    if (array.ElementLength() != info[0].As<Napi::Float32Array>().ElementLength())
      throw Napi::RangeError::New(info.Env(), "Expected arrays of one length for a stream");
    arrays[i] = array.Data();
  }
  cpu::stream(arrays[0], arrays[1], arrays[2], arrays[3], info[0].As<Napi::Float32Array>().ElementLength());
}

/// keepSubnormals(body): what the function returns, called in an environment that does not flush subnormals to zero.
Napi::Value keep_subnormals(const Napi::CallbackInfo& info) {
  const FloatEnvironment environment;
  return call(info[0].As<Napi::Function>());
}

}  // namespace

void export_cpu(Napi::Env env, Napi::Object exports) {
  if (cpu::variants().empty())
    throw Napi::Error::New(env, "the addon's compiler contracted products and sums to one rounding");
  Napi::Array isas = Napi::Array::New(env);
  for (const cpu::Variant* variant : cpu::variants()) isas[isas.Length()] = variant->name;
  exports["isas"] = isas;
  exports["availableProcessors"] = cpu::available_processors();
  exports["setIsa"] = guarded_function<set_isa>(env, "setIsa");
  exports["isa"] = guarded_function<isa>(env, "isa");
  exports["keepSubnormals"] = guarded_function<keep_subnormals>(env, "keepSubnormals");
  exports["numThreads"] = guarded_function<num_threads>(env, "numThreads");
  exports["obtainableThreads"] = guarded_function<obtainable_threads>(env, "obtainableThreads");
  exports["threading"] = guarded_function<threading>(env, "threading");
  exports["setThreading"] = guarded_function<set_threading>(env, "setThreading");
  exports["setDefaultThreading"] = guarded_function<set_default_threading>(env, "setDefaultThreading");
  exports["stream"] = guarded_function<stream>(env, "stream");
  exports["setNumThreads"] = guarded_function<set_num_threads>(env, "setNumThreads");
}

}  // namespace fused_adamw
