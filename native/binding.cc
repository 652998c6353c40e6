#include "binding.h"

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

std::optional<Overlap> Binding::find_overlap(const std::vector<const void*>& grads) {
  const auto by_begin = [](const Range& a, const Range& b) { return a.begin < b.begin; };
  if (written_.empty()) {
    written_.reserve(3 * tensors_.size());
    for (size_t i = 0; i < tensors_.size(); ++i) {
      const TensorArrays& tensor = tensors_[i];
      const LayoutInfo& layout = info(tensor.layout);
      append_range(written_, tensor.weight, tensor.length * layout.weight_size, Role::weight, i);
      append_range(written_, tensor.mean, tensor.length * layout.state_size, Role::mean, i);
      append_range(written_, tensor.variance, tensor.length * layout.state_size, Role::variance, i);
      if (layout.master) append_range(written_, tensor.master, tensor.length * sizeof(float), Role::master, i);
    }
    std::sort(written_.begin(), written_.end(), by_begin);
    for (size_t i = 1; i < written_.size(); ++i) {
      const Range &a = written_[i - 1], &b = written_[i];
      if (b.begin < a.end) {
        const Overlap overlap{b.role, b.tensor, a.role, a.tensor};
        written_.clear();
        return overlap;
      }
    }
  }
  for (size_t i = 0; i < tensors_.size(); ++i) {
    const TensorArrays& tensor = tensors_[i];
    const auto begin = reinterpret_cast<uintptr_t>(grads[i]);
    const uintptr_t end = begin + tensor.length * info(tensor.layout).weight_size;
    if (begin == end) continue;
    // Written ranges do not overlap each other, so the last that begins before `end` is the one to ask.
    const auto after = std::lower_bound(written_.begin(), written_.end(), Range{end, end, Role::grad, 0}, by_begin);
    if (after != written_.begin() && std::prev(after)->end > begin)
      return Overlap{std::prev(after)->role, std::prev(after)->tensor, Role::grad, static_cast<uint32_t>(i)};
  }
  return std::nullopt;
}

}  // namespace fused_adamw
