#include "tensor-list.h"

#include <algorithm>

namespace fused_adamw {

Binding::Binding(Rule rule, std::vector<TensorArrays> tensors) : rule_(rule), tensors_(std::move(tensors)) {
  element_starts_.reserve(tensors_.size() + 1);
  uint64_t total = 0;
  for (const TensorArrays& tensor : tensors_) {
    element_starts_.push_back(total);
    total += tensor.length;
  }
  element_starts_.push_back(total);
}

std::optional<Overlap> Binding::set_grads(const std::vector<const void*>& grads) {
  const auto overlap = find_overlap(grads);
  if (!overlap)
    for (size_t i = 0; i < tensors_.size(); ++i) tensors_[i].grad = grads[i];
  return overlap;
}

void Binding::set_groups(const std::vector<uint32_t>& groups, size_t group_count) {
  for (size_t i = 0; i < tensors_.size(); ++i) tensors_[i].group = groups[i];
  group_count_ = group_count;
}

void Binding::append_range(std::vector<Range>& ranges, const void* data, size_t bytes, Role role, size_t tensor) const {
  const auto begin = reinterpret_cast<uintptr_t>(data);
  if (bytes > 0) ranges.push_back({begin, begin + bytes, role, static_cast<uint32_t>(tensor)});
}

/// Sorts ranges that come in runs: lists of arrays often lie in memory as they
/// were made, one after the other. Merging the runs is then the smaller work.
void Binding::sort_runs(std::vector<Range>& ranges) {
  const auto by_begin = [](const Range& a, const Range& b) { return a.begin < b.begin; };
  constexpr size_t kMostRuns = 64;
  std::vector<size_t> starts{0};
  for (size_t i = 1; i < ranges.size(); ++i)
    if (by_begin(ranges[i], ranges[i - 1])) starts.push_back(i);
  if (starts.size() > kMostRuns) {
    std::sort(ranges.begin(), ranges.end(), by_begin);
    return;
  }
  starts.push_back(ranges.size());
  while (starts.size() > 2) {
    std::vector<size_t> merged{0};
    for (size_t i = 0; i + 2 < starts.size(); i += 2) {
      const auto at = [&](size_t k) { return ranges.begin() + static_cast<ptrdiff_t>(starts[k]); };
      std::inplace_merge(at(i), at(i + 1), at(i + 2), by_begin);
      merged.push_back(starts[i + 2]);
    }
    if (starts.size() % 2 == 0) merged.push_back(starts.back());
    starts = std::move(merged);
  }
}

std::optional<Overlap> Binding::find_overlap(const std::vector<const void*>& grads) {
  if (written_.empty()) {
    written_.reserve(3 * tensors_.size());
    for (const Role role : {Role::weight, Role::mean, Role::variance, Role::master})
      for (size_t i = 0; i < tensors_.size(); ++i) {
        const TensorArrays& tensor = tensors_[i];
        const LayoutInfo& layout = info(tensor.layout);
        if (role == Role::weight) append_range(written_, tensor.weight, tensor.length * layout.weight_size, role, i);
        if (role == Role::mean) append_range(written_, tensor.mean, tensor.length * layout.state_size, role, i);
        if (role == Role::variance) append_range(written_, tensor.variance, tensor.length * layout.state_size, role, i);
        if (role == Role::master && layout.master)
          append_range(written_, tensor.master, tensor.length * sizeof(float), role, i);
      }
    sort_runs(written_);
    for (size_t i = 1; i < written_.size(); ++i) {
      const Range &a = written_[i - 1], &b = written_[i];
      if (b.begin < a.end) {
        const Overlap overlap{b.role, b.tensor, a.role, a.tensor};
        written_.clear();
        return overlap;
      }
    }
  }
  // Written ranges do not overlap each other, so the last that begins before a gradient's end is the one to ask. For a
  // gradient that lies beyond the one before it is often the same, or the next.
  size_t after = 0;  // the first range that begins at or after the end
  for (size_t i = 0; i < tensors_.size(); ++i) {
    const TensorArrays& tensor = tensors_[i];
    const auto begin = reinterpret_cast<uintptr_t>(grads[i]);
    const uintptr_t end = begin + tensor.length * info(tensor.layout).weight_size;
    if (begin == end) continue;
    const auto is_after = [&](size_t k) {
      return (k == 0 || written_[k - 1].begin < end) && (k == written_.size() || written_[k].begin >= end);
    };
    if (!is_after(after) && !(after < written_.size() && is_after(++after)))
      after = std::partition_point(written_.begin(), written_.end(), [end](const Range& r) { return r.begin < end; }) -
              written_.begin();
    if (after > 0 && written_[after - 1].end > begin)
      return Overlap{written_[after - 1].role, written_[after - 1].tensor, Role::grad, static_cast<uint32_t>(i)};
  }
  return std::nullopt;
}

}  // namespace fused_adamw
