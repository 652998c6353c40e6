#include "driver.h"

#include "../platform/platform.h"

namespace fused_adamw::cuda {
namespace {

#if defined(__linux__)
constexpr const char* kLibrary = "libcuda.so.1";
#elif defined(_WIN32)
constexpr const char* kLibrary = "nvcuda.dll";
#else
constexpr const char* kLibrary = nullptr;
#endif

std::string describe(Status status, Status (*ask)(Status, const char**)) {
  const char* text = nullptr;
  if (!ask || ask(status, &text) != kSuccess || !text) return "status " + std::to_string(status);
  return text;
}

struct Opened {
  Driver functions;
  std::string reason;  // why it cannot be used; empty if it can be

  Opened() {
    if (!kLibrary) {
      reason = "CUDA needs Linux or Windows";
      return;
    }
    std::string error;
    void* library = platform::open_library(kLibrary, &error);
    if (!library) {
      reason = "there is no CUDA driver: " + error;
      return;
    }
#define LOOK_UP(name, ...)                                                                                 \
  functions.name = reinterpret_cast<std::add_pointer_t<__VA_ARGS__>>(platform::symbol_of(library, #name)); \
  if (!functions.name && reason.empty()) reason = "the CUDA driver is too old: it has no " #name;
    FUSED_ADAMW_DRIVER_FUNCTIONS(LOOK_UP)
#undef LOOK_UP
    if (!reason.empty()) return;
    int version = 0;
    if (const Status status = functions.cuInit(0); status == kNoDevice) {
      reason = kThereIsNoDevice;
    } else if (status != kSuccess) {
      reason = "the CUDA driver does not start: " + describe(status, functions.cuGetErrorName) + " (" +
               describe(status, functions.cuGetErrorString) + ")";
    } else if (functions.cuDriverGetVersion(&version) != kSuccess || version < kLeastDriverVersion) {
      reason = "the CUDA driver is too old: it is for CUDA " + std::to_string(version / 1000) + "." +
               std::to_string(version % 1000 / 10) + ", and 12.0 or later is needed";
    }
  }
};

const Opened& opened() {
  static const Opened& instance = *new Opened;
  return instance;
}

}  // namespace

const Driver& driver() {
  const Opened& result = opened();
  if (!result.reason.empty()) throw Unavailable(result.reason);
  return result.functions;
}

void check(Status status, const char* function) {
  if (status == kSuccess) return;
  const Driver& functions = opened().functions;
  throw DriverError(status, describe(status, functions.cuGetErrorName), describe(status, functions.cuGetErrorString),
                    function);
}

}  // namespace fused_adamw::cuda
