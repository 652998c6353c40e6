// The roof of the benchmarks: a plain in-place stream of the bytes of an AdamW
// step (reads of four arrays, writes of three), with the addon's own threads
// and chunks, and as little arithmetic as cannot be left out.
#include <node_api.h>

#include "../../native/cpu/threads.h"

namespace {

constexpr size_t kChunk = 16 * 1024;  // as in native/cpu/step.cc

template <typename T>
__attribute__((target("avx512f,prefer-vector-width=512"))) void stream_avx512(T* __restrict w, const T* __restrict g,
                                                                              T* __restrict m, T* __restrict v,
                                                                              size_t n) {
  for (size_t i = 0; i < n; ++i) {
    m[i] += g[i];
    v[i] -= g[i];
    w[i] += m[i] - v[i];
  }
}

struct Array {
  void* data;
  size_t length;
};

/// stream(weight, grad, mean, variance: Float32Array, threads): undefined
napi_value Stream(napi_env env, napi_callback_info info) {
  size_t count = 5;
  napi_value arguments[5];
  napi_get_cb_info(env, info, &count, arguments, nullptr, nullptr);
  Array arrays[4];
  for (int i = 0; i < 4; ++i)
    napi_get_typedarray_info(env, arguments[i], nullptr, &arrays[i].length, &arrays[i].data, nullptr, nullptr);
  int32_t threads = 1;
  napi_get_value_int32(env, arguments[4], &threads);
  const size_t n = arrays[0].length;
  fused_adamw::cpu::for_each_chunk((n + kChunk - 1) / kChunk, threads, [&](size_t chunk) {
    const size_t begin = chunk * kChunk, end = begin + kChunk < n ? begin + kChunk : n;
    const auto at = [&](int i) { return static_cast<float*>(arrays[i].data) + begin; };
    stream_avx512(at(0), at(1), at(2), at(3), end - begin);
  });
  return nullptr;
}

/// nothing(): the cost of a call.
napi_value Nothing(napi_env, napi_callback_info) { return nullptr; }

}  // namespace

NAPI_MODULE_INIT() {
  napi_value function;
  napi_create_function(env, "stream", NAPI_AUTO_LENGTH, Stream, nullptr, &function);
  napi_set_named_property(env, exports, "stream", function);
  napi_create_function(env, "nothing", NAPI_AUTO_LENGTH, Nothing, nullptr, &function);
  napi_set_named_property(env, exports, "nothing", function);
  return exports;
}
