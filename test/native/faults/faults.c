// Makes what another addon asks for fail: the n-th allocation, thread start or
// Node-API call after it was armed. Entries of that addon's table of imported
// functions are replaced, so nothing else of the process is affected (V8 ends the
// process where its own allocations fail).
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <link.h>
#include <node_api.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

enum Kind { kMemory, kThread, kCall, kKinds };

static _Atomic int armed_kind = -1;
static _Atomic long countdown;
static _Atomic int fired;
static pthread_t arming_thread;

static void (*throw_bad_alloc)(void);
static void (*throw_system_error)(int);

// Whether this call is the one to fail; calls of other threads are not counted.
static int fails(enum Kind kind) {
  if (armed_kind != (int)kind || !pthread_equal(pthread_self(), arming_thread)) return 0;
  if (--countdown != 0) return 0;
  armed_kind = -1;
  fired = 1;
  return 1;
}

// Arguments in registers and on the stack, passed on as they came; none of these
// functions takes a floating-point number.
#define ARGUMENTS long a, long b, long c, long d, long e, long f, long g, long h, long i, long j, long k
#define PASSED a, b, c, d, e, f, g, h, i, j, k
typedef long (*Function)(ARGUMENTS);

static long fail_with_status(void) { return napi_generic_failure; }
static long fail_with_null(void) {
  errno = ENOMEM;
  return 0;
}
static long fail_with_bad_alloc(void) {
  throw_bad_alloc();
  return 0;
}
static long fail_with_eagain(void) { return EAGAIN; }
static long fail_with_system_error(void) {
  throw_system_error(EAGAIN);
  return 0;
}

// name, kind, how it fails. Those that only free something, that report an error
// which is there already, that cannot fail (napi_get_undefined: a step that is done
// relies on it), or that take a floating-point number are not in it.
#define FUNCTIONS(X)                                                                                      \
  X(malloc, kMemory, fail_with_null)                                                                      \
  X(calloc, kMemory, fail_with_null)                                                                      \
  X(realloc, kMemory, fail_with_null)                                                                     \
  X(aligned_alloc, kMemory, fail_with_null)                                                               \
  X(__sched_cpualloc, kMemory, fail_with_null)                                                            \
  X(_Znwm, kMemory, fail_with_bad_alloc)                                                                  \
  X(_Znam, kMemory, fail_with_bad_alloc)                                                                  \
  X(_ZnwmSt11align_val_t, kMemory, fail_with_bad_alloc)                                                   \
  X(_ZnamSt11align_val_t, kMemory, fail_with_bad_alloc)                                                   \
  X(_ZnwmRKSt9nothrow_t, kMemory, fail_with_null)                                                         \
  X(_ZNSt7__cxx1112basic_stringIcSt11char_traitsIcESaIcEE9_M_createERmm, kMemory, fail_with_bad_alloc)    \
  X(_ZNSt7__cxx1112basic_stringIcSt11char_traitsIcESaIcEE9_M_appendEPKcm, kMemory, fail_with_bad_alloc)   \
  X(_ZNSt7__cxx1112basic_stringIcSt11char_traitsIcESaIcEE6appendEPKc, kMemory, fail_with_bad_alloc)       \
  X(_ZNSt7__cxx1112basic_stringIcSt11char_traitsIcESaIcEE10_M_replaceEmmPKcm, kMemory, fail_with_bad_alloc) \
  X(pthread_create, kThread, fail_with_eagain)                                                            \
  X(_ZNSt6thread15_M_start_threadESt10unique_ptrINS_6_StateESt14default_deleteIS1_EEPFvvE, kThread,       \
    fail_with_system_error)                                                                               \
  CALLS(X)

#define CALL(X, name) X(name, kCall, fail_with_status)
#define CALLS(X)                             \
  CALL(X, napi_add_env_cleanup_hook)         \
  CALL(X, napi_add_finalizer)                \
  CALL(X, napi_call_function)                \
  CALL(X, napi_check_object_type_tag)        \
  CALL(X, napi_create_array)                 \
  CALL(X, napi_create_array_with_length)     \
  CALL(X, napi_create_arraybuffer)           \
  CALL(X, napi_create_bigint_uint64)         \
  CALL(X, napi_create_external_arraybuffer)  \
  CALL(X, napi_create_function)              \
  CALL(X, napi_create_object)                \
  CALL(X, napi_create_promise)               \
  CALL(X, napi_create_reference)             \
  CALL(X, napi_create_string_utf8)           \
  CALL(X, napi_create_threadsafe_function)   \
  CALL(X, napi_create_typedarray)            \
  CALL(X, napi_define_class)                 \
  CALL(X, napi_define_properties)            \
  CALL(X, napi_escape_handle)                \
  CALL(X, napi_get_array_length)             \
  CALL(X, napi_get_arraybuffer_info)         \
  CALL(X, napi_get_boolean)                  \
  CALL(X, napi_get_cb_info)                  \
  CALL(X, napi_get_element)                  \
  CALL(X, napi_get_instance_data)            \
  CALL(X, napi_get_named_property)           \
  CALL(X, napi_get_new_target)               \
  CALL(X, napi_get_null)                     \
  CALL(X, napi_get_property)                 \
  CALL(X, napi_get_reference_value)          \
  CALL(X, napi_get_typedarray_info)          \
  CALL(X, napi_get_value_bigint_uint64)      \
  CALL(X, napi_get_value_int32)              \
  CALL(X, napi_get_value_int64)              \
  CALL(X, napi_get_value_string_utf8)        \
  CALL(X, napi_get_value_uint32)             \
  CALL(X, napi_has_property)                 \
  CALL(X, napi_is_array)                     \
  CALL(X, napi_is_arraybuffer)               \
  CALL(X, napi_open_escapable_handle_scope)  \
  CALL(X, napi_open_handle_scope)            \
  CALL(X, napi_run_script)                   \
  CALL(X, napi_set_element)                  \
  CALL(X, napi_set_instance_data)            \
  CALL(X, napi_set_named_property)           \
  CALL(X, napi_type_tag_object)              \
  CALL(X, napi_typeof)                       \
  CALL(X, napi_unwrap)                       \
  CALL(X, napi_wrap)

#define DEFINE(name, kind, fail)            \
  static Function original_##name;          \
  static long faulty_##name(ARGUMENTS) {    \
    return fails(kind) ? fail() : original_##name(PASSED); \
  }
FUNCTIONS(DEFINE)

static const struct {
  const char* name;
  Function* original;
  Function faulty;
} kFunctions[] = {
#define ENTRY(name, kind, fail) {#name, &original_##name, faulty_##name},
    FUNCTIONS(ENTRY)};

// Replaces an entry of the addon's table, if it is of a function that can fail.
static int replace(const char* name, void** entry) {
  for (size_t i = 0; i < sizeof kFunctions / sizeof *kFunctions; ++i) {
    if (strcmp(kFunctions[i].name, name) != 0) continue;
    const uintptr_t page = (uintptr_t)entry & ~((uintptr_t)sysconf(_SC_PAGESIZE) - 1);
    mprotect((void*)page, (uintptr_t)(entry + 1) - page, PROT_READ | PROT_WRITE);
    // Not the entry's own value: a function that was not called yet is not resolved there.
    *kFunctions[i].original = (Function)dlsym(RTLD_DEFAULT, name);
    if (!*kFunctions[i].original) return 0;
    *entry = (void*)kFunctions[i].faulty;
    return 1;
  }
  return 0;
}

static int replace_all(const struct link_map* map, ElfW(Dyn) * dynamic) {
  const ElfW(Sym)* symbols = NULL;
  const char* names = NULL;
  const ElfW(Rela) * tables[2] = {NULL, NULL};
  size_t sizes[2] = {0, 0};
  for (; dynamic->d_tag != DT_NULL; ++dynamic) {
    if (dynamic->d_tag == DT_SYMTAB) symbols = (const void*)dynamic->d_un.d_ptr;
    if (dynamic->d_tag == DT_STRTAB) names = (const void*)dynamic->d_un.d_ptr;
    if (dynamic->d_tag == DT_RELA) tables[0] = (const void*)dynamic->d_un.d_ptr;
    if (dynamic->d_tag == DT_RELASZ) sizes[0] = dynamic->d_un.d_val;
    if (dynamic->d_tag == DT_JMPREL) tables[1] = (const void*)dynamic->d_un.d_ptr;
    if (dynamic->d_tag == DT_PLTRELSZ) sizes[1] = dynamic->d_un.d_val;
  }
  int replaced = 0;
  for (int t = 0; t < 2; ++t)
    for (size_t i = 0; i < sizes[t] / sizeof(ElfW(Rela)); ++i) {
      const ElfW(Rela)* entry = &tables[t][i];
      const unsigned long symbol = ELF64_R_SYM(entry->r_info);
      if (symbol != 0 && symbols[symbol].st_shndx == SHN_UNDEF)
        replaced += replace(names + symbols[symbol].st_name, (void**)(map->l_addr + entry->r_offset));
    }
  return replaced;
}

// install(path): how many functions of the addon at that path can fail from now on.
static napi_value install(napi_env env, napi_callback_info info) {
  char path[4096];
  size_t count = 1, length;
  napi_value argument, result;
  napi_get_cb_info(env, info, &count, &argument, NULL, NULL);
  napi_get_value_string_utf8(env, argument, path, sizeof path, &length);
  void* addon = dlopen(path, RTLD_LAZY | RTLD_NOLOAD);
  struct link_map* map = NULL;
  int replaced = 0;
  if (addon && dlinfo(addon, RTLD_DI_LINKMAP, &map) == 0) {
    *(void**)&throw_bad_alloc = dlsym(addon, "_ZSt17__throw_bad_allocv");
    *(void**)&throw_system_error = dlsym(addon, "_ZSt20__throw_system_errori");
    replaced = replace_all(map, map->l_ld);
  }
  napi_create_int32(env, replaced, &result);
  return result;
}

// arm(kind, n): the n-th call of that kind by this thread fails.
static napi_value arm(napi_env env, napi_callback_info info) {
  size_t count = 2;
  napi_value arguments[2];
  int32_t kind;
  int64_t n;
  napi_get_cb_info(env, info, &count, arguments, NULL, NULL);
  napi_get_value_int32(env, arguments[0], &kind);
  napi_get_value_int64(env, arguments[1], &n);
  arming_thread = pthread_self();
  fired = 0;
  countdown = n;
  armed_kind = kind;
  return NULL;
}

// disarm(): whether a call failed since arm().
static napi_value disarm(napi_env env, napi_callback_info info) {
  (void)info;
  armed_kind = -1;
  napi_value result;
  napi_get_boolean(env, fired, &result);
  return result;
}

NAPI_MODULE_INIT() {
  const struct {
    const char* name;
    napi_callback callback;
  } functions[] = {{"install", install}, {"arm", arm}, {"disarm", disarm}};
  for (size_t i = 0; i < sizeof functions / sizeof *functions; ++i) {
    napi_value function;
    napi_create_function(env, functions[i].name, NAPI_AUTO_LENGTH, functions[i].callback, NULL, &function);
    napi_set_named_property(env, exports, functions[i].name, function);
  }
  return exports;
}
