// An addon that acts as another library with the CUDA driver: streams, memory
// and contexts that are not ours, and the free memory of the device.
//
// It uses device 0. Where a function of the driver fails, it throws its name.
#include <dlfcn.h>
#include <node_api.h>
#include <stdint.h>
#include <stdio.h>

static void* library;

static void* driver(const char* name) { return dlsym(library, name); }

#define CALL(name, types, ...)                         \
  do {                                                 \
    int(*function) types = (int(*) types)driver(name); \
    if (!function || function(__VA_ARGS__) != 0) {     \
      char text[64];                                   \
      snprintf(text, sizeof text, "%s failed", name);  \
      napi_throw_error(env, NULL, text);               \
      return NULL;                                     \
    }                                                  \
  } while (0)

static uint64_t argument(napi_env env, napi_callback_info info) {
  size_t count = 1;
  napi_value value;
  uint64_t number = 0;
  bool lossless;
  napi_get_cb_info(env, info, &count, &value, NULL, NULL);
  napi_get_value_bigint_uint64(env, value, &number, &lossless);
  return number;
}

static napi_value bigint(napi_env env, uint64_t number) {
  napi_value value;
  napi_create_bigint_uint64(env, number, &value);
  return value;
}

static napi_value push_primary(napi_env env) {
  void* context;
  CALL("cuDevicePrimaryCtxRetain", (void**, int), &context, 0);
  CALL("cuCtxPushCurrent_v2", (void*), context);
  return bigint(env, 0);
}

static napi_value pop(napi_env env) {
  void* context;
  CALL("cuCtxPopCurrent_v2", (void**), &context);
  return bigint(env, 0);
}

/// createStream(): bigint, a non-blocking stream
static napi_value create_stream(napi_env env, napi_callback_info info) {
  (void)info;
  void* stream;
  if (!push_primary(env)) return NULL;
  CALL("cuStreamCreate", (void**, unsigned), &stream, 1);
  return pop(env) ? bigint(env, (uintptr_t)stream) : NULL;
}

/// synchronizeStream(stream)
static napi_value synchronize_stream(napi_env env, napi_callback_info info) {
  if (!push_primary(env)) return NULL;
  CALL("cuStreamSynchronize", (void*), (void*)(uintptr_t)argument(env, info));
  return pop(env);
}

/// allocate(bytes): bigint, in the primary context
static napi_value allocate(napi_env env, napi_callback_info info) {
  unsigned long long pointer;
  if (!push_primary(env)) return NULL;
  CALL("cuMemAlloc_v2", (unsigned long long*, size_t), &pointer, argument(env, info));
  return pop(env) ? bigint(env, pointer) : NULL;
}

/// free(pointer)
static napi_value release(napi_env env, napi_callback_info info) {
  if (!push_primary(env)) return NULL;
  CALL("cuMemFree_v2", (unsigned long long), argument(env, info));
  return pop(env);
}

/// allocateElsewhere(bytes): bigint, in a context of its own
static napi_value allocate_elsewhere(napi_env env, napi_callback_info info) {
  void* context;
  unsigned long long pointer;
  CALL("cuCtxCreate_v2", (void**, unsigned, int), &context, 0, 0);
  CALL("cuMemAlloc_v2", (unsigned long long*, size_t), &pointer, argument(env, info));
  return pop(env) ? bigint(env, pointer) : NULL;
}

/// createStreamElsewhere(): bigint, in a context of its own
static napi_value create_stream_elsewhere(napi_env env, napi_callback_info info) {
  (void)info;
  void *context, *stream;
  CALL("cuCtxCreate_v2", (void**, unsigned, int), &context, 0, 0);
  CALL("cuStreamCreate", (void**, unsigned), &stream, 1);
  return pop(env) ? bigint(env, (uintptr_t)stream) : NULL;
}

/// allocateHost(bytes): bigint, page-locked memory of the host
static napi_value allocate_host(napi_env env, napi_callback_info info) {
  void* pointer;
  if (!push_primary(env)) return NULL;
  CALL("cuMemHostAlloc", (void**, size_t, unsigned), &pointer, argument(env, info), 0);
  return pop(env) ? bigint(env, (uintptr_t)pointer) : NULL;
}

/// freeBytes(): bigint, the free memory of the device
static napi_value free_bytes(napi_env env, napi_callback_info info) {
  (void)info;
  size_t free, total;
  if (!push_primary(env)) return NULL;
  CALL("cuMemGetInfo_v2", (size_t*, size_t*), &free, &total);
  return pop(env) ? bigint(env, free) : NULL;
}

/// hasCurrentContext(): bigint, 0 or 1
static napi_value has_current_context(napi_env env, napi_callback_info info) {
  (void)info;
  void* context = NULL;
  CALL("cuCtxGetCurrent", (void**), &context);
  return bigint(env, context != NULL);
}

/// fail(function, after): the call of the function that is `after` calls after the next reports that there is no
/// memory; of the stand-in only
static napi_value fail(napi_env env, napi_callback_info info) {
  size_t count = 2;
  napi_value values[2];
  char function[64];
  uint32_t after = 0;
  void (*stand_in_fail)(const char*, unsigned, int, int) =
      (void (*)(const char*, unsigned, int, int))driver("stand_in_fail");
  napi_get_cb_info(env, info, &count, values, NULL, NULL);
  napi_get_value_string_utf8(env, values[0], function, sizeof function, NULL);
  napi_get_value_uint32(env, values[1], &after);
  stand_in_fail(function, after, 2, 0);
  return NULL;
}

/// pause(paused: bigint): while it is 1, no queued work runs; of the stand-in only
static napi_value pause_work(napi_env env, napi_callback_info info) {
  void (*stand_in_pause)(int) = (void (*)(int))driver("stand_in_pause");
  stand_in_pause((int)argument(env, info));
  return NULL;
}

/// fill(pointer, stream): writes bytes of 0x3c to 5,000 floats
static napi_value fill(napi_env env, napi_callback_info info) {
  size_t count = 2;
  napi_value arguments[2];
  uint64_t pointer = 0, stream = 0;
  bool lossless;
  napi_get_cb_info(env, info, &count, arguments, NULL, NULL);
  napi_get_value_bigint_uint64(env, arguments[0], &pointer, &lossless);
  napi_get_value_bigint_uint64(env, arguments[1], &stream, &lossless);
  if (!push_primary(env)) return NULL;
  CALL("cuMemsetD8Async", (unsigned long long, unsigned char, size_t, void*), pointer, 0x3c, 20000,
       (void*)(uintptr_t)stream);
  return pop(env);
}

/// recordEvent(stream): bigint, an event after the work on it
static napi_value record_event(napi_env env, napi_callback_info info) {
  void* event;
  if (!push_primary(env)) return NULL;
  CALL("cuEventCreate", (void**, unsigned), &event, 2);
  CALL("cuEventRecord", (void*, void*), event, (void*)(uintptr_t)argument(env, info));
  return pop(env) ? bigint(env, (uintptr_t)event) : NULL;
}

NAPI_MODULE_INIT() {
  static const struct {
    const char* name;
    napi_callback function;
  } functions[] = {
      {"createStream", create_stream},
      {"synchronizeStream", synchronize_stream},
      {"fill", fill},
      {"recordEvent", record_event},
      {"allocate", allocate},
      {"free", release},
      {"allocateElsewhere", allocate_elsewhere},
      {"createStreamElsewhere", create_stream_elsewhere},
      {"allocateHost", allocate_host},
      {"freeBytes", free_bytes},
      {"hasCurrentContext", has_current_context},
      {"fail", fail},
      {"pause", pause_work},
  };
  library = dlopen("libcuda.so.1", RTLD_NOW);
  if (!library) napi_throw_error(env, NULL, "there is no libcuda.so.1");
  for (size_t i = 0; i < sizeof functions / sizeof *functions; ++i) {
    napi_value function;
    napi_create_function(env, functions[i].name, NAPI_AUTO_LENGTH, functions[i].function, NULL, &function);
    napi_set_named_property(env, exports, functions[i].name, function);
  }
  return exports;
}
