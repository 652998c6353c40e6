#include "step.h"

#include <algorithm>
#include <cstring>

#include "float-environment.h"
#include "threads.h"

namespace fused_adamw::cpu {
namespace {

// Elements of a chunk: large enough that the cost of handing one out does not
// matter and hardware prefetching works well, small enough that a delayed thread
// holds up the others only briefly.
constexpr uint64_t kLeastChunk = 16 * 1024;
constexpr uint64_t kMostChunk = 128 * 1024;
constexpr uint64_t kChunksWanted = 64;

// Below this many elements waking other threads costs more than it gains.
constexpr uint64_t kSmallStep = 32 * 1024;

// How many tensors ahead the first bytes of arrays are prefetched: short arrays
// end before the hardware prefetcher has seen a pattern. Of 1, 2, 4 and 8, 8 was
// the fastest for 10,000 tensors of 64 elements.
constexpr size_t kTensorsAhead = 8;
constexpr size_t kBytesAhead = 256;
constexpr size_t kCacheLine = 64;

// Elements whose gradients are cleared at a time: they are then still in the second cache.
constexpr uint64_t kZeroedAtATime = 16 * 1024;

/// An element of the list of tensors.
struct Place {
  size_t tensor;
  uint64_t offset;
};

/// Element `element` of the concatenated tensors, rounded down to a multiple of
/// kBlock within its tensor, so that chunks meet at aligned elements.
Place place_of(const TensorList& list, uint64_t element) {
  const uint64_t* starts = list.element_starts();
  const size_t tensor = std::upper_bound(starts, starts + list.size() + 1, element) - starts - 1;
  return {tensor, (element - starts[tensor]) / kBlock * kBlock};
}

void update(const TensorArrays& tensor, const Variant& variant, Rule rule, const GroupScalars& scalars, uint64_t begin,
            uint64_t end) {
  Span span{{}, end - begin, begin, tensor.key, scalars.count};
  for (const Role role : kEveryRole)
    span.arrays[role] = static_cast<char*>(tensor.arrays[role]) + begin * role_bytes(tensor.config, role);
  variant.kernel(rule, tensor.config)(span, scalars);
}

void update_and_zero_grads(const TensorArrays& tensor, const Variant& variant, Rule rule, const GroupScalars& scalars,
                           uint64_t begin, uint64_t end) {
  const size_t bytes = role_bytes(tensor.config, Role::grad);
  for (uint64_t at = begin; at < end; at += kZeroedAtATime) {
    const uint64_t to = std::min(end, at + kZeroedAtATime);
    update(tensor, variant, rule, scalars, at, to);
    std::memset(static_cast<char*>(tensor.arrays[Role::grad]) + at * bytes, 0, (to - at) * bytes);
  }
}

void prefetch(const void* array, size_t bytes) {
  for (size_t at = 0; at < std::min(bytes, kBytesAhead); at += kCacheLine)
    __builtin_prefetch(static_cast<const char*>(array) + at);
}

void prefetch(const TensorArrays& tensor) {
  for (const Role role : kEveryRole) prefetch(tensor.arrays[role], tensor.length * role_bytes(tensor.config, role));
}

}  // namespace

void round_groups(const StepScalars& step, const ScalarGroup* groups, size_t count, GroupScalars* out) {
  const FloatEnvironment environment;  // a scalar may be subnormal in float
  for (size_t i = 0; i < count; ++i) out[i] = round_scalars(step, groups[i]);
}

void step(const TensorList& list, const Variant& variant, const GroupScalars* scalars, size_t first, size_t last,
          int threads, bool zero_grads) {
  const auto update_part = zero_grads ? update_and_zero_grads : update;
  const uint64_t begin = list.element_start(first);
  const uint64_t total = list.element_start(last) - begin;
  const auto update_between = [&](Place from, Place to) {
    for (size_t i = from.tensor; i <= to.tensor && i < last; ++i) {
      const TensorArrays& tensor = list.tensor(i);
      if (i + kTensorsAhead < last) prefetch(list.tensor(i + kTensorsAhead));
      const uint64_t start = i == from.tensor ? from.offset : 0;
      const uint64_t end = i == to.tensor ? to.offset : tensor.length;
      if (start < end) update_part(tensor, variant, list.rule(), scalars[tensor.group], start, end);
    }
  };
  if (total <= kSmallStep) {
    for_each_chunk(1, 1, [&](size_t) { update_between({first, 0}, {last, 0}); });
    return;
  }
  const auto up_to_multiple = [](uint64_t count, uint64_t of) { return (count + of - 1) / of * of; };
  const uint64_t wanted_size = std::clamp(total / kChunksWanted, kLeastChunk, kMostChunk);
  const uint64_t wanted = (total + wanted_size - 1) / wanted_size;
  // The same number for each thread, all of one size, so that equal shares of the chunks are equal shares of the
  // elements.
  const uint64_t chunks = up_to_multiple(wanted, std::min<uint64_t>(wanted, threads));
  const uint64_t chunk_size = up_to_multiple((total + chunks - 1) / chunks, kBlock);
  const auto boundary = [&](uint64_t chunk) {
    return chunk == 0        ? Place{first, 0}
           : chunk == chunks ? Place{last, 0}
                             : place_of(list, begin + std::min(total, chunk * chunk_size));
  };
  for_each_chunk(chunks, threads, [&](size_t chunk) { update_between(boundary(chunk), boundary(chunk + 1)); });
}

}  // namespace fused_adamw::cpu
