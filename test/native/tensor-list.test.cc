// TensorList: element numbers, groups, and overlaps against a search of all pairs.
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

TEST(TensorList, NumbersTheElementsOfAllTensors) {
  std::vector<TensorArrays> tensors(4);
  const size_t lengths[] = {3, 0, size_t{1} << 33, 5};
  for (size_t i = 0; i < 4; ++i) tensors[i].length = lengths[i];
  const TensorList list(Rule::coupled, tensors);
  EXPECT_EQ(list.size(), 4u);
  EXPECT_EQ(list.rule(), Rule::coupled);
  const uint64_t starts[] = {0, 3, 3, (uint64_t{1} << 33) + 3, (uint64_t{1} << 33) + 8};
  for (size_t i = 0; i <= 4; ++i) {
    EXPECT_EQ(list.element_start(i), starts[i]);
    EXPECT_EQ(list.element_starts()[i], starts[i]);
  }
}

TEST(TensorList, TakesGradientsAndGroups) {
  TensorList list(Rule::mxnet, std::vector<TensorArrays>(2));
  EXPECT_FALSE(list.set_grads({address<void>(1), address<void>(2)}));
  list.set_groups({1, 0}, 2);
  EXPECT_EQ(list.tensor(0).arrays[Role::grad], address<void>(1));
  EXPECT_EQ(list.tensor(1).arrays[Role::grad], address<void>(2));
  EXPECT_EQ(list.tensor(0).group, 1u);
  EXPECT_EQ(list.tensor(1).group, 0u);
  EXPECT_EQ(list.group_count(), 2u);
}

TEST(TensorList, OfNothingHasNoOverlap) {
  TensorList list(Rule::mxnet, {});
  EXPECT_EQ(list.element_start(0), 0u);
  EXPECT_FALSE(list.set_grads({}));
}

struct Range {
  size_t begin, end;
  Role role;
  uint32_t tensor;

  bool overlaps(const Range& other) const {
    return begin < end && other.begin < other.end && begin < other.end && other.begin < end;
  }
};

std::vector<Range> ranges_of(const TensorList& list, const std::vector<void*>& grads) {
  std::vector<Range> ranges;
  for (uint32_t i = 0; i < list.size(); ++i) {
    const TensorArrays& tensor = list.tensor(i);
    for (const Role role : kEveryRole) {
      const auto begin = reinterpret_cast<uintptr_t>(role == Role::grad ? grads[i] : tensor.arrays[role]);
      ranges.push_back({begin, begin + tensor.length * role_bytes(tensor.config, role), role, i});
    }
  }
  return ranges;
}

bool any_overlap(const std::vector<Range>& ranges) {
  for (const Range& a : ranges)
    for (const Range& b : ranges)
      if (&a != &b && is_written(a.role) && a.overlaps(b)) return true;
  return false;
}

const Range& range_of(const std::vector<Range>& ranges, Role role, uint32_t tensor) {
  return *std::find_if(ranges.begin(), ranges.end(),
                       [&](const Range& range) { return range.role == role && range.tensor == tensor; });
}

TEST(TensorList, FindsTheOverlapsThatASearchOfAllPairsFinds) {
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
      tensor.config = testing::random_config(random);
      tensor.length = random.below(8);
      for (const Role role : kEveryRole) {
        // An address of an array that the configuration does not have must not count.
        const size_t bytes = role_bytes(tensor.config, role);
        if (role != Role::grad) tensor.arrays[role] = address<void>(bytes > 0 ? place(tensor.length * bytes) : 0);
      }
    }
    TensorList list(Rule::mxnet, tensors);
    std::vector<void*> taken(tensors.size(), nullptr);
    for (int attempt = 0; attempt < 3; ++attempt) {
      // At first gradients that lie among the rest; then two may be the same memory, and lie beyond all that is
      // written.
      std::vector<void*> grads;
      for (const TensorArrays& tensor : tensors)
        grads.push_back(address<void>(attempt == 0      ? place(tensor.length * role_bytes(tensor.config, Role::grad))
                                      : random.below(2) ? random.below(space)
                                                        : next + random.below(space)));
      const std::vector<Range> ranges = ranges_of(list, grads);
      const auto found = list.set_grads(grads);
      ASSERT_EQ(found.has_value(), any_overlap(ranges)) << "round " << round << ", attempt " << attempt;
      found ? ++overlapping : ++apart;
      if (found) {
        EXPECT_TRUE(is_written(found->written_role));
        EXPECT_FALSE(found->written_role == found->other_role && found->written_tensor == found->other_tensor);
        EXPECT_TRUE(range_of(ranges, found->written_role, found->written_tensor)
                        .overlaps(range_of(ranges, found->other_role, found->other_tensor)));
      }
      if (!found) taken = grads;
      for (size_t i = 0; i < tensors.size(); ++i)
        ASSERT_EQ(list.tensor(i).arrays[Role::grad], taken[i]) << "round " << round;
    }
  }
  EXPECT_GT(overlapping, 5000u);
  EXPECT_GT(apart, 5000u);
}

}  // namespace
}  // namespace fused_adamw
