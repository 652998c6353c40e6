#include "transfer.h"

#include <cstring>
#include <mutex>

#include "device.h"

namespace fused_adamw::cuda {
namespace {

/// The bytes up to which a copy goes through page-locked memory of ours. Otherwise the driver
/// may wait, spinning, for the stream before it copies, and again after it.
constexpr size_t kMostStaged = 64 * 1024;

/// Puts a copy on the legacy default stream, after the steps so far, and returns
/// the event after it. Needs a current context. Other threads may use the device
/// during the call of `copy`, in which the driver may wait for host memory that is
/// not page-locked.
template <class Copy>
std::shared_ptr<Event> enqueue(Device& device, const Memories& uses, const Copy& copy) {
  auto after = [&] {
    const std::lock_guard lock(device.mutex());
    return device.begin_copy(uses);
  }();
  copy();
  const std::lock_guard lock(device.mutex());
  device.end_copy(after, uses);
  return after;
}

/// After the work so far: blocks, where the driver would spin in a copy.
void wait_for_work(Device& device, const std::shared_ptr<Memory>& memory) {
  enqueue(device, {memory}, [] {})->wait();
}

/// Puts a copy on the stream of asynchronous copies, and calls `done` after it.
template <class Copy>
void start(Device& device, const std::shared_ptr<Memory>& memory, const Copy& copy, StreamCallback done,
           void* context) {
  auto after = [&] {
    const std::lock_guard lock(device.mutex());
    return device.begin_async_copy({memory});
  }();
  copy(device.copy_stream());
  {
    const std::lock_guard lock(device.mutex());
    device.end_async_copy(after, {memory});
  }
  // Not cuLaunchHostFunc, whose functions are never called once a device failed.
  const Status status = driver().cuStreamAddCallback(device.copy_stream(), done, context, 0);
  // Whoever gets the error lets go of the host's memory.
  if (status != kSuccess) after->wait();
  check(status, "cuStreamAddCallback");
}

void copy_within(Device& device, const std::shared_ptr<Memory>& to, const std::shared_ptr<Memory>& from, size_t bytes,
                 size_t to_offset, size_t from_offset) {
  const ContextGuard guard(device.context());
  enqueue(device, {to, from}, [&] {
    FUSED_ADAMW_CUDA(cuMemcpyDtoDAsync_v2, to->pointer() + to_offset, from->pointer() + from_offset, bytes, nullptr);
  });
}

void copy_between(Device& target, const std::shared_ptr<Memory>& to, Device& source,
                  const std::shared_ptr<Memory>& from, size_t bytes, size_t to_offset, size_t from_offset) {
  const ContextGuard guard(target.context());
  const auto source_ready = [&] {
    const ContextGuard source_guard(source.context());
    return enqueue(source, {from}, [] {});
  }();
  const auto copied = enqueue(target, {to, from}, [&] {
    target.enable_access_to(source);
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
  const auto copy = [&](const void* source) {
    return enqueue(device, {to},
                   [&] { FUSED_ADAMW_CUDA(cuMemcpyHtoDAsync_v2, to->pointer() + offset, source, bytes, nullptr); });
  };
  if (bytes <= kMostStaged) {
    const auto staged = device.allocate_staging(bytes);
    std::memcpy(staged->data(), from, bytes);
    device.retire(staged, copy(staged->data()));
  } else {
    wait_for_work(device, to);
    copy(from)->wait();
  }
}

void copy_to_host(void* to, const std::shared_ptr<Memory>& from, size_t offset, size_t bytes) {
  if (bytes == 0) return;
  Device& device = from->device();
  const ContextGuard guard(device.context());
  const auto copy = [&](void* target) {
    return enqueue(device, {from},
                   [&] { FUSED_ADAMW_CUDA(cuMemcpyDtoHAsync_v2, target, from->pointer() + offset, bytes, nullptr); });
  };
  if (bytes <= kMostStaged) {
    const auto staged = device.allocate_staging(bytes);
    const auto copied = copy(staged->data());
    device.retire(staged, copied);
    copied->wait();
    std::memcpy(to, staged->data(), bytes);
  } else {
    wait_for_work(device, from);
    copy(to)->wait();
  }
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
  const auto copy = [&](StreamHandle stream) {
    if (bytes > 0) FUSED_ADAMW_CUDA(cuMemcpyHtoDAsync_v2, to->pointer() + offset, from, bytes, stream);
  };
  start(device, to, copy, done, context);
}

void start_copy_to_host(void* to, const std::shared_ptr<Memory>& from, size_t bytes, StreamCallback done, void* context,
                        size_t offset) {
  Device& device = from->device();
  const ContextGuard guard(device.context());
  const auto copy = [&](StreamHandle stream) {
    if (bytes > 0) FUSED_ADAMW_CUDA(cuMemcpyDtoHAsync_v2, to, from->pointer() + offset, bytes, stream);
  };
  start(device, from, copy, done, context);
}

}  // namespace fused_adamw::cuda
