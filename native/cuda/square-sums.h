// The sums of the squares of gradients in the memory of a GPU.
#pragma once

#include <memory>
#include <vector>

#include "../core/tensor-list.h"
#include "norm.h"
#include "staged-buffer.h"

namespace fused_adamw::cuda {

/// The sums of the squares of gradients, in the order of core/gradient-norm.h.
class SquareSums {
 public:
  /// Of `tensors` only the configuration and the length are used.
  SquareSums(Device& device, const TensorArrays* tensors, size_t size);
  SquareSums(const SquareSums&) = delete;
  SquareSums& operator=(const SquareSums&) = delete;

  // They need a current context and the device's mutex.

  /// Puts on a stream what computes the sums of the gradients at these addresses, a table on the device.
  void launch(const void* const* grads, StreamHandle stream);
  /// After launch(): puts the copy of the sums to the host on the stream.
  std::shared_ptr<PinnedMemory> start_copy(StreamHandle stream);
  /// Writes the sum of each gradient to `sums`; false if an element is infinite or NaN. Once that copy is done.
  bool read(const PinnedMemory& copy, double* sums) const;

  /// On the device, once what launch() puts on the stream is done.
  const SquareSum* of_tensors() const { return static_cast<const SquareSum*>(sums_->address()) + item_count_; }

 private:
  Device& device_;
  size_t size_, item_count_ = 0, table_bytes_ = 0;
  std::shared_ptr<StagedBuffer> tables_;  // items, then the starts
  std::shared_ptr<Memory> sums_;          // of the items, then of the tensors
  bool new_tables_ = true;
};

/// The same for gradients by themselves, on the legacy default stream, after all steps so far. Of `tensors`, in memory
/// that `memories` own, only the configuration, the gradient and the length are used.
bool sums_of_squares(Device& device, const std::vector<TensorArrays>& tensors, Memories memories, double* sums);

}  // namespace fused_adamw::cuda
