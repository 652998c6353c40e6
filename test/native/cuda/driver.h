// Helpers of the CUDA tests: the driver as another library in the process would
// use it, and the stand-in's own functions where it is the driver.
#pragma once

#include <dlfcn.h>
#include <gtest/gtest.h>

#include <string>

#include "cuda/device.h"
#include "stand-in-driver.h"

namespace fused_adamw::cuda::testing {

/// A function of the driver, or null.
template <typename Function>
Function* find(const char* name) {
  static void* library = dlopen("libcuda.so.1", RTLD_NOW | RTLD_LOCAL);
  return library ? reinterpret_cast<Function*>(dlsym(library, name)) : nullptr;
}

inline bool is_stand_in() { return find<StandInCount>("stand_in_count") != nullptr; }

inline unsigned long long count(const char* name) { return find<StandInCount>("stand_in_count")(name); }

/// Makes a call of the driver fail, at most until the end of the scope.
class Failing {
 public:
  Failing(const char* function, unsigned after, Status status, bool forever = false) {
    find<StandInFail>("stand_in_fail")(function, after, status, forever);
  }
  ~Failing() { find<StandInFail>("stand_in_fail")(nullptr, 0, 0, 0); }
  Failing(const Failing&) = delete;
  Failing& operator=(const Failing&) = delete;
};

/// No queued work runs while it exists.
class Paused {
 public:
  Paused() { find<StandInPause>("stand_in_pause")(1); }
  ~Paused() { find<StandInPause>("stand_in_pause")(0); }
  Paused(const Paused&) = delete;
  Paused& operator=(const Paused&) = delete;
};

enum class StreamKind { legacy, blocking, non_blocking };

/// A stream in the primary context of a device.
inline StreamHandle make_stream(Device& device, StreamKind kind) {
  if (kind == StreamKind::legacy) return nullptr;
  const ContextGuard guard(device.context());
  StreamHandle stream = nullptr;
  check(find<Status(StreamHandle*, unsigned)>("cuStreamCreate")(&stream, kind == StreamKind::non_blocking ? 1 : 0),
        "cuStreamCreate");
  return stream;
}

inline void destroy_stream(Device& device, StreamHandle stream) {
  const ContextGuard guard(device.context());
  check(find<Status(StreamHandle)>("cuStreamDestroy_v2")(stream), "cuStreamDestroy");
}

/// A capture of a stream by this thread, until the end of the scope. It must not have been invalidated by then.
class Capture {
 public:
  static constexpr int kGlobal = 0, kThreadLocal = 1, kRelaxed = 2;

  Capture(Device& device, StreamHandle stream, int mode) : device_(device), stream_(stream) {
    const ContextGuard guard(device_.context());
    check(find<Status(StreamHandle, int)>("cuStreamBeginCapture_v2")(stream, mode), "cuStreamBeginCapture");
  }
  ~Capture() {
    const ContextGuard guard(device_.context());
    void* graph = nullptr;
    EXPECT_EQ(find<Status(StreamHandle, void**)>("cuStreamEndCapture")(stream_, &graph), kSuccess);
    if (graph) find<Status(void*)>("cuGraphDestroy")(graph);
  }
  Capture(const Capture&) = delete;
  Capture& operator=(const Capture&) = delete;

 private:
  Device& device_;
  StreamHandle stream_;
};

/// A context of another library, current until the end of the scope.
class ForeignContext {
 public:
  explicit ForeignContext(int ordinal) {
    check(find<Status(ContextHandle*, unsigned, DeviceHandle)>("cuCtxCreate_v2")(&handle_, 0, ordinal), "cuCtxCreate");
  }
  ~ForeignContext() {
    ContextHandle popped = nullptr;
    driver().cuCtxPopCurrent_v2(&popped);
    EXPECT_EQ(popped, handle_);
  }
  ForeignContext(const ForeignContext&) = delete;
  ForeignContext& operator=(const ForeignContext&) = delete;

  ContextHandle handle() const { return handle_; }

 private:
  ContextHandle handle_ = nullptr;
};

inline ContextHandle current_context() {
  ContextHandle context = nullptr;
  check(find<Status(ContextHandle*)>("cuCtxGetCurrent")(&context), "cuCtxGetCurrent");
  return context;
}

/// The message of the exception of type E that a call throws; the test fails if it throws none.
template <class E, class Call>
std::string message_of(const Call& call) {
  try {
    call();
  } catch (const E& error) {
    return error.what();
  }
  ADD_FAILURE() << "nothing was thrown";
  return {};
}

/// A test that needs a usable device.
class OnDevice : public ::testing::Test {
 protected:
  void SetUp() override {
    try {
      Device::get(0);
    } catch (const Unavailable& reason) {
      GTEST_SKIP() << reason.what();
    }
  }
  static Device& device(int ordinal = 0) { return Device::get(ordinal); }
  static void synchronize() {
    for (int i = 0; i < device_count(); ++i) device(i).synchronize();
  }
};

/// A test that inspects the driver or makes it fail.
class OnStandIn : public OnDevice {
 protected:
  void SetUp() override {
    if (!is_stand_in()) GTEST_SKIP() << "only the stand-in driver can be inspected";
    OnDevice::SetUp();
    if (IsSkipped()) return;
    synchronize_and_trim();
    bytes_ = count("bytes");
    pinned_ = count("pinned");
    events_ = count("events");
  }
  void TearDown() override {
    if (!is_stand_in() || IsSkipped()) return;
    synchronize_and_trim();
    EXPECT_EQ(count("bytes"), bytes_) << "bytes of device memory are left";
    EXPECT_EQ(count("pinned"), pinned_) << "page-locked memory is left";
    // Each device keeps the event of its last copy.
    EXPECT_LE(count("events"), events_ + static_cast<unsigned>(device_count())) << "events are left";
    EXPECT_EQ(count("pending"), 0u);
    EXPECT_EQ(current_context(), nullptr) << "a context is left current";
  }

 private:
  static void synchronize_and_trim() {
    synchronize();
    for (int i = 0; i < device_count(); ++i) device(i).trim();
  }

  unsigned long long bytes_ = 0, pinned_ = 0, events_ = 0;
};

}  // namespace fused_adamw::cuda::testing
