#include "device.h"

#include <iterator>

namespace fused_adamw::cuda {
namespace {

/// A graph would replay one step with the same scalars and addresses, and a copy
/// with memory that is gone.
void expect_no_capture(StreamHandle stream) {
  int capture = kNotCapturing;
  const Status status = driver().cuStreamIsCapturing(stream, &capture);
  if (status == kCaptureImplicit)
    throw std::runtime_error(
        "Expected no capture of a blocking stream during work on the legacy default stream but found one: end it "
        "first, or capture a non-blocking stream");
  check(status, "cuStreamIsCapturing");
  if (capture != kNotCapturing)
    throw std::runtime_error(
        "Expected a stream that is not being captured for stream but received one that is: a graph would repeat the "
        "step with the same scalars");
}

/// Powers of two, so that tables of similar sizes can take each other's place.
size_t size_in_pool(size_t bytes) {
  size_t size = 4096;
  while (size < bytes) size *= 2;
  return size;
}

/// The devices of the process, and why others cannot be used. Never destroyed, nor
/// are the devices, which outlive all users.
struct Registry {
  std::mutex mutex;
  std::map<int, Device*> devices;
  std::map<int, std::string> reasons;
};
Registry& registry() {
  static Registry& instance = *new Registry;
  return instance;
}

}  // namespace

int driver_version() {
  int version = 0;
  FUSED_ADAMW_CUDA(cuDriverGetVersion, &version);
  return version;
}

int device_count() {
  int count = 0;
  FUSED_ADAMW_CUDA(cuDeviceGetCount, &count);
  return count;
}

DeviceInfo device_info(int ordinal) {
  DeviceHandle device;
  char name[256] = "";
  DeviceInfo info;
  FUSED_ADAMW_CUDA(cuDeviceGet, &device, ordinal);
  FUSED_ADAMW_CUDA(cuDeviceGetName, name, sizeof name, device);
  FUSED_ADAMW_CUDA(cuDeviceGetAttribute, &info.major, kComputeCapabilityMajor, device);
  FUSED_ADAMW_CUDA(cuDeviceGetAttribute, &info.minor, kComputeCapabilityMinor, device);
  FUSED_ADAMW_CUDA(cuDeviceTotalMem_v2, &info.bytes, device);
  info.name = name;
  return info;
}

Device& Device::get(int ordinal) {
  auto& [mutex, devices, reasons] = registry();
  const std::lock_guard lock(mutex);
  if (const auto found = devices.find(ordinal); found != devices.end()) return *found->second;
  if (const auto found = reasons.find(ordinal); found != reasons.end()) throw Unavailable(found->second);
  try {
    const int count = device_count();
    if (count == 0) throw Unavailable(kThereIsNoDevice);
    if (ordinal < 0 || ordinal >= count)
      throw Unavailable("there is no device cuda:" + std::to_string(ordinal) +
                        ", the last is cuda:" + std::to_string(count - 1));
    Device* device = new Device(ordinal);
    return *(devices[ordinal] = device);
  } catch (const std::runtime_error& error) {
    reasons[ordinal] = error.what();
    throw Unavailable(error.what());
  }
}

Device* Device::in_use() {
  auto& [mutex, devices, reasons] = registry();
  const std::lock_guard lock(mutex);
  return devices.empty() ? nullptr : devices.begin()->second;
}

Device::Device(int ordinal) : ordinal_(ordinal), context_(ordinal), module_(context_) {}

std::shared_ptr<Memory> Device::allocate(size_t bytes) {
  const ContextGuard guard(context());
  expect_no_capture(nullptr);  // of the zeroing below
  const DevicePointer pointer = allocate_uninitialised(bytes);
  auto memory = std::make_shared<Memory>(*this, pointer, bytes, pointer != 0);
  if (bytes == 0) return memory;
  const std::lock_guard lock(mutex_);
  auto zeroed = make_event();
  FUSED_ADAMW_CUDA(cuMemsetD8Async, pointer, 0, bytes, nullptr);
  end_copy(std::move(zeroed), memory);
  return memory;
}

std::shared_ptr<Memory> Device::allocate_table(size_t bytes) {
  const ContextGuard guard(context());
  const size_t size = size_in_pool(bytes);
  return tables_.take(size, [&] { return std::make_unique<Memory>(*this, allocate_uninitialised(size), size, true); });
}

std::unique_ptr<PinnedMemory> Device::allocate_pinned(size_t bytes) {
  const ContextGuard guard(context());
  free_released();
  return std::make_unique<PinnedMemory>(*this, bytes);
}

std::shared_ptr<PinnedMemory> Device::allocate_staging(size_t bytes) {
  const size_t size = size_in_pool(bytes);
  return staging_.take(size, [&] { return std::make_unique<PinnedMemory>(*this, size); });
}

std::shared_ptr<Event> Device::make_event() const {
  return events_.take(0, [] { return std::make_unique<Event>(); });
}

/// 0 of 0 bytes.
DevicePointer Device::allocate_uninitialised(size_t bytes) {
  {
    const std::lock_guard lock(mutex_);
    drain();
  }
  free_released();
  DevicePointer pointer = 0;
  if (bytes == 0) return pointer;
  Status status = driver().cuMemAlloc_v2(&pointer, bytes);
  if (status == kOutOfMemory) {
    synchronize();
    trim();
    status = driver().cuMemAlloc_v2(&pointer, bytes);
  }
  check(status, "cuMemAlloc");
  return pointer;
}

std::shared_ptr<Event> Device::begin_copy() {
  expect_no_capture(nullptr);
  drain();
  auto after = make_event();
  for (const auto& [stream, event] : stepped_) event->make_stream_wait(nullptr);
  return after;
}

void Device::end_copy(std::shared_ptr<Event> after, std::shared_ptr<void> uses) {
  after->record(nullptr);
  copied_ = after;
  retire(std::move(uses), std::move(after));
}

void Device::begin_step(StreamHandle stream) {
  expect_no_capture(stream);
  drain();
  if (stream && copied_ && copied_->state() == Event::State::pending) copied_->make_stream_wait(stream);
}

void Device::end_step(StreamHandle stream, std::shared_ptr<Event> after) {
  if (!stream) return;
  unsigned long long id = 0;
  FUSED_ADAMW_CUDA(cuStreamGetId, stream, &id);
  stepped_[id] = std::move(after);
}

void Device::drain() {
  for (auto at = stepped_.begin(); at != stepped_.end();)
    at = at->second->state() == Event::State::pending ? std::next(at) : stepped_.erase(at);
  for (;;) {
    std::shared_ptr<Event> after;
    {
      const std::lock_guard lock(queue_mutex_);
      if (retired_.empty()) break;
      after = retired_.front().after;
    }
    const Event::State state = after ? after->state() : Event::State::done;
    if (state == Event::State::pending) break;
    Retired first;  // destroyed at the end of the block, after the lock; that may release memory
    const std::lock_guard lock(queue_mutex_);
    first = std::move(retired_.front());
    retired_.pop_front();
    if (state == Event::State::captured) captured_.push_back(std::move(first.things));
  }
}

void Device::retire(std::shared_ptr<void> things, std::shared_ptr<Event> after) {
  const std::lock_guard lock(queue_mutex_);
  retired_.push_back({std::move(things), std::move(after)});
}

void Device::release(DevicePointer pointer) {
  const std::lock_guard lock(queue_mutex_);
  released_.push_back(pointer);
}

void Device::release(void* pinned) {
  const std::lock_guard lock(queue_mutex_);
  released_pinned_.push_back(pinned);
}

void Device::free_released() {
  std::vector<DevicePointer> pointers;
  std::vector<void*> pinned;
  {
    const std::lock_guard lock(queue_mutex_);
    pointers.swap(released_);
    pinned.swap(released_pinned_);
  }
  for (const DevicePointer pointer : pointers) FUSED_ADAMW_CUDA(cuMemFree_v2, pointer);
  for (void* pointer : pinned) FUSED_ADAMW_CUDA(cuMemFreeHost, pointer);
}

void Device::trim() {
  const ContextGuard guard(context());
  events_.clear();
  tables_.clear();
  staging_.clear();
  free_released();
}

std::vector<std::shared_ptr<Event>> Device::work_in_flight() {
  const std::lock_guard lock(mutex_);
  expect_no_capture(nullptr);
  std::vector<std::shared_ptr<Event>> events{make_event()};
  events.front()->record(nullptr);  // after the steps on the default stream, too
  for (const auto& [stream, event] : stepped_) events.push_back(event);
  const std::lock_guard queue_lock(queue_mutex_);
  for (const Retired& retired : retired_)
    if (retired.after) events.push_back(retired.after);
  return events;
}

void Device::synchronize() {
  const ContextGuard guard(context());
  for (const auto& event : work_in_flight()) event->wait();
  {
    const std::lock_guard lock(mutex_);
    drain();
  }
  free_released();
}

}  // namespace fused_adamw::cuda
