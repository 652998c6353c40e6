#include "transfer.h"

#include <mutex>

#include "device.h"

namespace fused_adamw::cuda {
namespace {

/// Puts a copy on the legacy default stream, after the steps so far, and returns
/// the event after it. Needs a current context. Other threads may use the device
/// during the call of `copy`, in which the driver may wait for host memory that is
/// not page-locked.
template <class Copy>
std::shared_ptr<Event> enqueue(Device& device, std::shared_ptr<void> uses, const Copy& copy) {
  auto after = [&] {
    const std::lock_guard lock(device.mutex());
    return device.begin_copy();
  }();
  copy();
  const std::lock_guard lock(device.mutex());
  device.end_copy(after, std::move(uses));
  return after;
}

/// After the work so far: blocks, where the driver would spin in a copy.
void wait_for_work(Device& device) {
  enqueue(device, nullptr, [] {})->wait();
}

/// Calls `done` after the copies; if that is impossible, waits for the last of
/// them, since whoever gets the error lets go of the host's memory.
void call_after(const Event& copied, StreamCallback done, void* context) {
  // Not cuLaunchHostFunc, whose functions are never called once a device failed.
  const Status status = driver().cuStreamAddCallback(nullptr, done, context, 0);
  if (status != kSuccess) copied.wait();
  check(status, "cuStreamAddCallback");
}

void copy_within(Device& device, const std::shared_ptr<Memory>& to, const std::shared_ptr<Memory>& from, size_t bytes,
                 size_t to_offset, size_t from_offset) {
  const ContextGuard guard(device.context());
  enqueue(device, std::make_shared<Memories>(Memories{to, from}), [&] {
    FUSED_ADAMW_CUDA(cuMemcpyDtoDAsync_v2, to->pointer() + to_offset, from->pointer() + from_offset, bytes, nullptr);
  });
}

void copy_between(Device& target, const std::shared_ptr<Memory>& to, Device& source,
                  const std::shared_ptr<Memory>& from, size_t bytes, size_t to_offset, size_t from_offset) {
  const ContextGuard guard(target.context());
  const auto source_ready = [&] {
    const ContextGuard source_guard(source.context());
    return enqueue(source, from, [] {});
  }();
  const auto copied = enqueue(target, std::make_shared<Memories>(Memories{to, from}), [&] {
    source_ready->make_stream_wait(nullptr);
    FUSED_ADAMW_CUDA(cuMemcpyPeerAsync, to->pointer() + to_offset, target.context(), from->pointer() + from_offset,
                     source.context(), bytes, nullptr);
  });
  copied->wait();  // before the source may be written again
}

}  // namespace

void copy_from_host(const std::shared_ptr<Memory>& to, size_t offset, const void* from, size_t bytes) {
  if (bytes == 0) return;
  Device& device = to->device();
  const ContextGuard guard(device.context());
  wait_for_work(device);
  const auto copied = enqueue(
      device, to, [&] { FUSED_ADAMW_CUDA(cuMemcpyHtoDAsync_v2, to->pointer() + offset, from, bytes, nullptr); });
  copied->wait();
}

void copy_to_host(void* to, const std::shared_ptr<Memory>& from, size_t offset, size_t bytes) {
  if (bytes == 0) return;
  Device& device = from->device();
  const ContextGuard guard(device.context());
  wait_for_work(device);
  const auto copied = enqueue(
      device, from, [&] { FUSED_ADAMW_CUDA(cuMemcpyDtoHAsync_v2, to, from->pointer() + offset, bytes, nullptr); });
  copied->wait();
}

void copy_memory(const std::shared_ptr<Memory>& to, const std::shared_ptr<Memory>& from, size_t bytes, size_t to_offset,
                 size_t from_offset) {
  if (bytes == 0) return;
  Device &target = to->device(), &source = from->device();
  if (&target == &source)
    copy_within(target, to, from, bytes, to_offset, from_offset);
  else
    copy_between(target, to, source, from, bytes, to_offset, from_offset);
}

void start_copy_from_host(const std::shared_ptr<Memory>& to, const void* from, size_t bytes, StreamCallback done,
                          void* context, size_t offset) {
  Device& device = to->device();
  const ContextGuard guard(device.context());
  const auto copied = enqueue(device, to, [&] {
    if (bytes > 0) FUSED_ADAMW_CUDA(cuMemcpyHtoDAsync_v2, to->pointer() + offset, from, bytes, nullptr);
  });
  call_after(*copied, done, context);
}

void start_copy_to_host(void* to, const std::shared_ptr<Memory>& from, size_t bytes, StreamCallback done, void* context,
                        size_t offset) {
  Device& device = from->device();
  const ContextGuard guard(device.context());
  const auto copied = enqueue(device, from, [&] {
    if (bytes > 0) FUSED_ADAMW_CUDA(cuMemcpyDtoHAsync_v2, to, from->pointer() + offset, bytes, nullptr);
  });
  call_after(*copied, done, context);
}

}  // namespace fused_adamw::cuda
