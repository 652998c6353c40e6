// Node-API on Windows, where a binary imports functions from a library by its
// name: they are looked up in the program that loads this one instead, whether
// that is node.exe, a renamed copy, or Electron.
#define WIN32_LEAN_AND_MEAN
#include <windows.h>

#include "node-api-functions.h"  // X(napi_...) for each, made by scripts/prebuild.mjs

extern "C" {
#define POINTER(name) void* __imp_##name;
FUSED_ADAMW_NODE_API(POINTER)
#undef POINTER
}

namespace {

/// In the place of a function that an old program lacks; 9 is napi_generic_failure.
int missing() { return 9; }

[[gnu::constructor(101)]] void look_up_node_api() {
  HMODULE program = GetModuleHandleW(nullptr);
  if (!GetProcAddress(program, "napi_create_function"))
    if (HMODULE library = GetModuleHandleW(L"libnode.dll")) program = library;
#define LOOK_UP(name)                                                     \
  __imp_##name = reinterpret_cast<void*>(GetProcAddress(program, #name)); \
  if (!__imp_##name) __imp_##name = reinterpret_cast<void*>(&missing);
  FUSED_ADAMW_NODE_API(LOOK_UP)
#undef LOOK_UP
}

}  // namespace
