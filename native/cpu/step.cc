#include "step.h"

#include <algorithm>

#include "float-environment.h"
#include "threads.h"

namespace fused_adamw::cpu {
namespace {

// Elements of a chunk: large enough that handing one out costs nothing and the
// processor's prefetcher runs far, small enough that a thread which is held up
// leaves little behind.
constexpr uint64_t kLeastChunk = 16 * 1024;
constexpr uint64_t kMostChunk = 128 * 1024;
constexpr uint64_t kChunksWanted = 64;

// Below this many elements waking a team costs more than it gains.
constexpr uint64_t kSmallStep = 32 * 1024;

// Tensors ahead whose first bytes are fetched while one is updated: short
// arrays end before the processor's own prefetcher has seen a pattern. Of 1, 2,
// 4 and 8 ahead, 8 was the best over 10,000 tensors of 64.
constexpr size_t kTensorsAhead = 8;
constexpr size_t kBytesAhead = 256;
constexpr size_t kCacheLine = 64;

/// A place in the list of tensors.
struct Place {
  size_t tensor;
  uint64_t offset;
};

/// The place of element `element` of the concatenated tensors, moved down to a
/// multiple of kBlock of its tensor, so that chunks meet at aligned places.
Place place_of(const Binding& binding, uint64_t element) {
  const uint64_t* starts = binding.element_starts();
  const size_t tensor = std::upper_bound(starts, starts + binding.size() + 1, element) - starts - 1;
  return {tensor, (element - starts[tensor]) / kBlock * kBlock};
}

void update(const TensorArrays& tensor, const Variant& variant, Rule rule, const GroupScalars& scalars, uint64_t begin,
            uint64_t end) {
  const LayoutInfo& layout = info(tensor.layout);
  const auto at = [begin](auto* base, size_t size) { return base + begin * size; };
  const Span span{
      at(static_cast<char*>(tensor.weight), layout.weight_size),
      at(static_cast<const char*>(tensor.grad), layout.weight_size),
      at(static_cast<char*>(tensor.mean), layout.state_size),
      at(static_cast<char*>(tensor.variance), layout.state_size),
      layout.master ? tensor.master + begin : nullptr,
      end - begin,
      begin,
      tensor.key,
      scalars.count,
  };
  variant.kernel(rule, tensor.layout)(span, scalars);
}

void prefetch(const void* array, size_t bytes) {
  for (size_t at = 0; at < std::min(bytes, kBytesAhead); at += kCacheLine)
    __builtin_prefetch(static_cast<const char*>(array) + at);
}

void prefetch(const TensorArrays& tensor) {
  const LayoutInfo& layout = info(tensor.layout);
  prefetch(tensor.weight, tensor.length * layout.weight_size);
  prefetch(tensor.grad, tensor.length * layout.weight_size);
  prefetch(tensor.mean, tensor.length * layout.state_size);
  prefetch(tensor.variance, tensor.length * layout.state_size);
  if (layout.master) prefetch(tensor.master, tensor.length * sizeof(float));
}

}  // namespace

void round_groups(const StepOptions& options, const Group* groups, size_t count, GroupScalars* out) {
  const FloatEnvironment environment;  // a scalar may be subnormal in float
  for (size_t i = 0; i < count; ++i)
    out[i] = {round_scalars<float>(options, groups[i]), round_scalars<double>(options, groups[i]),
              static_cast<uint32_t>(static_cast<uint64_t>(groups[i].count))};
}

void step(const Binding& binding, const Variant& variant, const GroupScalars* scalars, size_t first, size_t last,
          int threads) {
  const uint64_t begin = binding.element_start(first);
  const uint64_t total = binding.element_start(last) - begin;
  const auto update_between = [&](Place from, Place to) {
    for (size_t i = from.tensor; i <= to.tensor && i < last; ++i) {
      const TensorArrays& tensor = binding.tensor(i);
      if (i + kTensorsAhead < last) prefetch(binding.tensor(i + kTensorsAhead));
      const uint64_t start = i == from.tensor ? from.offset : 0;
      const uint64_t end = i == to.tensor ? to.offset : tensor.length;
      if (start < end) update(tensor, variant, binding.rule(), scalars[tensor.group], start, end);
    }
  };
  if (total <= kSmallStep) {
    for_each_chunk(1, 1, [&](size_t) { update_between({first, 0}, {last, 0}); });
    return;
  }
  const auto up_to_multiple = [](uint64_t count, uint64_t of) { return (count + of - 1) / of * of; };
  const uint64_t wanted_size = std::clamp(total / kChunksWanted, kLeastChunk, kMostChunk);
  const uint64_t wanted = (total + wanted_size - 1) / wanted_size;
  // As many for each thread, of the same size, so that equal shares of the chunks are equal shares of the elements.
  const uint64_t chunks = up_to_multiple(wanted, std::min<uint64_t>(wanted, threads));
  const uint64_t chunk_size = up_to_multiple((total + chunks - 1) / chunks, kBlock);
  const auto boundary = [&](uint64_t chunk) {
    return chunk == 0        ? Place{first, 0}
           : chunk == chunks ? Place{last, 0}
                             : place_of(binding, begin + std::min(total, chunk * chunk_size));
  };
  for_each_chunk(chunks, threads, [&](size_t chunk) { update_between(boundary(chunk), boundary(chunk + 1)); });
}

}  // namespace fused_adamw::cpu
