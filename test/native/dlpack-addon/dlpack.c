// An addon that exchanges tensors by DLPack, for tests. The declarations are
// those of dlpack.h, written again so that ours are tested against others.
#define NAPI_VERSION 8
#include <node_api.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

typedef struct {
  void* data;
  struct {
    int32_t device_type, device_id;
  } device;
  int32_t ndim;
  struct {
    uint8_t code, bits;
    uint16_t lanes;
  } dtype;
  int64_t *shape, *strides;
  uint64_t byte_offset;
} DLTensor;
typedef struct DLManagedTensor {
  DLTensor dl_tensor;
  void* manager_ctx;
  void (*deleter)(struct DLManagedTensor*);
} DLManagedTensor;
typedef struct DLManagedTensorVersioned {
  struct {
    uint32_t major, minor;
  } version;
  void* manager_ctx;
  void (*deleter)(struct DLManagedTensorVersioned*);
  uint64_t flags;
  DLTensor dl_tensor;
} DLManagedTensorVersioned;

enum { kMostDimensions = 8 };
static uint32_t deletions = 0;

typedef struct {
  int64_t shape[kMostDimensions], strides[kMostDimensions];
  void* allocated;
} Context;

static void delete_context(void* context) {
  free(((Context*)context)->allocated);
  free(context);
  ++deletions;
}
static void delete_tensor(DLManagedTensor* tensor) {
  delete_context(tensor->manager_ctx);
  free(tensor);
}
static void delete_versioned(DLManagedTensorVersioned* tensor) {
  delete_context(tensor->manager_ctx);
  free(tensor);
}

static napi_value property(napi_env env, napi_value object, const char* name) {
  napi_value value;
  napi_get_named_property(env, object, name, &value);
  return value;
}
static int64_t number(napi_env env, napi_value object, const char* name) {
  int64_t result = 0;
  napi_get_value_int64(env, property(env, object, name), &result);
  return result;
}
static uint64_t address(napi_env env, napi_value value) {
  uint64_t result = 0;
  bool lossless;
  napi_get_value_bigint_uint64(env, value, &result, &lossless);
  return result;
}
static napi_value argument(napi_env env, napi_callback_info info, size_t i) {
  size_t count = 2;
  napi_value arguments[2];
  napi_get_cb_info(env, info, &count, arguments, NULL, NULL);
  return arguments[i];
}
static bool boolean(napi_env env, napi_value value) {
  bool result = false;
  napi_get_value_bool(env, value, &result);
  return result;
}
static bool numbers(napi_env env, napi_value list, int64_t* to) {
  bool is_array = false;
  uint32_t length = 0;
  napi_is_array(env, list, &is_array);
  if (!is_array) return false;
  napi_get_array_length(env, list, &length);
  for (uint32_t i = 0; i < length && i < kMostDimensions; ++i) {
    napi_value element;
    napi_get_element(env, list, i, &element);
    napi_get_value_int64(env, element, &to[i]);
  }
  return true;
}

// produce({ data?: bigint, bytes, deviceType, deviceId, code, bits, lanes, shape, strides?, byteOffset, versioned,
//           major, flags }): bigint; without data the elements are floats 1, 2, 3, ... of the host
static napi_value produce(napi_env env, napi_callback_info info) {
  napi_value options = argument(env, info, 0), result;
  Context* context = calloc(1, sizeof *context);
  DLTensor tensor = {0};
  uint32_t dimensions = 0;
  tensor.data = (void*)(uintptr_t)address(env, property(env, options, "data"));
  if (!tensor.data) {
    const size_t floats = (size_t)number(env, options, "bytes") / sizeof(float);
    tensor.data = context->allocated = calloc(floats + 16, sizeof(float));
    for (size_t i = 0; i < floats; ++i) ((float*)tensor.data)[i] = (float)(i + 1);
  }
  tensor.device.device_type = (int32_t)number(env, options, "deviceType");
  tensor.device.device_id = (int32_t)number(env, options, "deviceId");
  tensor.dtype.code = (uint8_t)number(env, options, "code");
  tensor.dtype.bits = (uint8_t)number(env, options, "bits");
  tensor.dtype.lanes = (uint16_t)number(env, options, "lanes");
  tensor.byte_offset = (uint64_t)number(env, options, "byteOffset");
  napi_get_array_length(env, property(env, options, "shape"), &dimensions);
  tensor.ndim = (int32_t)dimensions;
  numbers(env, property(env, options, "shape"), context->shape);
  tensor.shape = context->shape;
  if (numbers(env, property(env, options, "strides"), context->strides)) tensor.strides = context->strides;
  void* produced;
  if (boolean(env, property(env, options, "versioned"))) {
    DLManagedTensorVersioned* managed = calloc(1, sizeof *managed);
    managed->version.major = (uint32_t)number(env, options, "major");
    managed->flags = (uint64_t)number(env, options, "flags");
    managed->manager_ctx = context;
    managed->deleter = delete_versioned;
    managed->dl_tensor = tensor;
    produced = managed;
  } else {
    DLManagedTensor* managed = calloc(1, sizeof *managed);
    managed->manager_ctx = context;
    managed->deleter = delete_tensor;
    managed->dl_tensor = tensor;
    produced = managed;
  }
  napi_create_bigint_uint64(env, (uint64_t)(uintptr_t)produced, &result);
  return result;
}

// deletions(): calls of the deleters of produce() so far.
static napi_value get_deletions(napi_env env, napi_callback_info info) {
  napi_value result;
  (void)info;
  napi_create_uint32(env, deletions, &result);
  return result;
}

// external(pointer): an External of it.
static napi_value external(napi_env env, napi_callback_info info) {
  napi_value result;
  napi_create_external(env, (void*)(uintptr_t)address(env, argument(env, info, 0)), NULL, NULL, &result);
  return result;
}

static void set(napi_env env, napi_value object, const char* name, int64_t value) {
  napi_value converted;
  napi_create_int64(env, value, &converted);
  napi_set_named_property(env, object, name, converted);
}
static void set_list(napi_env env, napi_value object, const char* name, const int64_t* values, int32_t count) {
  napi_value list, value;
  napi_create_array(env, &list);
  for (int32_t i = 0; i < count; ++i) {
    napi_create_int64(env, values[i], &value);
    napi_set_element(env, list, (uint32_t)i, value);
  }
  napi_set_named_property(env, object, name, list);
}

// consume(pointer, versioned): what the tensor says of itself, and its first float if it is of the host, to which 100
// is added.
static napi_value consume(napi_env env, napi_callback_info info) {
  void* pointer = (void*)(uintptr_t)address(env, argument(env, info, 0));
  const bool versioned = boolean(env, argument(env, info, 1));
  const DLTensor* tensor =
      versioned ? &((DLManagedTensorVersioned*)pointer)->dl_tensor : &((DLManagedTensor*)pointer)->dl_tensor;
  napi_value result, data;
  napi_create_object(env, &result);
  set(env, result, "major", versioned ? ((DLManagedTensorVersioned*)pointer)->version.major : 0);
  set(env, result, "deviceType", tensor->device.device_type);
  set(env, result, "deviceId", tensor->device.device_id);
  set(env, result, "code", tensor->dtype.code);
  set(env, result, "bits", tensor->dtype.bits);
  set(env, result, "lanes", tensor->dtype.lanes);
  set_list(env, result, "shape", tensor->shape, tensor->ndim);
  set_list(env, result, "strides", tensor->strides, tensor->ndim);
  char* elements = (char*)tensor->data + tensor->byte_offset;
  napi_create_bigint_uint64(env, (uint64_t)(uintptr_t)elements, &data);
  napi_set_named_property(env, result, "data", data);
  if (tensor->device.device_type == 1) {
    float first;
    memcpy(&first, elements, sizeof first);
    set(env, result, "first", (int64_t)first);
    first += 100;
    memcpy(elements, &first, sizeof first);
  }
  return result;
}

// giveBack(pointer, versioned): calls the deleter.
static napi_value give_back(napi_env env, napi_callback_info info) {
  void* pointer = (void*)(uintptr_t)address(env, argument(env, info, 0));
  if (boolean(env, argument(env, info, 1)))
    ((DLManagedTensorVersioned*)pointer)->deleter(pointer);
  else
    ((DLManagedTensor*)pointer)->deleter(pointer);
  return NULL;
}

NAPI_MODULE_INIT() {
  const struct {
    const char* name;
    napi_callback call;
  } functions[] = {
      {"produce", produce}, {"deletions", get_deletions}, {"external", external},
      {"consume", consume}, {"giveBack", give_back},
  };
  for (size_t i = 0; i < sizeof functions / sizeof functions[0]; ++i) {
    napi_value function;
    napi_create_function(env, functions[i].name, NAPI_AUTO_LENGTH, functions[i].call, NULL, &function);
    napi_set_named_property(env, exports, functions[i].name, function);
  }
  return exports;
}
