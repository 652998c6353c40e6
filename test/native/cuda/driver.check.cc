// Compiled only, by scripts/check-device-code.mjs: our declarations of the CUDA
// driver agree with cuda.h.
#include "cuda/driver.h"

#include <cuda.h>

#include <type_traits>

namespace fused_adamw::cuda {

// How a type is passed, enumerations being integers: integers by their size.
template <size_t bytes>
struct Integer;

template <typename T, typename = void>
struct PassedAs {
  using type = T;
};
template <typename T>
struct PassedAs<T, std::enable_if_t<(std::is_enum_v<T> || std::is_integral_v<T>) && !std::is_const_v<T>>> {
  using type = Integer<sizeof(T)>;
};
template <typename T>
using Passed = typename PassedAs<T>::type;
template <typename T>
struct PassedAs<const T, std::enable_if_t<!std::is_function_v<T>>> {
  using type = const Passed<T>;
};
template <typename T>
struct PassedAs<T*> {
  using type = Passed<T>*;
};
template <typename Result, typename... Arguments>
struct PassedAs<Result(Arguments...)> {
  using type = Passed<Result>(Passed<Arguments>...);
};

static_assert(std::is_same_v<Passed<int>, Passed<CUresult>>);
static_assert(std::is_same_v<Passed<int*>, Passed<CUdevice_attribute*>>);
static_assert(!std::is_same_v<Passed<const void*>, Passed<void*>>);
static_assert(!std::is_same_v<Passed<int>, Passed<size_t>>);
static_assert(!std::is_same_v<Passed<int*>, Passed<size_t*>>);
static_assert(!std::is_same_v<Passed<CUstream*>, Passed<CUevent*>>);

#define AGREES(name, ...) \
  static_assert(std::is_same_v<Passed<decltype(::name)>, Passed<__VA_ARGS__>>, #name " is not as in cuda.h");
FUSED_ADAMW_DRIVER_FUNCTIONS(AGREES)

static_assert(kPeerAccessAlreadyEnabled == CUDA_ERROR_PEER_ACCESS_ALREADY_ENABLED);
static_assert(kTooManyPeers == CUDA_ERROR_TOO_MANY_PEERS);
static_assert(kNonBlocking == CU_STREAM_NON_BLOCKING);
static_assert(kPointerIsManaged == CU_POINTER_ATTRIBUTE_IS_MANAGED);
static_assert(kSuccess == CUDA_SUCCESS);
static_assert(kOutOfMemory == CUDA_ERROR_OUT_OF_MEMORY);
static_assert(kNoDevice == CUDA_ERROR_NO_DEVICE);
static_assert(kNotReady == CUDA_ERROR_NOT_READY);
static_assert(kCaptureImplicit == CUDA_ERROR_STREAM_CAPTURE_IMPLICIT);
static_assert(kCapturedEvent == CUDA_ERROR_CAPTURED_EVENT);
static_assert(kNotCapturing == CU_STREAM_CAPTURE_STATUS_NONE);
static_assert(kRelaxedCapture == CU_STREAM_CAPTURE_MODE_RELAXED);
static_assert(kComputeCapabilityMajor == CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR);
static_assert(kComputeCapabilityMinor == CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR);
static_assert(kBlockingSync == CU_EVENT_BLOCKING_SYNC);
static_assert(kDisableTiming == CU_EVENT_DISABLE_TIMING);
static_assert(kPortable == CU_MEMHOSTALLOC_PORTABLE);
static_assert(kPointerContext == CU_POINTER_ATTRIBUTE_CONTEXT);
static_assert(kPointerMemoryType == CU_POINTER_ATTRIBUTE_MEMORY_TYPE);
static_assert(kPointerDeviceOrdinal == CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL);
static_assert(kPointerRangeStart == CU_POINTER_ATTRIBUTE_RANGE_START_ADDR);
static_assert(kPointerRangeSize == CU_POINTER_ATTRIBUTE_RANGE_SIZE);
static_assert(kPointerMapped == CU_POINTER_ATTRIBUTE_MAPPED);
static_assert(kDeviceMemory == CU_MEMORYTYPE_DEVICE);

}  // namespace fused_adamw::cuda
