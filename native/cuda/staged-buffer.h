// Device memory that the host writes through page-locked memory.
#pragma once

#include <memory>

#include "device.h"

namespace fused_adamw::cuda {

/// Device memory that the host overwrites now and then through page-locked memory,
/// from a pool at each time, so that it can write while the device reads what it wrote before.
class StagedBuffer {
 public:
  StagedBuffer(Device& device, size_t capacity);
  StagedBuffer(const StagedBuffer&) = delete;
  StagedBuffer& operator=(const StagedBuffer&) = delete;

  // They need a current context.

  /// Where to write what the next upload() sends.
  void* stage();
  /// What it uses is kept until it is done.
  void upload(size_t bytes, StreamHandle stream);
  size_t capacity() const { return memory_->bytes(); }
  void* address() const { return memory_->address(); }

 private:
  Device& device_;
  std::shared_ptr<Memory> memory_;
  std::shared_ptr<PinnedMemory> staged_;
};

}  // namespace fused_adamw::cuda
