#include "staged-buffer.h"

namespace fused_adamw::cuda {

StagedBuffer::StagedBuffer(Device& device, size_t capacity)
    : device_(device), memory_(device.allocate_table(capacity)) {}

void* StagedBuffer::stage() {
  staged_ = device_.allocate_staging(capacity());
  return staged_->data();
}

void StagedBuffer::upload(size_t bytes, StreamHandle stream) {
  auto after = device_.make_event();
  FUSED_ADAMW_CUDA(cuMemcpyHtoDAsync_v2, memory_->pointer(), staged_->data(), bytes, stream);
  after->record(stream);
  using Uploaded = std::pair<std::shared_ptr<Memory>, std::shared_ptr<PinnedMemory>>;
  device_.retire(std::make_shared<Uploaded>(memory_, std::move(staged_)), std::move(after));
}

}  // namespace fused_adamw::cuda
