// What each JavaScript thread has of ours.
#pragma once

#include <memory>

#include "in-flight.h"

namespace fused_adamw {

struct Environment {
  std::shared_ptr<InFlight> in_flight = std::make_shared<InFlight>();
  Napi::FunctionReference hold;  // see held-list.h

  static Environment& of(Napi::Env env) {
    void* data = nullptr;  // not by Napi::Env, for which a failure is fatal to the process
    if (napi_get_instance_data(env, &data) != napi_ok) throw Napi::Error::New(env);
    return *static_cast<Environment*>(data);
  }
};

}  // namespace fused_adamw
