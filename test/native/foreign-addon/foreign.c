// An addon of somebody else's, for tests: memory of its own as external
// ArrayBuffers, with or without an unreadable page beside it.
#define _GNU_SOURCE
#define NAPI_VERSION 8
#include <node_api.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

static uint32_t finalized = 0;

static uint32_t to_uint32(napi_env env, napi_value value) {
  uint32_t number = 0;
  napi_get_value_uint32(env, value, &number);
  return number;
}

static napi_value from_uint32(napi_env env, uint32_t number) {
  napi_value value = NULL;
  napi_create_uint32(env, number, &value);
  return value;
}

static void free_block(napi_env env, void* data, void* hint) {
  (void)env, (void)hint;
  free(data);
  ++finalized;
}

// external(bytes): an ArrayBuffer over zeros from calloc, freed by its finalizer.
static napi_value external(napi_env env, napi_callback_info info) {
  size_t argc = 1;
  napi_value argv[1], result = NULL;
  napi_get_cb_info(env, info, &argc, argv, NULL, NULL);
  const uint32_t bytes = to_uint32(env, argv[0]);
  void* data = calloc(bytes, 1);
  if (napi_create_external_arraybuffer(env, data, bytes, free_block, NULL, &result) != napi_ok)
    napi_throw_error(env, NULL, "this engine takes no external memory");
  return result;
}

// overlapping(bytes, shift): two ArrayBuffers over one block, the second
// beginning `shift` bytes after the first. The block is never freed.
static napi_value overlapping(napi_env env, napi_callback_info info) {
  size_t argc = 2;
  napi_value argv[2], buffer, result = NULL;
  napi_get_cb_info(env, info, &argc, argv, NULL, NULL);
  const uint32_t bytes = to_uint32(env, argv[0]), shift = to_uint32(env, argv[1]);
  char* data = calloc(bytes + shift, 1);
  napi_create_array_with_length(env, 2, &result);
  for (uint32_t i = 0; i < 2; ++i) {
    if (napi_create_external_arraybuffer(env, data + i * shift, bytes, NULL, NULL, &buffer) != napi_ok)
      napi_throw_error(env, NULL, "this engine takes no external memory");
    else
      napi_set_element(env, result, i, buffer);
  }
  return result;
}

// guarded(bytes, atEnd): an ArrayBuffer of pages of its own, between two that
// cannot be touched; it ends where the last page does, or begins where the
// first does. Never unmapped.
static napi_value guarded(napi_env env, napi_callback_info info) {
  size_t argc = 2;
  napi_value argv[2], result = NULL;
  napi_get_cb_info(env, info, &argc, argv, NULL, NULL);
  const size_t bytes = to_uint32(env, argv[0]), page = (size_t)sysconf(_SC_PAGESIZE);
  bool at_end = false;
  napi_get_value_bool(env, argv[1], &at_end);
  const size_t inner = (bytes + page - 1) / page * page;
  char* pages = mmap(NULL, inner + 2 * page, PROT_NONE, MAP_PRIVATE | MAP_ANON, -1, 0);
  if (pages == MAP_FAILED || mprotect(pages + page, inner, PROT_READ | PROT_WRITE) != 0) {
    napi_throw_error(env, NULL, "no pages");
    return NULL;
  }
  char* data = pages + page + (at_end ? inner - bytes : 0);
  if (napi_create_external_arraybuffer(env, data, bytes, NULL, NULL, &result) != napi_ok)
    napi_throw_error(env, NULL, "this engine takes no external memory");
  return result;
}

// copyOf(buffer): its bytes as native code sees them, in an ArrayBuffer of V8's.
static napi_value copy_of(napi_env env, napi_callback_info info) {
  size_t argc = 1, bytes = 0;
  napi_value argv[1], result = NULL;
  void *from = NULL, *to = NULL;
  napi_get_cb_info(env, info, &argc, argv, NULL, NULL);
  napi_get_arraybuffer_info(env, argv[0], &from, &bytes);
  napi_create_arraybuffer(env, bytes, &to, &result);
  for (size_t i = 0; i < bytes; ++i) ((char*)to)[i] = ((char*)from)[i];
  return result;
}

// detach(buffer): as an addon does that takes its memory back.
static napi_value detach(napi_env env, napi_callback_info info) {
  size_t argc = 1;
  napi_value argv[1];
  napi_get_cb_info(env, info, &argc, argv, NULL, NULL);
  napi_detach_arraybuffer(env, argv[0]);
  return NULL;
}

// finalized(): how many blocks of external() were freed.
static napi_value get_finalized(napi_env env, napi_callback_info info) {
  (void)info;
  return from_uint32(env, finalized);
}

NAPI_MODULE_INIT() {
  const struct {
    const char* name;
    napi_callback call;
  } functions[] = {
      {"external", external}, {"overlapping", overlapping}, {"guarded", guarded},
      {"copyOf", copy_of},    {"detach", detach},           {"finalized", get_finalized},
  };
  for (size_t i = 0; i < sizeof functions / sizeof functions[0]; ++i) {
    napi_value function;
    napi_create_function(env, functions[i].name, NAPI_AUTO_LENGTH, functions[i].call, NULL, &function);
    napi_set_named_property(env, exports, functions[i].name, function);
  }
  return exports;
}
