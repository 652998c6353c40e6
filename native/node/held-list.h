// Lists of arrays whose addresses native code keeps.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "environment.h"

namespace fused_adamw {

/// The elements of a list, each read once, in arrays that no other code can reach, so
/// that nothing can remove one while native code has its address. Reading the list may
/// run code of the user (accessors); using the elements does not.
class HeldList {
 public:
  /// Makes the function that puts elements into an array. A rest parameter calls no
  /// built-in function and no setter of a prototype, all of which can be replaced; and
  /// one call for many elements takes less time than a Node-API call for each.
  static Napi::Function make_hold(Napi::Env env) {
    return env.RunScript("(...elements) => elements").As<Napi::Function>();
  }

  /// Throws TypeError unless `list` is an array of `size` elements.
  HeldList(Napi::Env env, const Napi::Value& list, size_t size, const char* name) : elements_(size), name_(name) {
    if (!list.IsArray() || list.As<Napi::Array>().Length() != size)
      throw Napi::TypeError::New(env, std::string("Expected a list of arrays, one for each tensor, for ") + name);
    for (uint32_t i = 0; i < size; ++i)
      if (napi_get_element(env, list, i, &elements_[i]) != napi_ok) throw ExceptionPending();
    holder_ = hold(env, elements_);
  }

  napi_value operator[](uint32_t i) const { return elements_[i]; }
  /// What to keep as long as native code has addresses of the arrays.
  Napi::ObjectReference reference() const { return Napi::Persistent(holder_); }
  const char* name() const { return name_; }

 private:
  static constexpr size_t kMostArguments = 1024;

  /// An array of the elements or, if they are more than one call takes, of arrays of them.
  static Napi::Object hold(Napi::Env env, const std::vector<napi_value>& elements) {
    const Napi::Function function = Environment::of(env).hold.Value();
    if (elements.size() <= kMostArguments) return call(function, elements.size(), elements.data()).As<Napi::Object>();
    std::vector<napi_value> parts;
    for (size_t start = 0; start < elements.size(); start += kMostArguments)
      parts.push_back(call(function, std::min(kMostArguments, elements.size() - start), elements.data() + start));
    return hold(env, parts);
  }

  std::vector<napi_value> elements_;
  Napi::Object holder_;
  const char* name_;
};

}  // namespace fused_adamw
