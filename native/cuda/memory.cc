#include "memory.h"

#include <algorithm>
#include <iterator>

#include "device.h"

namespace fused_adamw::cuda {

Memory::Memory(Device& device, DevicePointer pointer, size_t bytes, bool owned)
    : device_(device), pointer_(pointer), bytes_(bytes), owned_(owned), is_shared_(!owned) {}
Memory::~Memory() {
  if (owned_) device_.release(pointer_);
}

bool overlap(const Memories& some, const Memories& others) {
  for (const auto& a : some)
    for (const auto& b : others)
      if (a->pointer() < b->pointer() + b->bytes() && b->pointer() < a->pointer() + a->bytes()) return true;
  return false;
}

PinnedMemory::PinnedMemory(Device& device, size_t bytes) : device_(device) {
  FUSED_ADAMW_CUDA(cuMemHostAlloc, &data_, bytes, kPortable);
}
PinnedMemory::~PinnedMemory() { device_.release(data_); }

namespace {

/// The bytes from an address on that memory is mapped to, or at least `wanted` of
/// them. A range of addresses may be reserved as a whole and mapped in chunks.
size_t mapped_bytes(DevicePointer pointer, size_t wanted) {
  DevicePointer end = pointer;
  while (end - pointer < wanted) {
    DevicePointer start = 0;
    size_t bytes = 0;
    if (driver().cuMemGetAddressRange_v2(&start, &bytes, end) != kSuccess || start + bytes <= end) break;
    end = start + bytes;
  }
  return end - pointer;
}

}  // namespace

PointerInfo pointer_info(DevicePointer pointer, size_t wanted) {
  ContextHandle context = nullptr;
  unsigned type = 0, is_mapped = 0, is_managed = 0;
  int ordinal = -1;
  DevicePointer start = 0;
  size_t bytes = 0;
  int attributes[] = {kPointerContext,    kPointerMemoryType, kPointerIsManaged, kPointerDeviceOrdinal,
                      kPointerRangeStart, kPointerRangeSize,  kPointerMapped};
  void* values[] = {&context, &type, &is_managed, &ordinal, &start, &bytes, &is_mapped};
  // What the driver does not know of an address stays 0.
  FUSED_ADAMW_CUDA(cuPointerGetAttributes, std::size(attributes), attributes, values, pointer);
  // Managed memory may be of the type of the host, and belongs to the device that it was allocated for.
  if ((type != kDeviceMemory && !is_managed) || ordinal < 0) throw std::invalid_argument("an address of no device");
  const Device& device = Device::get(ordinal);
  // Memory of a pool belongs to no context.
  if (context && context != device.context())
    throw std::invalid_argument("an address of another context than the primary one of cuda:" +
                                std::to_string(ordinal));
  const size_t in_range = bytes == 0 ? SIZE_MAX : static_cast<size_t>(start + bytes - pointer);
  const ContextGuard guard(device.context());
  const size_t mapped = mapped_bytes(pointer, wanted);
  // Of some memory, as that of a pool, only the range may be known.
  if (mapped == 0 && is_mapped) return {ordinal, in_range};
  return {ordinal, std::min(mapped, in_range)};
}

}  // namespace fused_adamw::cuda
