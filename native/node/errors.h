// From C++ exceptions to JavaScript errors.
#pragma once

// A worker that is being terminated accepts no errors any more. They are dropped
// instead of being fatal to the process.
#define NODE_API_SWALLOW_UNTHROWABLE_EXCEPTIONS
#include <napi.h>

#include <new>
#include <stdexcept>

#include "../cuda/driver.h"

namespace fused_adamw {

/// An error of the driver, with the driver's own name of it as its code.
inline Napi::Error to_javascript(Napi::Env env, const cuda::DriverError& error) {
  Napi::Error result = Napi::Error::New(env, error.what());
  result.Value()["code"] = error.name();
  return result;
}

/// A JavaScript exception is pending, or the thread is being terminated: the only
/// thing to do is to return to JavaScript. (To make a Napi::Error of a termination is
/// fatal to the process.)
struct ExceptionPending {};

/// Calls a JavaScript function.
inline Napi::Value call(const Napi::Function& function, size_t count = 0, const napi_value* arguments = nullptr) {
  const Napi::Env env = function.Env();
  napi_value result;
  if (napi_call_function(env, env.Undefined(), function, count, arguments, &result) != napi_ok)
    throw ExceptionPending();
  return Napi::Value(env, result);
}

/// Runs the body of a function that JavaScript calls. This is the only place where
/// a C++ exception becomes a JavaScript error.
template <typename Body>
auto guarded(Napi::Env env, const Body& body) {
  using Result = decltype(body());
  try {
    return body();
  } catch (const Napi::Error&) {
    throw;
  } catch (const ExceptionPending&) {
    // Where the engine failed without an exception, silence would pass for success.
    if (!env.IsExceptionPending()) throw Napi::Error::New(env, "The engine failed");
    return Result();
  } catch (const cuda::DriverError& error) {
    throw to_javascript(env, error);
  } catch (const std::bad_alloc&) {
    throw Napi::Error::New(env, "Out of memory");
  } catch (const std::exception& error) {
    throw Napi::Error::New(env, error.what());
  }
}

template <auto function>
auto guarded_callback(const Napi::CallbackInfo& info) {
  return guarded(info.Env(), [&] { return function(info); });
}

/// A function for an export, whose body is guarded.
template <auto function>
Napi::Function guarded_function(Napi::Env env, const char* name) {
  return Napi::Function::New<guarded_callback<function>>(env, name);
}

}  // namespace fused_adamw
