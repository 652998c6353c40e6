// What each file adds to the exports of the addon.
#pragma once

#include "errors.h"

namespace fused_adamw {

void export_host_memory(Napi::Env env, Napi::Object exports);  // host-memory.cc
void export_cpu(Napi::Env env, Napi::Object exports);          // cpu-exports.cc
void export_gradients(Napi::Env env, Napi::Object exports);    // gradients.cc
void export_cuda_gradients(Napi::Env env, Napi::Object cuda);  // gradients.cc
void export_copies(Napi::Env env, Napi::Object exports);       // copies.cc
void export_cuda(Napi::Env env, Napi::Object exports);         // cuda-exports.cc
void export_dlpack(Napi::Env env, Napi::Object exports);       // dlpack.cc

}  // namespace fused_adamw
