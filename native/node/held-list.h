// Lists of arrays whose addresses native code keeps.
#pragma once

#include <cstdint>

#include "environment.h"

namespace fused_adamw {

/// The elements of a list, copied into an object that no other code can reach, so
/// that nothing can remove an array from it while native code has its address.
/// The copy may run code of the user (accessors); reading from it does not.
class HeldList {
 public:
  /// Makes the function that copies lists. It is plain syntax over an object
  /// without a prototype, because every built-in function and every prototype can be
  /// replaced. A Node-API call for each element would take longer than the rest of a
  /// TensorList's constructor.
  static Napi::Function make_hold(Napi::Env env) {
    return env
        .RunScript(
            "(list, size) => { const held = { __proto__: null }; for (let i = 0; i < size; i++) held[i] = list[i]; "
            "return held; }")
        .As<Napi::Function>();
  }

  /// Throws TypeError unless `list` is an array of `size` elements.
  HeldList(Napi::Env env, const Napi::Value& list, size_t size, const char* name) : env_(env), name_(name) {
    if (!list.IsArray() || list.As<Napi::Array>().Length() != size)
      throw Napi::TypeError::New(env, std::string("Expected a list of arrays, one for each tensor, for ") + name);
    object_ = call(Environment::of(env).hold.Value(), {list, Napi::Number::New(env, static_cast<double>(size))})
                  .As<Napi::Object>();
  }

  napi_value operator[](uint32_t i) const {
    napi_value value;
    if (napi_get_element(env_, object_, i, &value) != napi_ok) throw ExceptionPending();
    return value;
  }
  /// What to keep as long as native code has addresses of the arrays.
  Napi::ObjectReference reference() const { return Napi::Persistent(object_); }
  const char* name() const { return name_; }

 private:
  Napi::Env env_;
  Napi::Object object_;
  const char* name_;
};

}  // namespace fused_adamw
