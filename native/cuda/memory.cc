#include "memory.h"

#include <iterator>

#include "device.h"

namespace fused_adamw::cuda {

Memory::Memory(Device& device, DevicePointer pointer, size_t bytes, bool owned)
    : device_(device), pointer_(pointer), bytes_(bytes), owned_(owned) {}
Memory::~Memory() {
  if (owned_) device_.release(pointer_);
}

PinnedMemory::PinnedMemory(size_t bytes) { FUSED_ADAMW_CUDA(cuMemHostAlloc, &data_, bytes, kPortable); }
PinnedMemory::~PinnedMemory() { driver().cuMemFreeHost(data_); }

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

}  // namespace fused_adamw::cuda
