// Memory of a GPU and page-locked memory of the host.
#pragma once

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

 private:
  Device& device_;
  DevicePointer pointer_;
  size_t bytes_;
  bool owned_;
};

using Memories = std::vector<std::shared_ptr<Memory>>;

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
