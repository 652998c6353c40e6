#include "gradients.h"

#include <algorithm>
#include <atomic>

#include "../core/gradient-norm.h"
#include "float-environment.h"
#include "threads.h"

namespace fused_adamw::cpu {
namespace {

/// Elements of a chunk of accumulate().
constexpr size_t kChunk = 64 * 1024;
/// Up to so many elements everything is done on the calling thread.
constexpr size_t kSmall = 32 * 1024;
/// Chunks of blocks, so that threads can take from one another.
constexpr size_t kChunksWanted = 64;

/// The item that a position lies in, where item i begins at starts[i].
size_t item_at(const std::vector<size_t>& starts, size_t position) {
  return std::upper_bound(starts.begin(), starts.end(), position) - starts.begin() - 1;
}

template <typename Count>
std::vector<size_t> starts_of(size_t size, const Count& count) {
  std::vector<size_t> starts(size + 1);
  for (size_t i = 0; i < size; ++i) starts[i + 1] = starts[i] + count(i);
  return starts;
}

/// Calls work(item, k) for the k-th part of each item, where item i has starts[i + 1] - starts[i] parts.
template <typename Work>
void for_each_part(const std::vector<size_t>& starts, size_t parts_of_a_chunk, int threads, const Work& work) {
  const size_t total = starts.back();
  const size_t chunks = (total + parts_of_a_chunk - 1) / parts_of_a_chunk;
  for_each_chunk(chunks, threads, [&](size_t chunk) {
    const size_t begin = chunk * parts_of_a_chunk, end = std::min(total, begin + parts_of_a_chunk);
    for (size_t part = begin, item = item_at(starts, begin); part < end; ++part) {
      while (part >= starts[item + 1]) ++item;
      work(item, part - starts[item]);
    }
  });
}

}  // namespace

SquareSums::SquareSums(const std::vector<size_t>& lengths)
    : first_blocks_(starts_of(lengths.size(), [&](size_t i) { return (lengths[i] + kNormBlock - 1) / kNormBlock; })),
      blocks_(first_blocks_.back()) {}

bool SquareSums::compute(const TensorArrays* tensors, const Variant& variant, int threads, double* sums) {
  std::atomic<bool> all_finite{true};
  const size_t total = blocks_.size();
  const bool is_small = total <= kSmall / kNormBlock;
  const size_t chunk = is_small ? std::max<size_t>(total, 1) : std::max<size_t>(1, total / kChunksWanted);
  for_each_part(first_blocks_, chunk, is_small ? 1 : threads, [&](size_t i, size_t block) {
    const TensorArrays& tensor = tensors[i];
    const size_t first = block * kNormBlock;
    bool finite = true;
    blocks_[first_blocks_[i] + block] = variant.sum_of_squares[static_cast<int>(tensor.config)](
        static_cast<const char*>(tensor.arrays[Role::grad]) + first * role_bytes(tensor.config, Role::grad),
        std::min(kNormBlock, tensor.length - first), &finite);
    if (!finite) all_finite.store(false, std::memory_order_relaxed);
  });
  const FloatEnvironment environment;
  for (size_t i = 0; i + 1 < first_blocks_.size(); ++i) {
    double sum = 0;
    for (size_t block = first_blocks_[i]; block < first_blocks_[i + 1]; ++block) sum += blocks_[block];
    sums[i] = sum;
  }
  return all_finite;
}

void accumulate(const std::vector<Accumulation>& accumulations, double scale, const Variant& variant, int threads) {
  const auto starts =
      starts_of(accumulations.size(), [&](size_t i) { return (accumulations[i].length + kChunk - 1) / kChunk; });
  size_t total = 0;
  for (const Accumulation& each : accumulations) total += each.length;
  const bool is_small = total <= kSmall;
  for_each_part(
      starts, is_small ? std::max<size_t>(starts.back(), 1) : 1, is_small ? 1 : threads, [&](size_t i, size_t part) {
        const Accumulation& each = accumulations[i];
        const size_t first = part * kChunk;
        variant.accumulate[each.dtypes](each.into, each.grad, first, std::min(kChunk, each.length - first), scale);
      });
}

}  // namespace fused_adamw::cpu
