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
using testing::HostStepKernel;

TEST(WorkItems, EachIsTakenOnceByEveryLaneOfABlockOrAWarp) {
  Random random(1);
  for (int round = 0; round < 200; ++round) {
    std::vector<WorkItem> block_items(random.below(3) ? random.below(40) : 0),
        warp_items(random.below(3) ? random.below(300) : 0);
    StepTables tables{};
    tables.block_items = block_items.data();
    tables.warp_items = warp_items.data();
    tables.block_item_count = static_cast<uint32_t>(block_items.size());
    tables.warp_item_count = static_cast<uint32_t>(warp_items.size());
    std::map<const WorkItem*, std::vector<unsigned>> lanes_of;
    std::map<const WorkItem*, unsigned> block_of;
    for (unsigned block = 0; block < block_count(tables); ++block)
      for (unsigned thread = 0; thread < kBlock; ++thread) {
        const auto [item, lane, lanes] = work_of(tables, block, thread);
        if (!item) continue;
        const bool of_block = item >= block_items.data() && item < block_items.data() + block_items.size();
        ASSERT_EQ(lanes, of_block ? kBlock : kWarp);
        ASSERT_EQ(lane, thread % lanes);
        ASSERT_EQ(block_of.try_emplace(item, block).first->second, block);
        lanes_of[item].push_back(lane);  // threads come in order
      }
    const auto expect_all = [&](const std::vector<WorkItem>& items, unsigned lanes) {
      std::vector<unsigned> every(lanes);
      for (unsigned i = 0; i < lanes; ++i) every[i] = i;
      for (const WorkItem& item : items) ASSERT_EQ(lanes_of[&item], every);
    };
    expect_all(block_items, kBlock);
    expect_all(warp_items, kWarp);
    ASSERT_EQ(lanes_of.size(), block_items.size() + warp_items.size());
  }
}

template <typename T>
T* address(uintptr_t value) {
  return reinterpret_cast<T*>(value);
}

template <DTypeConfig config>
void check_elements(Random& random) {
  using D = DTypes<config>;
  constexpr unsigned width = D::kWidth;
  for (int round = 0; round < 3000; ++round) {
    const auto length = static_cast<uint32_t>(1 + random.below(random.below(4) ? 100 : kItemLength));
    const unsigned lanes = random.below(2) ? kBlock : kWarp;
    const auto is_aligned = [](const auto* array) {
      return reinterpret_cast<uintptr_t>(array) % (width * sizeof(*array)) == 0;
    };
    // Arrays that are often misaligned by the same number of elements.
    const uintptr_t common = random.below(17);
    const auto place = [&](auto* null) {
      return address<std::remove_pointer_t<decltype(null)>>((4096 + (random.below(4) ? common : random.below(17))) *
                                                            sizeof *null);
    };
    const auto* weight = place(static_cast<typename D::Weight*>(nullptr));
    const auto* grad = place(static_cast<typename D::Grad*>(nullptr));
    const auto* mean = place(static_cast<typename D::Mean*>(nullptr));
    const auto* variance = place(static_cast<typename D::Variance*>(nullptr));
    const auto* master = place(static_cast<typename D::Master*>(nullptr));
    const auto* maximum = place(static_cast<typename D::Maximum*>(nullptr));
    const AccessSplit split = split_accesses<D>(weight, grad, mean, variance, master, maximum, length);
    std::vector<int> touched(length + width);
    size_t vectors = 0;
    for (unsigned lane = 0; lane < lanes; ++lane)
      for_each_element<width>(
          split, length, lane, lanes,
          [&](uint32_t i, const auto& aligned) {
            const auto expect_aligned = [&](Role role, const auto* array) {
              ASSERT_TRUE(!aligned[role] || is_aligned(array + i)) << kRoleNames[static_cast<int>(role)];
            };
            expect_aligned(Role::weight, weight);
            expect_aligned(Role::grad, grad);
            expect_aligned(Role::mean, mean);
            expect_aligned(Role::variance, variance);
            if (D::kHasMaster) expect_aligned(Role::master, master);
            if (D::kHasMaximum) expect_aligned(Role::maximum, maximum);
            ASSERT_LE(i + width, length);
            for (unsigned k = 0; k < width; ++k) ++touched[i + k];
            ++vectors;
          },
          [&](uint32_t i) {
            ASSERT_LT(i, length);
            ++touched[i];
          });
    for (uint32_t i = 0; i < touched.size(); ++i) ASSERT_EQ(touched[i], i < length ? 1 : 0) << "element " << i;
    ASSERT_GE((vectors + 2) * width, length + 2u) << "all but the ends goes by vectors";
    // An array that alone begins elsewhere is the only one that is not accessed by whole vectors.
    const auto offset = [&](const auto* array) { return reinterpret_cast<uintptr_t>(array) / sizeof(*array) % width; };
    std::vector<size_t> offsets{offset(weight), offset(grad), offset(mean), offset(variance)};
    std::vector<Role> roles{Role::weight, Role::grad, Role::mean, Role::variance};
    if (D::kHasMaster) {
      roles.push_back(Role::master);
      offsets.push_back(offset(master));
    }
    if (D::kHasMaximum) {
      roles.push_back(Role::maximum);
      offsets.push_back(offset(maximum));
    }
    for (const size_t each : offsets) {
      const auto alike = static_cast<size_t>(std::count(offsets.begin(), offsets.end(), each));
      if (alike + 1 < offsets.size()) continue;
      for (size_t k = 0; k < offsets.size(); ++k) ASSERT_EQ(split.aligned[roles[k]], offsets[k] == each);
      ASSERT_EQ(split.all_aligned(), alike == offsets.size());
    }
  }
}

TEST(Elements, EachIsTouchedOnceAndWholeAccessesAreAligned) {
  Random random(2);
#define DTYPE_CONFIG(identifier, ...) check_elements<DTypeConfig::identifier>(random);
#include "core/dtype-configs.def"
}

/// Tensors in the memory of the host, with the tables of their step.
template <class ArraysOf>
struct HostStep {
  std::deque<ArraysOf> actual, expected;
  std::vector<uint64_t> starts;  // the index of the first element of each
  std::vector<DeviceTensor> tensors;
  std::vector<void*> grads;
  std::vector<uint32_t> group_of;
  std::vector<WorkItem> block_items, warp_items;

  /// The elements are numbered from `start` on, as if those before were there.
  void add(size_t length, uint64_t start, size_t group_count, Random& random) {
    const auto number = static_cast<uint32_t>(tensors.size());
    actual.emplace_back(length, random);
    expected.emplace_back(actual.back());
    starts.push_back(start);
    DeviceTensor tensor{{}, static_cast<uint32_t>(random.next())};
    fused_adamw::testing::for_each_role([&](auto role) {
      if constexpr (kHasRole<ArraysOf::kConfig, role.value>) {
        auto* array = actual.back().template data<role.value>();
        tensor.arrays[role] = reinterpret_cast<void*>(reinterpret_cast<uintptr_t>(array) - start * sizeof(*array));
      }
    });
    grads.push_back(tensor.arrays[Role::grad]);
    tensor.arrays[Role::grad] = nullptr;
    tensors.push_back(tensor);
    group_of.push_back(static_cast<uint32_t>(random.below(group_count)));
    if (length > 0 && length <= kWarpItemLength) warp_items.push_back({number, static_cast<uint32_t>(length), start});
    if (length <= kWarpItemLength) return;
    for (size_t at = 0; at < length; at += kItemLength)
      block_items.push_back({number, static_cast<uint32_t>(std::min<size_t>(kItemLength, length - at)), start + at});
  }

  StepTables tables(const void* groups, bool stochastic_weights, bool zero_grads) const {
    return {tensors.data(),
            grads.data(),
            group_of.data(),
            block_items.data(),
            warp_items.data(),
            static_cast<uint32_t>(block_items.size()),
            static_cast<uint32_t>(warp_items.size()),
            groups,
            stochastic_weights,
            zero_grads,
            nullptr};
  }
};

class HostKernels : public ::testing::TestWithParam<HostStepKernel> {
 protected:
  /// One launch, against the kernel of the CPU over each tensor.
  void compare(const std::vector<std::pair<size_t, uint64_t>>& lengths_and_starts, size_t group_count, Random& random) {
    fused_adamw::testing::with_config(GetParam().config, [&](auto* type) {
      using ArraysOf = std::remove_pointer_t<decltype(type)>;
      using T = typename ArraysOf::Scalar;
      HostStep<ArraysOf> step;
      for (const auto& [length, start] : lengths_and_starts) step.add(length, start, group_count, random);
      std::vector<cpu::GroupScalars> scalars;
      std::vector<DeviceGroup<T>> groups;
      const StepScalars step_scalars = fused_adamw::testing::random_step_scalars(random);
      const bool zero_grads = random.below(3) == 0;
      for (size_t i = 0; i < group_count; ++i) {
        const ScalarGroup group = fused_adamw::testing::random_group(random);
        scalars.push_back(cpu::round_scalars(step_scalars, group));
        groups.push_back({round_scalars<T>(step_scalars, group), scalars.back().count});
      }
      const bool by_value = group_count <= StepParameters<T>::kGroups;
      StepParameters<T> parameters;
      parameters.tables =
          step.tables(by_value ? nullptr : groups.data(), step_scalars.stochastic_weights != 0, zero_grads);
      if (by_value) std::copy(groups.begin(), groups.end(), parameters.groups);
      for (auto block = static_cast<unsigned>(block_count(parameters.tables)); block-- > 0;)
        GetParam().run_block(&parameters, block);

      const cpu::Kernel kernel = cpu::find_variant("baseline")->kernel(GetParam().rule, GetParam().config);
      for (size_t i = 0; i < step.actual.size(); ++i) {
        const cpu::GroupScalars& group = scalars[step.group_of[i]];
        const auto key = static_cast<uint32_t>(step.tensors[i].key);
        kernel(step.expected[i].span(step.starts[i], key, group.count), group);
        if (auto* grad = step.expected[i].template data<Role::grad>(); zero_grads)
          std::fill_n(grad, step.expected[i].length(), std::remove_pointer_t<decltype(grad)>{});
        ASSERT_TRUE(step.actual[i].equals(step.expected[i]))
            << "tensor " << i << " of length " << step.actual[i].length() << ", start " << step.starts[i];
      }
    });
  }
};

TEST_P(HostKernels, EqualTheCpuOverAnyTensors) {
  Random random(3);
  for (int round = 0; round < 12; ++round) {
    std::vector<std::pair<size_t, uint64_t>> tensors;
    for (size_t count = 1 + random.below(30); count > 0; --count)
      tensors.emplace_back(random.below(random.below(4) ? 700 : 3 * kItemLength), 0);
    compare(tensors, 1 + random.below(2) * 99, random);
    if (HasFatalFailure()) return;
  }
}

TEST_P(HostKernels, NumberElementsBeyond32Bits) {
  Random random(4);
  constexpr uint64_t k4Gi = uint64_t{1} << 32;
  compare({{100, k4Gi - kItemLength},
           {kWarpItemLength, k4Gi},
           {2 * kItemLength, k4Gi - kItemLength},
           {3 * kItemLength - 1, 5 * k4Gi - 2 * kItemLength},
           {777, (uint64_t{1} << 40) + kItemLength}},
          3, random);
}

INSTANTIATE_TEST_SUITE_P(Every, HostKernels, ::testing::ValuesIn(testing::kHostKernels),
                         [](const auto& tested) { return tested.param.name; });

TEST(KernelNames, AreThoseOfRulesAndConfigurations) {
  EXPECT_EQ(kernel_name(Rule::coupled, DTypeConfig::float16_float32_states), "adamw_coupled_float16_float32_states");
  for (int i = 0; i < kKernels; ++i) {
    const HostStepKernel& kernel = testing::kHostKernels[static_cast<size_t>(i)];
    EXPECT_EQ(kernel_index(kernel.rule, kernel.config), i);
  }
}

}  // namespace
}  // namespace fused_adamw::cuda
