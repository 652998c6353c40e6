#include "tensor-list.h"

#include <algorithm>
#include <utility>

namespace fused_adamw {

TensorList::TensorList(Rule rule, std::vector<TensorArrays> tensors) : rule_(rule), tensors_(std::move(tensors)) {
  element_starts_.reserve(tensors_.size() + 1);
  uint64_t total = 0;
  for (const TensorArrays& tensor : tensors_) {
    element_starts_.push_back(total);
    total += tensor.length;
  }
  element_starts_.push_back(total);
}

std::optional<Overlap> TensorList::set_grads(const std::vector<void*>& grads) {
  const auto overlap = find_overlap(grads);
  if (!overlap)
    for (size_t i = 0; i < tensors_.size(); ++i) tensors_[i].arrays[Role::grad] = grads[i];
  return overlap;
}

void TensorList::set_groups(const std::vector<uint32_t>& groups, size_t group_count) {
  for (size_t i = 0; i < tensors_.size(); ++i) tensors_[i].group = groups[i];
  group_count_ = group_count;
}

TensorList::Range TensorList::range_of(const TensorArrays& tensor, const void* array, Role role, size_t i) {
  const auto begin = reinterpret_cast<uintptr_t>(array);
  return {begin, begin + tensor.length * role_bytes(tensor.config, role), role, static_cast<uint32_t>(i)};
}

/// Sorts ranges that come in sorted runs: the arrays of a list often lie in
/// memory in the order in which they were made. Merging the runs then costs less
/// than sorting all of them.
void TensorList::sort_runs(std::vector<Range>& ranges) {
  const auto by_begin = [](const Range& a, const Range& b) { return a.begin < b.begin; };
  constexpr size_t kMostRuns = 64;
  std::vector<size_t> starts{0};
  for (size_t i = 1; i < ranges.size(); ++i)
    if (by_begin(ranges[i], ranges[i - 1])) starts.push_back(i);
  if (starts.size() > kMostRuns) {
    std::stable_sort(ranges.begin(), ranges.end(), by_begin);
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

/// Fills written_, unless two written arrays overlap.
std::optional<Overlap> TensorList::find_written_ranges() {
  std::vector<Range> ranges;
  ranges.reserve(3 * tensors_.size());
  for (const Role role : kEveryRole)
    for (size_t i = 0; is_written(role) && i < tensors_.size(); ++i) {
      const Range range = range_of(tensors_[i], tensors_[i].arrays[role], role, i);
      if (range.begin < range.end) ranges.push_back(range);
    }
  sort_runs(ranges);
  // Of several overlaps the one that comes first in the lists, not in memory: TypeScript tells the same.
  const auto position = [](const Overlap& overlap) { return std::pair(overlap.written_role, overlap.written_tensor); };
  std::optional<Overlap> first;
  for (size_t i = 1; i < ranges.size(); ++i) {
    const Range &a = ranges[i - 1], &b = ranges[i];
    const Overlap overlap{b.role, b.tensor, a.role, a.tensor};
    if (b.begin < a.end && (!first || position(overlap) < position(*first))) first = overlap;
  }
  if (first) return first;
  written_ = std::move(ranges);
  return std::nullopt;
}

std::optional<Overlap> TensorList::find_overlap(const std::vector<void*>& grads) {
  if (written_.empty())
    if (const auto overlap = find_written_ranges()) return overlap;
  // Written ranges do not overlap each other, so it suffices to check the last one that begins before the end of an
  // array that is read. For an array that follows the previous one in memory that is often the same range, or the next.
  for (const Role role : kEveryRole) {
    if (is_written(role)) continue;
    size_t after = 0;  // the first written range that begins at or after the end
    for (size_t i = 0; i < tensors_.size(); ++i) {
      const void* array = role == Role::grad ? grads[i] : tensors_[i].arrays[role];
      const Range read = range_of(tensors_[i], array, role, i);
      if (read.begin == read.end) continue;
      const auto is_after = [&](size_t k) {
        return (k == 0 || written_[k - 1].begin < read.end) && (k == written_.size() || written_[k].begin >= read.end);
      };
      if (!is_after(after) && !(after < written_.size() && is_after(++after)))
        after = std::partition_point(written_.begin(), written_.end(),
                                     [&](const Range& range) { return range.begin < read.end; }) -
                written_.begin();
      if (after > 0 && written_[after - 1].end > read.begin)
        return Overlap{written_[after - 1].role, written_[after - 1].tensor, role, read.tensor};
    }
  }
  return std::nullopt;
}

}  // namespace fused_adamw
