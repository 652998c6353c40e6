// The CUDA driver, opened at run time, so that CUDA is not needed to build or
// load the addon. The declarations are our own; test/native/cuda/driver.check.cc
// compares them with cuda.h.
#pragma once

#include <cstddef>
#include <cstdint>
#include <stdexcept>
#include <string>

// The driver's opaque types, by the names that cuda.h gives them.
struct CUctx_st;
struct CUmod_st;
struct CUfunc_st;
struct CUstream_st;
struct CUevent_st;

namespace fused_adamw::cuda {

using Status = int;  // CUresult
using DeviceHandle = int;
using DevicePointer = unsigned long long;
using ContextHandle = CUctx_st*;
using ModuleHandle = CUmod_st*;
using FunctionHandle = CUfunc_st*;
using StreamHandle = CUstream_st*;  // null: the legacy default stream
using EventHandle = CUevent_st*;
using StreamCallback = void (*)(StreamHandle stream, Status status, void* context);

inline constexpr Status kSuccess = 0;
inline constexpr Status kOutOfMemory = 2;
inline constexpr Status kNoDevice = 100;
inline constexpr Status kNotReady = 600;
inline constexpr Status kPeerAccessAlreadyEnabled = 704;
inline constexpr Status kTooManyPeers = 711;
inline constexpr Status kCaptureImplicit = 906;
inline constexpr Status kCapturedEvent = 907;

// CUdevice_attribute
inline constexpr int kComputeCapabilityMajor = 75;
inline constexpr int kComputeCapabilityMinor = 76;
// CUevent_flags
inline constexpr unsigned kBlockingSync = 1;  // waiting blocks rather than spins
inline constexpr unsigned kDisableTiming = 2;
// CU_STREAM_NON_BLOCKING: does not synchronise with the legacy default stream
inline constexpr unsigned kNonBlocking = 1;
// CU_MEMHOSTALLOC_PORTABLE: page-locked for every context
inline constexpr unsigned kPortable = 1;
// CUstreamCaptureStatus
inline constexpr int kNotCapturing = 0;
// CUstreamCaptureMode
inline constexpr int kRelaxedCapture = 2;
// CUpointer_attribute
inline constexpr int kPointerContext = 1;
inline constexpr int kPointerMemoryType = 2;
inline constexpr int kPointerIsManaged = 8;
inline constexpr int kPointerDeviceOrdinal = 9;
inline constexpr int kPointerRangeStart = 11;
inline constexpr int kPointerRangeSize = 12;
inline constexpr int kPointerMapped = 13;
// CUmemorytype
inline constexpr unsigned kDeviceMemory = 2;

/// CUDA 12.0: older drivers do not accept the device code.
inline constexpr int kLeastDriverVersion = 12000;

// Every function that we call: symbol and type.
#define FUSED_ADAMW_DRIVER_FUNCTIONS(X)                                                                         \
  X(cuInit, Status(unsigned flags))                                                                             \
  X(cuDriverGetVersion, Status(int* version))                                                                   \
  X(cuGetErrorName, Status(Status status, const char** name))                                                   \
  X(cuGetErrorString, Status(Status status, const char** text))                                                 \
  X(cuDeviceGetCount, Status(int* count))                                                                       \
  X(cuDeviceGet, Status(DeviceHandle* device, int ordinal))                                                     \
  X(cuDeviceGetName, Status(char* name, int length, DeviceHandle device))                                       \
  X(cuDeviceGetAttribute, Status(int* value, int attribute, DeviceHandle device))                               \
  X(cuDeviceTotalMem_v2, Status(size_t* bytes, DeviceHandle device))                                            \
  X(cuDeviceCanAccessPeer, Status(int* can_access, DeviceHandle device, DeviceHandle peer))                     \
  X(cuCtxEnablePeerAccess, Status(ContextHandle peer, unsigned flags))                                          \
  X(cuDevicePrimaryCtxRetain, Status(ContextHandle* context, DeviceHandle device))                              \
  X(cuDevicePrimaryCtxRelease_v2, Status(DeviceHandle device))                                                  \
  X(cuCtxPushCurrent_v2, Status(ContextHandle context))                                                         \
  X(cuCtxPopCurrent_v2, Status(ContextHandle* context))                                                         \
  X(cuModuleLoadData, Status(ModuleHandle* module, const void* image))                                          \
  X(cuModuleGetFunction, Status(FunctionHandle* function, ModuleHandle module, const char* name))               \
  X(cuModuleGetGlobal_v2, Status(DevicePointer* pointer, size_t* bytes, ModuleHandle module, const char* name)) \
  X(cuMemAlloc_v2, Status(DevicePointer* pointer, size_t bytes))                                                \
  X(cuMemFree_v2, Status(DevicePointer pointer))                                                                \
  X(cuMemHostAlloc, Status(void** pointer, size_t bytes, unsigned flags))                                       \
  X(cuMemFreeHost, Status(void* pointer))                                                                       \
  X(cuMemsetD8Async, Status(DevicePointer pointer, unsigned char value, size_t bytes, StreamHandle stream))     \
  X(cuMemcpyHtoDAsync_v2, Status(DevicePointer to, const void* from, size_t bytes, StreamHandle stream))        \
  X(cuMemcpyDtoHAsync_v2, Status(void* to, DevicePointer from, size_t bytes, StreamHandle stream))              \
  X(cuMemcpyDtoDAsync_v2, Status(DevicePointer to, DevicePointer from, size_t bytes, StreamHandle stream))      \
  X(cuMemcpyPeerAsync, Status(DevicePointer to, ContextHandle to_context, DevicePointer from,                   \
                              ContextHandle from_context, size_t bytes, StreamHandle stream))                   \
  X(cuPointerGetAttributes, Status(unsigned count, int* attributes, void** values, DevicePointer pointer))      \
  X(cuMemGetAddressRange_v2, Status(DevicePointer* start, size_t* bytes, DevicePointer pointer))                \
  X(cuStreamCreate, Status(StreamHandle* stream, unsigned flags))                                               \
  X(cuStreamGetCtx, Status(StreamHandle stream, ContextHandle* context))                                        \
  X(cuStreamGetId, Status(StreamHandle stream, unsigned long long* id))                                         \
  X(cuStreamIsCapturing, Status(StreamHandle stream, int* status))                                              \
  X(cuThreadExchangeStreamCaptureMode, Status(int* mode))                                                       \
  X(cuStreamWaitEvent, Status(StreamHandle stream, EventHandle event, unsigned flags))                          \
  X(cuEventCreate, Status(EventHandle* event, unsigned flags))                                                  \
  X(cuEventRecord, Status(EventHandle event, StreamHandle stream))                                              \
  X(cuEventQuery, Status(EventHandle event))                                                                    \
  X(cuEventSynchronize, Status(EventHandle event))                                                              \
  X(cuEventDestroy_v2, Status(EventHandle event))                                                               \
  X(cuStreamAddCallback, Status(StreamHandle stream, StreamCallback callback, void* context, unsigned flags))   \
  X(cuLaunchKernel, Status(FunctionHandle function, unsigned grid_x, unsigned grid_y, unsigned grid_z,          \
                           unsigned block_x, unsigned block_y, unsigned block_z, unsigned dynamic_memory,       \
                           StreamHandle stream, void** parameters, void** extra))

/// A call that failed, with the driver's own name and text for its status.
class DriverError : public std::runtime_error {
 public:
  DriverError(Status status, std::string name, const std::string& text, const char* function)
      : std::runtime_error("CUDA failed in " + std::string(function) + ": " + name + " (" + text + ")"),
        status_(status),
        name_(std::move(name)) {}
  Status status() const { return status_; }
  const std::string& name() const { return name_; }

 private:
  Status status_;
  std::string name_;
};

/// The reason where cuInit reports no device or there are 0 of them.
inline constexpr const char* kThereIsNoDevice = "there is no CUDA device";

/// Why CUDA cannot be used here.
class Unavailable : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

/// The driver's functions. Never closed, since its threads outlive our objects.
struct Driver {
#define DECLARE(name, ...) std::add_pointer_t<__VA_ARGS__> name = nullptr;
  FUSED_ADAMW_DRIVER_FUNCTIONS(DECLARE)
#undef DECLARE
};

/// The driver, opened and initialised at the first call. Where there is none,
/// every call throws Unavailable with the reason.
const Driver& driver();

/// Throws DriverError unless the status is success.
void check(Status status, const char* function);

/// Calls a function of the driver and checks its status: FUSED_ADAMW_CUDA(cuInit, 0).
#define FUSED_ADAMW_CUDA(name, ...) ::fused_adamw::cuda::check(::fused_adamw::cuda::driver().name(__VA_ARGS__), #name)

}  // namespace fused_adamw::cuda
