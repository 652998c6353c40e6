// Where memory of the host lies, and on which pages.
#include "../cpu/threads.h"
#include "exports.h"

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace fused_adamw {
namespace {

/// address(memory: TypedArray | ArrayBuffer): bigint
Napi::Value address(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  void* data = nullptr;
  if (info[0].IsArrayBuffer())
    data = info[0].As<Napi::ArrayBuffer>().Data();
  else if (napi_get_typedarray_info(env, info[0], nullptr, nullptr, &data, nullptr, nullptr) != napi_ok)
    throw Napi::TypeError::New(env, "Expected a typed array or an ArrayBuffer");
  return Napi::BigInt::New(env, reinterpret_cast<uint64_t>(data));
}

/// preferHugePages(buffer): asks the system for huge pages under memory that
/// nobody has written to yet. Only a hint.
void prefer_huge_pages(const Napi::CallbackInfo& info) {
#if defined(__linux__)
  constexpr uintptr_t kHugePage = 2 * 1024 * 1024;
  Napi::ArrayBuffer buffer = info[0].As<Napi::ArrayBuffer>();
  const auto data = reinterpret_cast<uintptr_t>(buffer.Data());
  const uintptr_t begin = (data + kHugePage - 1) / kHugePage * kHugePage;
  const uintptr_t end = (data + buffer.ByteLength()) / kHugePage * kHugePage;
  if (begin < end) madvise(reinterpret_cast<void*>(begin), end - begin, MADV_HUGEPAGE);
#else
  (void)info;
#endif
}

/// firstTouch(buffer, byteOffset, byteLength): see cpu::first_touch
void first_touch(const Napi::CallbackInfo& info) {
  Napi::ArrayBuffer buffer = info[0].As<Napi::ArrayBuffer>();
  const auto offset = static_cast<size_t>(info[1].As<Napi::Number>().Int64Value());
  const auto length = static_cast<size_t>(info[2].As<Napi::Number>().Int64Value());
  if (offset > buffer.ByteLength() || length > buffer.ByteLength() - offset)
    throw Napi::RangeError::New(info.Env(), "Expected a part of the buffer");
  cpu::first_touch(static_cast<char*>(buffer.Data()) + offset, length);
}

}  // namespace

void export_host_memory(Napi::Env env, Napi::Object exports) {
  exports["address"] = guarded_function<address>(env, "address");
  exports["firstTouch"] = guarded_function<first_touch>(env, "firstTouch");
  exports["preferHugePages"] = guarded_function<prefer_huge_pages>(env, "preferHugePages");
}

}  // namespace fused_adamw
