// TensorList: the validated tensors of a step, kept from step to step.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "dtype-configs.h"

namespace fused_adamw {

/// The arrays of one tensor, of `length` elements each.
struct TensorArrays {
  DTypeConfig config = {};
  size_t length = 0;
  ByRole<void*> arrays = {};  // null where the configuration has none
  uint32_t key = 0;           // for stochastic rounding
  uint32_t group = 0;         // of scalars
};

/// Two arrays that share memory, of which at least the first is written.
struct Overlap {
  Role written_role;
  uint32_t written_tensor;
  Role other_role;
  uint32_t other_tensor;
};

class TensorList {
 public:
  TensorList(Rule rule, std::vector<TensorArrays> tensors);

  /// Takes the addresses of the gradients, one for each tensor, unless a written
  /// array shares memory with another array: then it returns the first such pair
  /// and keeps the previous gradients.
  std::optional<Overlap> set_grads(const std::vector<void*>& grads);
  /// Sets the group of scalars of each tensor.
  void set_groups(const std::vector<uint32_t>& groups, size_t group_count);

  Rule rule() const { return rule_; }
  size_t size() const { return tensors_.size(); }
  size_t group_count() const { return group_count_; }
  const TensorArrays& tensor(size_t i) const { return tensors_[i]; }
  const TensorArrays* tensors() const { return tensors_.data(); }
  /// Elements of all tensors before tensor i; element_start(size()) is the total.
  uint64_t element_start(size_t i) const { return element_starts_[i]; }
  const uint64_t* element_starts() const { return element_starts_.data(); }

 private:
  /// The memory of one array.
  struct Range {
    uintptr_t begin, end;
    Role role;
    uint32_t tensor;
  };
  static Range range_of(const TensorArrays& tensor, const void* array, Role role, size_t i);
  static void sort_runs(std::vector<Range>& ranges);
  std::optional<Overlap> find_written_ranges();
  std::optional<Overlap> find_overlap(const std::vector<void*>& grads);

  Rule rule_;
  std::vector<TensorArrays> tensors_;
  std::vector<uint64_t> element_starts_;
  size_t group_count_ = 0;
  std::vector<Range> written_;  // sorted; filled by the first set_grads()
};

}  // namespace fused_adamw
