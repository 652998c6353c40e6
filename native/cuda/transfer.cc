#include "transfer.h"

#include <mutex>

#include "device.h"

namespace fused_adamw::cuda {
namespace {

/// Waits for all work before a copy with the host's memory, in which the driver would spin.
void wait_for_work(Device& device) {
  device.begin_copy();
  device.end_copy(nullptr)->wait();
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
  const std::lock_guard lock(device.mutex());
  const ContextGuard guard(device.context());
  device.begin_copy();
  FUSED_ADAMW_CUDA(cuMemcpyDtoDAsync_v2, to->pointer() + to_offset, from->pointer() + from_offset, bytes, nullptr);
  device.end_copy(std::make_shared<Memories>(Memories{to, from}));
}

void copy_between(Device& target, const std::shared_ptr<Memory>& to, Device& source,
                  const std::shared_ptr<Memory>& from, size_t bytes, size_t to_offset, size_t from_offset) {
  const std::scoped_lock lock(target.mutex(), source.mutex());
  std::shared_ptr<Event> source_ready;
  {
    const ContextGuard guard(source.context());
    source.begin_copy();
    source_ready = source.end_copy(from);
  }
  const ContextGuard guard(target.context());
  target.begin_copy();
  source_ready->make_stream_wait(nullptr);
  FUSED_ADAMW_CUDA(cuMemcpyPeerAsync, to->pointer() + to_offset, target.context(), from->pointer() + from_offset,
                   source.context(), bytes, nullptr);
  // Before the source may be written again.
  target.end_copy(std::make_shared<Memories>(Memories{to, from}))->wait();
}

}  // namespace

void copy_from_host(const std::shared_ptr<Memory>& to, size_t offset, const void* from, size_t bytes) {
  if (bytes == 0) return;
  Device& device = to->device();
  const std::lock_guard lock(device.mutex());
  const ContextGuard guard(device.context());
  wait_for_work(device);
  FUSED_ADAMW_CUDA(cuMemcpyHtoDAsync_v2, to->pointer() + offset, from, bytes, nullptr);
  device.end_copy(to)->wait();
}

void copy_to_host(void* to, const std::shared_ptr<Memory>& from, size_t offset, size_t bytes) {
  if (bytes == 0) return;
  Device& device = from->device();
  const std::lock_guard lock(device.mutex());
  const ContextGuard guard(device.context());
  wait_for_work(device);
  FUSED_ADAMW_CUDA(cuMemcpyDtoHAsync_v2, to, from->pointer() + offset, bytes, nullptr);
  device.end_copy(from)->wait();
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
  const std::lock_guard lock(device.mutex());
  const ContextGuard guard(device.context());
  device.begin_copy();
  if (bytes > 0) FUSED_ADAMW_CUDA(cuMemcpyHtoDAsync_v2, to->pointer() + offset, from, bytes, nullptr);
  call_after(*device.end_copy(to), done, context);
}

void start_copy_to_host(void* to, const std::shared_ptr<Memory>& from, size_t bytes, StreamCallback done, void* context,
                        size_t offset) {
  Device& device = from->device();
  const std::lock_guard lock(device.mutex());
  const ContextGuard guard(device.context());
  device.begin_copy();
  if (bytes > 0) FUSED_ADAMW_CUDA(cuMemcpyDtoHAsync_v2, to, from->pointer() + offset, bytes, nullptr);
  call_after(*device.end_copy(from), done, context);
}

}  // namespace fused_adamw::cuda
