// Binding: the tensors of a step, made once and kept from step to step.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "dtypes.h"

namespace fused_adamw {

/// The arrays of one tensor: host memory of `length` elements each.
struct TensorArrays {
  Layout layout;
  size_t length = 0;
  void* weight = nullptr;
  const void* grad = nullptr;
  void* mean = nullptr;
  void* variance = nullptr;
  float* master = nullptr;
  uint32_t key = 0;    // for stochastic rounding
  uint32_t group = 0;  // which scalars
};

enum class Role : uint8_t { weight, grad, mean, variance, master };

/// Two arrays that share memory of which one is written.
struct Overlap {
  Role written_role;
  uint32_t written_tensor;
  Role other_role;
  uint32_t other_tensor;
};

class Binding {
 public:
  Binding(Rule rule, std::vector<TensorArrays> tensors);

  /// Takes the addresses of the gradients, one for each tensor, unless a written
  /// array shares memory with any other: then the first such pair is returned
  /// and the last gradients stay.
  std::optional<Overlap> set_grads(const std::vector<const void*>& grads);
  /// Which group each tensor belongs to.
  void set_groups(const std::vector<uint32_t>& groups, size_t group_count);

  Rule rule() const { return rule_; }
  size_t size() const { return tensors_.size(); }
  size_t group_count() const { return group_count_; }
  const TensorArrays& tensor(size_t i) const { return tensors_[i]; }
  /// Elements of all tensors before tensor i; element_start(size()) is the total.
  uint64_t element_start(size_t i) const { return element_starts_[i]; }
  const uint64_t* element_starts() const { return element_starts_.data(); }

 private:
  struct Range {
    uintptr_t begin, end;
    Role role;
    uint32_t tensor;
  };
  std::optional<Overlap> find_overlap(const std::vector<const void*>& grads);
  static void sort_runs(std::vector<Range>& ranges);
  void append_range(std::vector<Range>& ranges, const void* data, size_t bytes, Role role, size_t tensor) const;

  Rule rule_;
  std::vector<TensorArrays> tensors_;
  std::vector<uint64_t> element_starts_;
  size_t group_count_ = 0;
  std::vector<Range> written_;  // sorted; filled by the first set_grads()
};

}  // namespace fused_adamw
