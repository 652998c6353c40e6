// Bindings: places of elements, groups, and overlaps against a search of all pairs.
#include "core/tensor-list.h"

#include <gtest/gtest.h>

#include "support.h"

namespace fused_adamw {
namespace {

using testing::Random;

// Addresses that nobody reads: set_grads() only compares them.
template <typename T>
T* address(size_t byte) {
  return reinterpret_cast<T*>(uintptr_t{0x100000} + byte);
}

TEST(Binding, NumbersTheElementsOfAllTensors) {
  std::vector<TensorArrays> tensors(4);
  const size_t lengths[] = {3, 0, size_t{1} << 33, 5};
  for (size_t i = 0; i < 4; ++i) tensors[i].length = lengths[i];
  const Binding binding(Rule::coupled, tensors);
  EXPECT_EQ(binding.size(), 4u);
  EXPECT_EQ(binding.rule(), Rule::coupled);
  const uint64_t starts[] = {0, 3, 3, (uint64_t{1} << 33) + 3, (uint64_t{1} << 33) + 8};
  for (size_t i = 0; i <= 4; ++i) {
    EXPECT_EQ(binding.element_start(i), starts[i]);
    EXPECT_EQ(binding.element_starts()[i], starts[i]);
  }
}

TEST(Binding, TakesGradientsAndGroups) {
  Binding binding(Rule::mxnet, std::vector<TensorArrays>(2));
  EXPECT_FALSE(binding.set_grads({address<const void>(1), address<const void>(2)}));
  binding.set_groups({1, 0}, 2);
  EXPECT_EQ(binding.tensor(0).grad, address<const void>(1));
  EXPECT_EQ(binding.tensor(1).grad, address<const void>(2));
  EXPECT_EQ(binding.tensor(0).group, 1u);
  EXPECT_EQ(binding.tensor(1).group, 0u);
  EXPECT_EQ(binding.group_count(), 2u);
}

TEST(Binding, OfNothingHasNoOverlap) {
  Binding binding(Rule::mxnet, {});
  EXPECT_EQ(binding.element_start(0), 0u);
  EXPECT_FALSE(binding.set_grads({}));
}

struct Range {
  size_t begin, end;
  Role role;
  uint32_t tensor;

  bool overlaps(const Range& other) const {
    return begin < end && other.begin < other.end && begin < other.end && other.begin < end;
  }
};

std::vector<Range> ranges_of(const Binding& binding, const std::vector<const void*>& grads) {
  std::vector<Range> ranges;
  for (uint32_t i = 0; i < binding.size(); ++i) {
    const TensorArrays& tensor = binding.tensor(i);
    const LayoutInfo& layout = info(tensor.layout);
    const auto add = [&](const void* data, size_t size, Role role) {
      const auto begin = reinterpret_cast<uintptr_t>(data);
      ranges.push_back({begin, begin + tensor.length * size, role, i});
    };
    add(tensor.weight, layout.weight_size, Role::weight);
    add(grads[i], layout.weight_size, Role::grad);
    add(tensor.mean, layout.state_size, Role::mean);
    add(tensor.variance, layout.state_size, Role::variance);
    if (layout.master) add(tensor.master, sizeof(float), Role::master);
  }
  return ranges;
}

bool any_overlap(const std::vector<Range>& ranges) {
  for (const Range& a : ranges)
    for (const Range& b : ranges)
      if (&a != &b && a.role != Role::grad && a.overlaps(b)) return true;
  return false;
}

const Range& range_of(const std::vector<Range>& ranges, Role role, uint32_t tensor) {
  return *std::find_if(ranges.begin(), ranges.end(),
                       [&](const Range& range) { return range.role == role && range.tensor == tensor; });
}

TEST(Binding, FindsTheOverlapsThatASearchOfAllPairsFinds) {
  Random random(4);
  size_t overlapping = 0, apart = 0;
  for (int round = 0; round < 20000; ++round) {
    std::vector<TensorArrays> tensors(1 + random.below(5));
    const size_t space = 64 << random.below(8);
    // Half of the arrays lie one after the other, with gaps at times, so that many lists have no overlap.
    size_t next = 0;
    const bool packed = random.below(2);
    const auto place = [&](size_t bytes) {
      const size_t at = packed && random.below(40) ? next + random.below(2) : random.below(space);
      next = std::max(next, at + bytes);
      return at;
    };
    for (TensorArrays& tensor : tensors) {
      tensor.layout = static_cast<Layout>(random.below(kLayouts));
      tensor.length = random.below(8);
      const LayoutInfo& layout = info(tensor.layout);
      tensor.weight = address<void>(place(tensor.length * layout.weight_size));
      tensor.mean = address<void>(place(tensor.length * layout.state_size));
      tensor.variance = address<void>(place(tensor.length * layout.state_size));
      // An address where there is no master must not count.
      tensor.master = address<float>(layout.master ? place(tensor.length * sizeof(float)) : 0);
    }
    Binding binding(Rule::mxnet, tensors);
    std::vector<const void*> taken(tensors.size(), nullptr);
    for (int attempt = 0; attempt < 3; ++attempt) {
      // At first gradients that lie among the rest; then two may be the same memory, and lie beyond all that is
      // written.
      std::vector<const void*> grads;
      for (const TensorArrays& tensor : tensors)
        grads.push_back(address<const void>(attempt == 0      ? place(tensor.length * info(tensor.layout).weight_size)
                                            : random.below(2) ? random.below(space)
                                                              : next + random.below(space)));
      const std::vector<Range> ranges = ranges_of(binding, grads);
      const auto found = binding.set_grads(grads);
      ASSERT_EQ(found.has_value(), any_overlap(ranges)) << "round " << round << ", attempt " << attempt;
      found ? ++overlapping : ++apart;
      if (found) {
        EXPECT_NE(found->written_role, Role::grad);
        EXPECT_FALSE(found->written_role == found->other_role && found->written_tensor == found->other_tensor);
        EXPECT_TRUE(range_of(ranges, found->written_role, found->written_tensor)
                        .overlaps(range_of(ranges, found->other_role, found->other_tensor)));
      }
      if (!found) taken = grads;
      for (size_t i = 0; i < tensors.size(); ++i) ASSERT_EQ(binding.tensor(i).grad, taken[i]) << "round " << round;
    }
  }
  EXPECT_GT(overlapping, 5000u);
  EXPECT_GT(apart, 5000u);
}

}  // namespace
}  // namespace fused_adamw
