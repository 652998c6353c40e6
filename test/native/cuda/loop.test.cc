// The index arithmetic of the kernels, and the kernels themselves, run on the
// host for every block and thread.
#include <gtest/gtest.h>

#include <deque>
#include <map>

#include "../support.h"
#include "host-kernels.h"

namespace fused_adamw::cuda {
namespace {

using fused_adamw::testing::Random;
using testing::HostKernel;

TEST(Units, EachIsTakenOnceByEveryLaneOfABlockOrAWarp) {
  Random random(1);
  for (int round = 0; round < 200; ++round) {
    std::vector<Unit> block_units(random.below(3) ? random.below(40) : 0),
        warp_units(random.below(3) ? random.below(300) : 0);
    StepTables tables{};
    tables.block_units = block_units.data();
    tables.warp_units = warp_units.data();
    tables.block_unit_count = static_cast<uint32_t>(block_units.size());
    tables.warp_unit_count = static_cast<uint32_t>(warp_units.size());
    const auto blocks = static_cast<unsigned>(1 + random.below(20));
    std::map<const Unit*, std::vector<unsigned>> lanes_of;
    std::map<const Unit*, unsigned> block_of;
    for (unsigned block = 0; block < blocks; ++block)
      for (unsigned thread = 0; thread < kBlock; ++thread)
        for_each_unit(tables, block, blocks, thread, [&](const Unit& unit, unsigned lane, unsigned lanes) {
          const bool of_block = &unit >= block_units.data() && &unit < block_units.data() + block_units.size();
          ASSERT_EQ(lanes, of_block ? kBlock : kWarp);
          ASSERT_EQ(lane, thread % lanes);
          ASSERT_EQ(block_of.try_emplace(&unit, block).first->second, block);
          lanes_of[&unit].push_back(lane);  // threads come in order
        });
    const auto expect_all = [&](const std::vector<Unit>& units, unsigned lanes) {
      std::vector<unsigned> every(lanes);
      for (unsigned i = 0; i < lanes; ++i) every[i] = i;
      for (const Unit& unit : units) ASSERT_EQ(lanes_of[&unit], every);
    };
    expect_all(block_units, kBlock);
    expect_all(warp_units, kWarp);
    ASSERT_EQ(lanes_of.size(), block_units.size() + warp_units.size());
  }
}

template <typename T>
T* address(uintptr_t value) {
  return reinterpret_cast<T*>(value);
}

template <Layout layout>
void check_elements(Random& random) {
  using D = Dtypes<layout>;
  constexpr unsigned width = D::kWidth;
  for (int round = 0; round < 3000; ++round) {
    const auto length = static_cast<uint32_t>(1 + random.below(random.below(4) ? 100 : kUnitLength));
    const unsigned lanes = random.below(2) ? kBlock : kWarp;
    // Arrays whose distances from alignment are often the same number of elements.
    const uintptr_t common = random.below(17);
    const auto elements = [&] { return 4096 + (random.below(4) ? common : random.below(17)); };
    const auto* weight = address<const typename D::Weight>(elements() * sizeof(typename D::Weight));
    const auto* grad = address<const typename D::Weight>(elements() * sizeof(typename D::Weight));
    const auto* mean = address<const typename D::State>(elements() * sizeof(typename D::State));
    const auto* variance = address<const typename D::State>(elements() * sizeof(typename D::State));
    const auto* master = D::kMaster ? address<const float>(elements() * sizeof(float)) : nullptr;
    const Cut cut = cut_unit<D>(weight, grad, mean, variance, master, length);
    std::vector<int> touched(length + width);
    size_t accesses = 0;
    for (unsigned lane = 0; lane < lanes; ++lane)
      for_each_element<width>(
          cut, length, lane, lanes,
          [&](uint32_t i) {
            const auto expect_aligned = [&](const auto* array) {
              ASSERT_EQ(reinterpret_cast<uintptr_t>(array + i) % (width * sizeof(*array)), 0u);
            };
            expect_aligned(weight);
            expect_aligned(grad);
            expect_aligned(mean);
            expect_aligned(variance);
            if (D::kMaster) expect_aligned(master);
            ASSERT_LE(i + width, length);
            for (unsigned k = 0; k < width; ++k) ++touched[i + k];
            ++accesses;
          },
          [&](uint32_t i) {
            ASSERT_LT(i, length);
            ++touched[i];
          });
    for (uint32_t i = 0; i < touched.size(); ++i) ASSERT_EQ(touched[i], i < length ? 1 : 0) << "element " << i;
    const auto aligned = [&](const auto* array) { return reinterpret_cast<uintptr_t>(array) / sizeof(*array) % width; };
    const bool alike = aligned(weight) == aligned(grad) && aligned(weight) == aligned(mean) &&
                       aligned(weight) == aligned(variance) && (!D::kMaster || aligned(weight) == aligned(master));
    if (alike) {  // all but the ends goes by whole accesses
      ASSERT_GE((accesses + 2) * width, length + 2u);
    } else {
      ASSERT_EQ(accesses, 0u);
    }
  }
}

TEST(Elements, EachIsTouchedOnceAndWholeAccessesAreAligned) {
  Random random(2);
  check_elements<Layout::float32>(random);
  check_elements<Layout::float64>(random);
  check_elements<Layout::float16>(random);
  check_elements<Layout::float16_float32_states>(random);
  check_elements<Layout::float16_master>(random);
  check_elements<Layout::bfloat16>(random);
  check_elements<Layout::bfloat16_float32_states>(random);
  check_elements<Layout::bfloat16_master>(random);
}

/// Tensors in the memory of the host, with the tables of their step.
template <class ArraysOf>
struct HostStep {
  std::deque<ArraysOf> actual, expected;
  std::vector<uint64_t> starts;  // the number of the first element of each
  std::vector<DeviceTensor> tensors;
  std::vector<const void*> grads;
  std::vector<uint32_t> group_of;
  std::vector<Unit> block_units, warp_units;

  /// The elements are numbered from `start` on, as if those before were there.
  void add(size_t length, uint64_t start, size_t group_count, Random& random) {
    const auto number = static_cast<uint32_t>(tensors.size());
    actual.emplace_back(length, random);
    expected.emplace_back(actual.back());
    starts.push_back(start);
    const auto before = [start](auto* array) {
      return reinterpret_cast<decltype(array)>(reinterpret_cast<uintptr_t>(array) - start * sizeof(*array));
    };
    ArraysOf& arrays = actual.back();
    tensors.push_back({before(arrays.weight.data()), before(arrays.mean.data()), before(arrays.variance.data()),
                       ArraysOf::kMaster ? before(arrays.master.data()) : nullptr,
                       static_cast<uint32_t>(random.next())});
    grads.push_back(before(arrays.grad.data()));
    group_of.push_back(static_cast<uint32_t>(random.below(group_count)));
    if (length > 0 && length <= kWarpUnitLength) warp_units.push_back({number, static_cast<uint32_t>(length), start});
    if (length <= kWarpUnitLength) return;
    for (size_t at = 0; at < length; at += kUnitLength)
      block_units.push_back({number, static_cast<uint32_t>(std::min<size_t>(kUnitLength, length - at)), start + at});
  }

  StepTables tables(const void* groups) const {
    return {tensors.data(),
            grads.data(),
            group_of.data(),
            block_units.data(),
            warp_units.data(),
            static_cast<uint32_t>(block_units.size()),
            static_cast<uint32_t>(warp_units.size()),
            groups};
  }
};

class HostKernels : public ::testing::TestWithParam<HostKernel> {
 protected:
  /// One launch, against the kernel of the CPU over each tensor.
  void compare(const std::vector<std::pair<size_t, uint64_t>>& lengths_and_starts, size_t group_count, unsigned blocks,
               Random& random) {
    fused_adamw::testing::with_layout(GetParam().layout, [&](auto* type) {
      using ArraysOf = std::remove_pointer_t<decltype(type)>;
      using T = typename ArraysOf::Scalar;
      HostStep<ArraysOf> step;
      for (const auto& [length, start] : lengths_and_starts) step.add(length, start, group_count, random);
      std::vector<cpu::GroupScalars> scalars;
      std::vector<DeviceGroup<T>> groups;
      const StepOptions options = fused_adamw::testing::random_options(random);
      for (size_t i = 0; i < group_count; ++i) {
        const Group group = fused_adamw::testing::random_group(random);
        scalars.push_back(fused_adamw::testing::scalars_of(options, group));
        groups.push_back({round_scalars<T>(options, group), scalars.back().count});
      }
      const bool by_value = group_count <= StepParameters<T>::kGroups;
      StepParameters<T> parameters;
      parameters.tables = step.tables(by_value ? nullptr : groups.data());
      if (by_value) std::copy(groups.begin(), groups.end(), parameters.groups);
      for (unsigned block = blocks; block-- > 0;) GetParam().run_block(&parameters, block, blocks);

      const cpu::Kernel kernel = cpu::find_variant("baseline")->kernel(GetParam().rule, GetParam().layout);
      for (size_t i = 0; i < step.actual.size(); ++i) {
        const cpu::GroupScalars& group = scalars[step.group_of[i]];
        const auto key = static_cast<uint32_t>(step.tensors[i].key);
        kernel(step.expected[i].span(step.starts[i], key, group.count), group);
        ASSERT_TRUE(step.actual[i].equals(step.expected[i]))
            << "tensor " << i << " of length " << step.actual[i].weight.size() << ", start " << step.starts[i];
      }
    });
  }
};

TEST_P(HostKernels, EqualTheCpuOverAnyTensors) {
  Random random(3);
  for (int round = 0; round < 12; ++round) {
    std::vector<std::pair<size_t, uint64_t>> tensors;
    for (size_t count = 1 + random.below(30); count > 0; --count)
      tensors.emplace_back(random.below(random.below(4) ? 700 : 3 * kUnitLength), 0);
    compare(tensors, 1 + random.below(2) * 99, static_cast<unsigned>(1 + random.below(8)), random);
    if (HasFatalFailure()) return;
  }
}

TEST_P(HostKernels, NumberElementsBeyond32Bits) {
  Random random(4);
  constexpr uint64_t k4Gi = uint64_t{1} << 32;
  compare({{100, k4Gi - kUnitLength},
           {kWarpUnitLength, k4Gi},
           {2 * kUnitLength, k4Gi - kUnitLength},
           {3 * kUnitLength - 1, 5 * k4Gi - 2 * kUnitLength},
           {777, (uint64_t{1} << 40) + kUnitLength}},
          3, 2, random);
}

INSTANTIATE_TEST_SUITE_P(Every, HostKernels, ::testing::ValuesIn(testing::kHostKernels),
                         [](const auto& tested) { return std::string(tested.param.name); });

TEST(KernelNames, AreThoseOfRulesAndLayouts) {
  for (int i = 0; i < kRules * kLayouts; ++i) {
    const HostKernel& kernel = testing::kHostKernels[i];
    EXPECT_STREQ(kKernelNames[i], kernel.name);
    EXPECT_EQ(static_cast<int>(kernel.rule) * kLayouts + static_cast<int>(kernel.layout), i);
  }
}

}  // namespace
}  // namespace fused_adamw::cuda
