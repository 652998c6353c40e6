#include "device.h"

#include <algorithm>
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

Device::Device(int ordinal) : ordinal_(ordinal), context_(ordinal), module_(context_) {
  const ContextGuard guard(context());
  FUSED_ADAMW_CUDA(cuStreamCreate, &copy_stream_, kNonBlocking);
}

std::shared_ptr<Memory> Device::allocate(size_t bytes) {
  const ContextGuard guard(context());
  expect_no_capture(nullptr);  // of the zeroing below
  const DevicePointer pointer = allocate_uninitialised(bytes);
  auto memory = std::make_shared<Memory>(*this, pointer, bytes, pointer != 0);
  if (bytes == 0) return memory;
  const std::lock_guard lock(mutex_);
  // Not on the legacy stream, where it would come after the steps so far.
  const auto zeroed = begin_async_copy({memory});
  FUSED_ADAMW_CUDA(cuMemsetD8Async, pointer, 0, bytes, copy_stream_);
  end_async_copy(zeroed, {memory});
  zeroed->make_stream_wait(nullptr);  // for other libraries
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

void Device::expect_stream(StreamHandle stream) const {
  if (!stream) return;
  ContextHandle context = nullptr;
  FUSED_ADAMW_CUDA(cuStreamGetCtx, stream, &context);
  if (context != this->context())
    throw std::invalid_argument("a stream of another context than the primary one of cuda:" + std::to_string(ordinal_));
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

void Device::add_use(Uses& uses, StepMemories memories, std::shared_ptr<Event> after) {
  if (!uses.empty() && uses.back().memories == memories)
    uses.back().after = std::move(after);
  else
    uses.push_back({std::move(memories), std::move(after)});
}

const Device::Use* Device::find_last(const Uses& uses, std::initializer_list<const Memories*> of) {
  // To compare all would take longer than they do: work of this stream that is older is waited for.
  constexpr size_t kMostCompared = 16;
  const Memories* compared[2] = {};  // steps in a row often use the same
  const auto uses_some = [&](const std::shared_ptr<const Memories>& memories, const Memories*& last) {
    if (!memories || memories.get() == last) return false;
    last = memories.get();
    return std::any_of(of.begin(), of.end(), [&](const Memories* each) { return overlap(*memories, *each); });
  };
  size_t count = 0;
  for (auto use = uses.rbegin(); use != uses.rend(); ++use)
    if (++count > kMostCompared || uses_some(use->memories.tensors, compared[0]) ||
        uses_some(use->memories.grads, compared[1]))
      return &*use;
  return nullptr;
}

std::shared_ptr<Event> Device::begin_copy(const Memories& uses) {
  expect_no_capture(nullptr);
  drain();
  auto after = make_event();
  for (const auto& [stream, steps] : on_streams_) steps.back().after->make_stream_wait(nullptr);
  if (const Use* use = find_last(on_copy_stream_, {&uses})) use->after->make_stream_wait(nullptr);
  return after;
}

void Device::end_copy(std::shared_ptr<Event> after, Memories uses) {
  after->record(nullptr);
  copied_ = after;
  add_use(on_legacy_, {std::make_shared<Memories>(std::move(uses)), nullptr}, std::move(after));
}

std::shared_ptr<Event> Device::begin_async_copy(const Memories& uses) {
  const bool is_shared = std::any_of(uses.begin(), uses.end(), [](const auto& memory) { return memory->is_shared(); });
  if (is_shared) expect_no_capture(nullptr);
  drain();
  auto after = make_event();
  if (is_shared) {
    after->record(nullptr);
    after->make_stream_wait(copy_stream_);
  }
  if (const Use* use = find_last(on_legacy_, {&uses})) use->after->make_stream_wait(copy_stream_);
  for (const auto& [stream, steps] : on_streams_)
    if (const Use* use = find_last(steps, {&uses})) use->after->make_stream_wait(copy_stream_);
  return after;
}

void Device::end_async_copy(std::shared_ptr<Event> after, Memories uses) {
  after->record(copy_stream_);
  add_use(on_copy_stream_, {std::make_shared<Memories>(std::move(uses)), nullptr}, std::move(after));
}

void Device::begin_step(StreamHandle stream, const StepMemories& uses) {
  expect_no_capture(stream);
  drain();
  if (stream && copied_ && copied_->state() == Event::State::pending) copied_->make_stream_wait(stream);
  if (const Use* use = find_last(on_copy_stream_, {uses.tensors.get(), uses.grads.get()}))
    use->after->make_stream_wait(stream);
}

void Device::end_step(StreamHandle stream, std::shared_ptr<Event> after, StepMemories uses) {
  unsigned long long id = 0;
  if (stream) FUSED_ADAMW_CUDA(cuStreamGetId, stream, &id);
  add_use(stream ? on_streams_[id] : on_legacy_, std::move(uses), std::move(after));
}

void Device::wait_for(EventHandle event, StreamHandle stream) {
  expect_no_capture(stream);
  // A stream that waits for an event in a capture becomes part of it.
  if (const Status status = driver().cuEventQuery(event); status == kCapturedEvent)
    throw std::runtime_error("Expected an event outside of a capture for event but received one that was captured");
  else if (status != kNotReady)
    check(status, "cuEventQuery");
  for (StreamHandle each : {stream, copy_stream_}) FUSED_ADAMW_CUDA(cuStreamWaitEvent, each, event, 0);
}

void Device::drop_done(Uses& uses) {
  while (!uses.empty()) {
    const Event::State state = uses.front().after->state();
    if (state == Event::State::pending) return;
    if (state == Event::State::captured)
      captured_.push_back(std::make_shared<StepMemories>(std::move(uses.front().memories)));
    uses.pop_front();
  }
}

void Device::drain() {
  drop_done(on_legacy_);
  drop_done(on_copy_stream_);
  for (auto at = on_streams_.begin(); at != on_streams_.end();) {
    drop_done(at->second);
    at = at->second.empty() ? on_streams_.erase(at) : std::next(at);
  }
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

void Device::enable_access_to(Device& peer) {
  const std::lock_guard lock(mutex_);
  if (!reachable_.insert(peer.ordinal()).second) return;
  int can_access = 0;
  FUSED_ADAMW_CUDA(cuDeviceCanAccessPeer, &can_access, context_.device(), peer.context_.device());
  if (!can_access) return;  // the driver copies through the host
  const Status status = driver().cuCtxEnablePeerAccess(peer.context(), 0);
  if (status != kPeerAccessAlreadyEnabled && status != kTooManyPeers) check(status, "cuCtxEnablePeerAccess");
}

std::vector<std::shared_ptr<Event>> Device::work_in_flight() {
  const std::lock_guard lock(mutex_);
  expect_no_capture(nullptr);
  std::vector<std::shared_ptr<Event>> events{make_event(), make_event()};
  events[0]->record(nullptr);       // after the steps on the default stream, too
  events[1]->record(copy_stream_);  // after the functions that copies call at their end
  for (const auto& [stream, steps] : on_streams_) events.push_back(steps.back().after);
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
