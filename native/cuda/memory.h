// Memory of a GPU and page-locked memory of the host.
#pragma once

#include <atomic>
#include <memory>
#include <vector>

#include "driver.h"

namespace fused_adamw::cuda {

class Device;

/// Memory of a device: allocated by us, or at an address from another library.
///
/// Everything that uses it holds a shared_ptr until its work is done, so the
/// last owner may free it. The destructor may run in a finalizer of the garbage
/// collector, so it only queues the memory; the next allocation frees it.
class Memory {
 public:
  Memory(Device& device, DevicePointer pointer, size_t bytes, bool owned);
  ~Memory();
  Memory(const Memory&) = delete;
  Memory& operator=(const Memory&) = delete;

  Device& device() const { return device_; }
  DevicePointer pointer() const { return pointer_; }
  void* address() const { return reinterpret_cast<void*>(pointer_); }
  size_t bytes() const { return bytes_; }

  /// Whether other libraries may use it: then its order with their work on the legacy
  /// default stream is kept.
  bool is_shared() const { return is_shared_; }
  void share() { is_shared_ = true; }

 private:
  Device& device_;
  DevicePointer pointer_;
  size_t bytes_;
  bool owned_;
  std::atomic<bool> is_shared_;
};

using Memories = std::vector<std::shared_ptr<Memory>>;
/// Whether any of some memories shares bytes with any of others. Those of other
/// libraries may be the same under two names.
bool overlap(const Memories& some, const Memories& others);

/// Page-locked memory of the host, which a device copies directly. Its destructor,
/// too, only queues it.
class PinnedMemory {
 public:
  /// Needs a current context.
  PinnedMemory(Device& device, size_t bytes);
  ~PinnedMemory();
  PinnedMemory(const PinnedMemory&) = delete;
  PinnedMemory& operator=(const PinnedMemory&) = delete;

  void* data() const { return data_; }

 private:
  Device& device_;
  void* data_ = nullptr;
};

/// The device whose memory is at an address, and how many bytes of it follow, at
/// least `wanted` if there are so many (SIZE_MAX where the driver does not know).
struct PointerInfo {
  int ordinal;
  size_t bytes;
};
/// Throws std::invalid_argument with what the address is instead.
PointerInfo pointer_info(DevicePointer pointer, size_t wanted);

}  // namespace fused_adamw::cuda
