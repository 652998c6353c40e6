// The stand-in driver detects misuse, and orders work as CUDA does.
#include <thread>

#include "driver.h"

namespace fused_adamw::cuda {
namespace {

class StandIn : public testing::OnStandIn {
 protected:
  static constexpr size_t kBytes = 4096;

  void SetUp() override {
    OnStandIn::SetUp();
    if (IsSkipped()) return;
    GTEST_FLAG_SET(death_test_style, "threadsafe");
  }

  // Each misuses the driver, in a process of its own.
  static void free_memory_in_use() {
    const ContextGuard guard(device().context());
    const testing::Paused paused;
    FUSED_ADAMW_CUDA(cuMemsetD8Async, allocate(), 1, kBytes, nullptr);
    FUSED_ADAMW_CUDA(cuMemFree_v2, last_);
  }
  static void free_pinned_memory_in_use() {
    const ContextGuard guard(device().context());
    const testing::Paused paused;
    void* pinned = nullptr;
    FUSED_ADAMW_CUDA(cuMemHostAlloc, &pinned, kBytes, 0);
    FUSED_ADAMW_CUDA(cuMemcpyHtoDAsync_v2, allocate(), pinned, kBytes, nullptr);
    FUSED_ADAMW_CUDA(cuMemFreeHost, pinned);
  }
  static void free_twice() {
    const ContextGuard guard(device().context());
    FUSED_ADAMW_CUDA(cuMemFree_v2, allocate());
    FUSED_ADAMW_CUDA(cuMemFree_v2, last_);
  }
  static void copy_beyond_the_end() {
    const ContextGuard guard(device().context());
    const char bytes[kBytes] = {};
    FUSED_ADAMW_CUDA(cuMemcpyHtoDAsync_v2, allocate() + 1, bytes, kBytes, nullptr);
  }
  static void call_without_a_context() { allocate(); }
  static void pop_too_often() {
    ContextHandle context;
    FUSED_ADAMW_CUDA(cuCtxPopCurrent_v2, &context);
  }
  static void use_an_event_that_is_gone() {
    const ContextGuard guard(device().context());
    EventHandle event = nullptr;
    FUSED_ADAMW_CUDA(cuEventCreate, &event, kDisableTiming);
    FUSED_ADAMW_CUDA(cuEventDestroy_v2, event);
    FUSED_ADAMW_CUDA(cuEventRecord, event, nullptr);
  }
  static void use_a_stream_of_another_context() {
    StreamHandle stream = testing::make_stream(device(), testing::StreamKind::blocking);
    const testing::ForeignContext foreign(0);
    FUSED_ADAMW_CUDA(cuMemsetD8Async, allocate(), 1, kBytes, stream);
  }
  static void call_from_a_host_function() {
    const ContextGuard guard(device().context());
    FUSED_ADAMW_CUDA(cuStreamAddCallback, nullptr, [](StreamHandle, Status, void*) { driver_version(); }, nullptr, 0);
    device().synchronize();
  }
  static void touch_device_memory() {
    const ContextGuard guard(device().context());
    *reinterpret_cast<volatile char*>(allocate()) = 1;
  }
  static void query_an_event_during_a_global_capture() {
    const ContextGuard guard(device().context());
    const Event event;
    StreamHandle stream = testing::make_stream(device(), testing::StreamKind::non_blocking);
    const testing::Capture capture(device(), stream, testing::Capture::kGlobal);
    std::thread([&] {
      FUSED_ADAMW_CUDA(cuCtxPushCurrent_v2, device().context());
      event.state();
    }).join();
  }
  static void allocate_during_a_capture_of_the_same_thread() {
    StreamHandle stream = testing::make_stream(device(), testing::StreamKind::non_blocking);
    const testing::Capture capture(device(), stream, testing::Capture::kThreadLocal);
    FUSED_ADAMW_CUDA(cuCtxPushCurrent_v2, device().context());
    allocate();
  }
  static void use_the_legacy_stream_during_a_capture_of_a_blocking_one() {
    const ContextGuard guard(device().context());
    StreamHandle stream = testing::make_stream(device(), testing::StreamKind::blocking);
    const testing::Capture capture(device(), stream, testing::Capture::kRelaxed);
    FUSED_ADAMW_CUDA(cuMemsetD8Async, allocate(), 1, kBytes, nullptr);
  }

 private:
  static DevicePointer allocate() {
    FUSED_ADAMW_CUDA(cuMemAlloc_v2, &last_, kBytes);
    return last_;
  }
  static inline DevicePointer last_ = 0;
};

TEST_F(StandIn, EndsTheProcessAtMisuse) {
  EXPECT_DEATH(free_memory_in_use(), "cuMemFree of memory that cuMemsetD8Async in a queue still uses");
  EXPECT_DEATH(free_pinned_memory_in_use(), "cuMemFreeHost of memory that cuMemcpyHtoDAsync_v2 in a queue still uses");
  EXPECT_DEATH(free_twice(), "cuMemFree of what is no allocation");
  EXPECT_DEATH(copy_beyond_the_end(), "cuMemcpyHtoDAsync_v2: 4096 bytes at 0x[0-9a-f]+ are not within an allocation");
  EXPECT_DEATH(call_without_a_context(), "cuMemAlloc_v2 without a current context");
  EXPECT_DEATH(pop_too_often(), "cuCtxPopCurrent_v2 without a current context");
  EXPECT_DEATH(use_an_event_that_is_gone(), "cuEventRecord of an event that is not there");
  EXPECT_DEATH(use_a_stream_of_another_context(), "cuMemsetD8Async on a stream of another context");
  EXPECT_DEATH(call_from_a_host_function(), "cuDriverGetVersion was called in a host function");
  EXPECT_DEATH(touch_device_memory(), "");
  EXPECT_DEATH(query_an_event_during_a_global_capture(), "cuEventQuery invalidates the capture of a stream");
  EXPECT_DEATH(allocate_during_a_capture_of_the_same_thread(), "cuMemAlloc_v2 invalidates the capture of a stream");
  EXPECT_DEATH(use_the_legacy_stream_during_a_capture_of_a_blocking_one(),
               "cuMemsetD8Async on the legacy stream while a blocking stream is being captured");
}

TEST_F(StandIn, LetsStreamsWaitForEachOtherOnlyAsCudaDoes) {
  StreamHandle free = testing::make_stream(device(), testing::StreamKind::non_blocking);
  StreamHandle blocking = testing::make_stream(device(), testing::StreamKind::blocking);
  int before_legacy = 0, before_free = 0;
  for (int i = 0; i < 200; ++i) {
    const ContextGuard guard(device().context());
    // The order in which the host functions of three streams ran.
    struct Order {
      int next = 0, of[3] = {};
    } order;
    struct Mark {
      Order& order;
      int stream;
    } marks[] = {{order, 0}, {order, 1}, {order, 2}};
    const StreamCallback note = [](StreamHandle, Status, void* context) {
      const Mark& mark = *static_cast<Mark*>(context);
      mark.order.of[mark.stream] = mark.order.next++;
    };
    FUSED_ADAMW_CUDA(cuStreamAddCallback, nullptr, note, &marks[0], 0);
    FUSED_ADAMW_CUDA(cuStreamAddCallback, blocking, note, &marks[1], 0);
    FUSED_ADAMW_CUDA(cuStreamAddCallback, free, note, &marks[2], 0);
    check(testing::find<Status()>("cuCtxSynchronize")(), "cuCtxSynchronize");
    before_legacy += order.of[1] < order.of[0];
    before_free += order.of[2] < order.of[0];
  }
  EXPECT_EQ(before_legacy, 0) << "a blocking stream did not wait for the legacy one";
  EXPECT_GT(before_free, 0) << "a non-blocking stream always waited";
}

}  // namespace
}  // namespace fused_adamw::cuda
