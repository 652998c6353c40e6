// The interface with lib/backend/abi.ts, as data.
#pragma once

#include "errors.h"

namespace fused_adamw {

/// Made from the tables in native/core. TypeScript compares it with its own when it
/// loads the addon, since both sides pass rules, roles, configurations and scalars by number.
Napi::Object make_abi(Napi::Env env);

}  // namespace fused_adamw
