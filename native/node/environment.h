// What each JavaScript thread has of ours.
#pragma once

#include <memory>

#include "in-flight.h"

namespace fused_adamw {

struct Environment {
  std::shared_ptr<InFlight> in_flight = std::make_shared<InFlight>();
  Napi::FunctionReference hold;  // see held-list.h

  static Environment& of(Napi::Env env) { return *env.GetInstanceData<Environment>(); }
};

}  // namespace fused_adamw
