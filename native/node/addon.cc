// The module: what each thread of JavaScript gets when it loads the addon.
#include "../platform/platform.h"
#include "abi.h"
#include "environment.h"
#include "exports.h"
#include "held-list.h"
#include "tensor-list-object.h"

namespace fused_adamw {
namespace {

#if !defined(FUSED_ADAMW_BUILD)
#error "the build must define FUSED_ADAMW_BUILD, its own name"
#endif

void make_environment(Napi::Env env) {
  auto environment = std::make_unique<Environment>();
  environment->hold = Napi::Persistent(HeldList::make_hold(env));
  env.AddCleanupHook([](InFlight* in_flight) { in_flight->wait(); }, environment->in_flight.get());
  env.SetInstanceData(environment.release());
}

Napi::Object init(Napi::Env env, Napi::Object exports) {
  return guarded(env, [&] {
    platform::stay_loaded();
    make_environment(env);
    exports["abi"] = make_abi(env);
    exports["build"] = FUSED_ADAMW_BUILD;
    exports["compiler"] = __VERSION__;
    exports["TensorList"] = TensorListObject::define(env);
    export_host_memory(env, exports);
    export_cpu(env, exports);
    export_gradients(env, exports);
    Napi::Object cuda = Napi::Object::New(env);
    export_cuda(env, cuda);
    export_copies(env, cuda);
    export_cuda_gradients(env, cuda);
    exports["cuda"] = cuda;
    Napi::Object dlpack = Napi::Object::New(env);
    export_dlpack(env, dlpack);
    exports["dlpack"] = dlpack;
    return exports;
  });
}

}  // namespace

NODE_API_MODULE(fused_adamw, init)

}  // namespace fused_adamw
