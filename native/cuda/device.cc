#include "device.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <fstream>
#include <iterator>

#include "kernels.h"
#include "work.h"

namespace fused_adamw::cuda {
namespace {

/// Every JavaScript thread sets them, also while another makes a device ready.
struct DeviceCode {
  std::mutex mutex;
  std::vector<std::string> paths;
};
DeviceCode& device_code() {
  static DeviceCode& instance = *new DeviceCode;
  return instance;
}
std::vector<std::string> device_code_paths() {
  const std::lock_guard lock(device_code().mutex);
  return device_code().paths;
}

/// The file as it is, and a zero after it: PTX is text.
std::string read_file(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  if (!file) throw Unavailable("there is no device code at " + path);
  return {std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
}

/// A file of machine code says in its header how long it is; the driver reads
/// that far.
void check_whole(const std::string& image, const std::string& path) {
  constexpr uint32_t kMagic = 0xba55ed50;
  struct Header {
    uint32_t magic;
    uint16_t version, header_bytes;
    uint64_t bytes;
  } header;
  if (image.size() < sizeof header) throw Unavailable("the device code at " + path + " is truncated");
  std::memcpy(&header, image.data(), sizeof header);
  if (header.magic == kMagic && header.header_bytes + header.bytes > image.size())
    throw Unavailable("the device code at " + path + " is truncated");
}

}  // namespace

PrimaryContext::PrimaryContext(int ordinal) {
  FUSED_ADAMW_CUDA(cuDeviceGet, &device_, ordinal);
  FUSED_ADAMW_CUDA(cuDevicePrimaryCtxRetain, &handle_, device_);
}
PrimaryContext::~PrimaryContext() { driver().cuDevicePrimaryCtxRelease_v2(device_); }

Current::Current(const Device& device) { FUSED_ADAMW_CUDA(cuCtxPushCurrent_v2, device.context()); }
Current::~Current() {
  ContextHandle popped;
  driver().cuCtxPopCurrent_v2(&popped);
}

Event::Event() { FUSED_ADAMW_CUDA(cuEventCreate, &handle_, kBlockingSync | kDisableTiming); }
Event::~Event() { driver().cuEventDestroy_v2(handle_); }
void Event::record(StreamHandle stream) { FUSED_ADAMW_CUDA(cuEventRecord, handle_, stream); }
bool Event::is_done() const {
  const Status status = driver().cuEventQuery(handle_);
  if (status == kNotReady) return false;
  check(status, "cuEventQuery");
  return true;
}
void Event::wait() const { FUSED_ADAMW_CUDA(cuEventSynchronize, handle_); }
void Event::hold_back(StreamHandle stream) const { FUSED_ADAMW_CUDA(cuStreamWaitEvent, stream, handle_, 0); }

Memory::Memory(Device& device, DevicePointer pointer, size_t bytes, bool owned)
    : device_(device), pointer_(pointer), bytes_(bytes), owned_(owned) {}
Memory::~Memory() {
  if (!owned_) return;
  const std::lock_guard lock(device_.queue_mutex_);
  device_.released_.push_back(pointer_);
}

PinnedMemory::PinnedMemory(size_t bytes) { FUSED_ADAMW_CUDA(cuMemHostAlloc, &data_, bytes, kPortable); }
PinnedMemory::~PinnedMemory() { driver().cuMemFreeHost(data_); }

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

void set_device_code(std::vector<std::string> paths) {
  const std::lock_guard lock(device_code().mutex);
  device_code().paths = std::move(paths);
}

PointerInfo pointer_info(DevicePointer pointer) {
  ContextHandle context = nullptr;
  unsigned type = 0;
  int ordinal = -1;
  DevicePointer start = 0;
  size_t bytes = 0;
  int attributes[] = {kPointerContext, kPointerMemoryType, kPointerDeviceOrdinal, kPointerRangeStart,
                      kPointerRangeSize};
  void* values[] = {&context, &type, &ordinal, &start, &bytes};
  // What the driver does not know of an address stays 0.
  FUSED_ADAMW_CUDA(cuPointerGetAttributes, std::size(attributes), attributes, values, pointer);
  if (type != kDeviceMemory || ordinal < 0) throw std::invalid_argument("an address of no device");
  // Memory of a pool belongs to no context.
  if (context && context != Device::get(ordinal).context())
    throw std::invalid_argument("an address of another context than the primary one of cuda:" +
                                std::to_string(ordinal));
  return {ordinal, bytes == 0 ? SIZE_MAX : static_cast<size_t>(start + bytes - pointer)};
}

Device& Device::get(int ordinal) {
  static std::mutex& mutex = *new std::mutex;
  static auto& devices = *new std::map<int, std::unique_ptr<Device>>;  // outlives all users, to the end of the process
  static auto& reasons = *new std::map<int, std::string>;
  const std::lock_guard lock(mutex);
  if (const auto found = devices.find(ordinal); found != devices.end()) return *found->second;
  if (const auto found = reasons.find(ordinal); found != reasons.end()) throw Unavailable(found->second);
  try {
    const int count = device_count();
    if (count == 0) throw Unavailable(kThereIsNoDevice);
    if (ordinal < 0 || ordinal >= count)
      throw Unavailable("there is no device cuda:" + std::to_string(ordinal) +
                        ", the last is cuda:" + std::to_string(count - 1));
    std::unique_ptr<Device> device(new Device(ordinal));
    return *(devices[ordinal] = std::move(device));
  } catch (const std::runtime_error& error) {
    reasons[ordinal] = error.what();
    throw Unavailable(error.what());
  }
}

Device::Device(int ordinal) : ordinal_(ordinal), context_(ordinal) {
  const Current current(*this);
  load_kernels();
}

void Device::load_kernels() {
  std::string reasons;
  const std::vector<std::string> paths = device_code_paths();
  if (paths.empty()) reasons = "the package carries none";
  ModuleHandle module = nullptr;
  for (const std::string& path : paths) {
    try {
      const std::string image = read_file(path);
      check_whole(image, path);
      FUSED_ADAMW_CUDA(cuModuleLoadData, &module, image.c_str());
      break;
    } catch (const std::runtime_error& error) {
      reasons += (reasons.empty() ? "" : "; ") + std::string(error.what());
    }
  }
  if (!module) throw Unavailable("no device code is usable: " + reasons);

  int multiprocessors = 0;
  FUSED_ADAMW_CUDA(cuDeviceGetAttribute, &multiprocessors, kMultiprocessorCount, context_.device());
  for (int i = 0; i < kKernels; ++i) {
    int blocks = 0;
    const std::string name = kernel_name(rule_of_kernel(i), config_of_kernel(i));
    FUSED_ADAMW_CUDA(cuModuleGetFunction, &kernels_[i].function, module, name.c_str());
    FUSED_ADAMW_CUDA(cuOccupancyMaxActiveBlocksPerMultiprocessor, &blocks, kernels_[i].function, kBlock, 0);
    kernels_[i].resident_blocks = static_cast<unsigned>(std::max(1, blocks) * multiprocessors);
  }
}

std::shared_ptr<Memory> Device::allocate(size_t bytes) {
  const std::lock_guard lock(mutex_);
  const Current current(*this);
  drain();
  DevicePointer pointer = 0;
  if (bytes == 0) return std::make_shared<Memory>(*this, pointer, bytes, false);
  Status status = driver().cuMemAlloc_v2(&pointer, bytes);
  if (status == kOutOfMemory) {
    wait_for_everything();
    status = driver().cuMemAlloc_v2(&pointer, bytes);
  }
  check(status, "cuMemAlloc");
  auto memory = std::make_shared<Memory>(*this, pointer, bytes, true);
  FUSED_ADAMW_CUDA(cuMemsetD8Async, pointer, 0, bytes, nullptr);
  end_copy(memory);
  return memory;
}

void Device::begin_copy() {
  drain();
  for (const auto& [stream, event] : stepped_) event->hold_back(nullptr);
}

void Device::end_copy(std::shared_ptr<void> uses) {
  copied_ = std::make_shared<Event>();
  copied_->record(nullptr);
  retire(std::move(uses), copied_);
}

void Device::wait_for_work() {
  begin_copy();
  end_copy(nullptr);
  copied_->wait();
}

void Device::copy_from_host(const std::shared_ptr<Memory>& to, size_t offset, const void* from, size_t bytes) {
  if (bytes == 0) return;
  const std::lock_guard lock(mutex_);
  const Current current(*this);
  wait_for_work();
  FUSED_ADAMW_CUDA(cuMemcpyHtoDAsync_v2, to->pointer() + offset, from, bytes, nullptr);
  end_copy(to);
  copied_->wait();
}

void Device::copy_to_host(void* to, const std::shared_ptr<Memory>& from, size_t offset, size_t bytes) {
  if (bytes == 0) return;
  const std::lock_guard lock(mutex_);
  const Current current(*this);
  wait_for_work();
  FUSED_ADAMW_CUDA(cuMemcpyDtoHAsync_v2, to, from->pointer() + offset, bytes, nullptr);
  end_copy(from);
  copied_->wait();
}

void Device::copy(const std::shared_ptr<Memory>& to, const std::shared_ptr<Memory>& from, size_t bytes,
                  size_t to_offset, size_t from_offset) {
  if (bytes == 0) return;
  Device& source = from->device();
  const bool within = &source == this;
  std::unique_lock lock(mutex_, std::defer_lock), source_lock(source.mutex_, std::defer_lock);
  if (within)
    lock.lock();
  else
    std::lock(lock, source_lock);
  std::shared_ptr<Event> source_ready;
  if (!within) {
    const Current current(source);
    source.begin_copy();
    source.end_copy(from);
    source_ready = source.copied_;
  }
  const Current current(*this);
  begin_copy();
  if (within) {
    FUSED_ADAMW_CUDA(cuMemcpyDtoDAsync_v2, to->pointer() + to_offset, from->pointer() + from_offset, bytes, nullptr);
  } else {
    source_ready->hold_back(nullptr);
    FUSED_ADAMW_CUDA(cuMemcpyPeerAsync, to->pointer() + to_offset, context(), from->pointer() + from_offset,
                     source.context(), bytes, nullptr);
  }
  end_copy(std::make_shared<std::array<std::shared_ptr<Memory>, 2>>(std::array{to, from}));
  if (!within) copied_->wait();  // before the source may be written again
}

void Device::start_copy_from_host(const std::shared_ptr<Memory>& to, const void* from, size_t bytes,
                                  StreamCallback done, void* context, size_t offset) {
  const std::lock_guard lock(mutex_);
  const Current current(*this);
  begin_copy();
  if (bytes > 0) FUSED_ADAMW_CUDA(cuMemcpyHtoDAsync_v2, to->pointer() + offset, from, bytes, nullptr);
  end_copy(to);
  call_after_copies(done, context);
}

void Device::start_copy_to_host(void* to, const std::shared_ptr<Memory>& from, size_t bytes, StreamCallback done,
                                void* context, size_t offset) {
  const std::lock_guard lock(mutex_);
  const Current current(*this);
  begin_copy();
  if (bytes > 0) FUSED_ADAMW_CUDA(cuMemcpyDtoHAsync_v2, to, from->pointer() + offset, bytes, nullptr);
  end_copy(from);
  call_after_copies(done, context);
}

void Device::call_after_copies(StreamCallback done, void* context) {
  // Not cuLaunchHostFunc, whose functions are never called once a device failed.
  const Status status = driver().cuStreamAddCallback(nullptr, done, context, 0);
  if (status != kSuccess) copied_->wait();  // whoever gets the error lets go of the host's memory
  check(status, "cuStreamAddCallback");
}

void Device::begin_step(StreamHandle stream) {
  drain();
  if (stream && copied_ && !copied_->is_done()) copied_->hold_back(stream);
}

void Device::end_step(StreamHandle stream, std::shared_ptr<Event> after) {
  if (stream) stepped_[stream] = std::move(after);
}

void Device::retire(std::shared_ptr<void> things, std::shared_ptr<Event> after) {
  const std::lock_guard lock(queue_mutex_);
  retired_.push_back({std::move(things), std::move(after)});
}

void Device::drain() {
  for (auto at = stepped_.begin(); at != stepped_.end();)
    at = at->second->is_done() ? stepped_.erase(at) : std::next(at);
  for (;;) {
    std::shared_ptr<Event> after;
    {
      const std::lock_guard lock(queue_mutex_);
      if (retired_.empty()) break;
      after = retired_.front().after;
    }
    if (after && !after->is_done()) break;
    Retired first;  // goes at the end of the block, and may release memory
    const std::lock_guard lock(queue_mutex_);
    first = std::move(retired_.front());
    retired_.pop_front();
  }
  free_released();
}

void Device::free_released() {
  std::vector<DevicePointer> pointers;
  {
    const std::lock_guard lock(queue_mutex_);
    pointers.swap(released_);
  }
  for (const DevicePointer pointer : pointers) FUSED_ADAMW_CUDA(cuMemFree_v2, pointer);
}

void Device::wait_for_everything() {
  for (const auto& [stream, event] : stepped_) event->wait();
  std::vector<std::shared_ptr<Event>> events;
  {
    const std::lock_guard lock(queue_mutex_);
    for (const Retired& retired : retired_)
      if (retired.after) events.push_back(retired.after);
  }
  for (const auto& event : events) event->wait();
  drain();
}

void Device::synchronize() {
  const std::lock_guard lock(mutex_);
  const Current current(*this);
  const auto now = std::make_shared<Event>();  // steps on the default stream, too
  now->record(nullptr);
  now->wait();
  wait_for_everything();
}

}  // namespace fused_adamw::cuda
