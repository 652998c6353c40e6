// The parameters of the CUDA kernels, and which elements each thread updates.
//
// Plain structs and index arithmetic for both host and device: the host fills the
// tables, and the tests run the arithmetic of every block and thread on it.
#pragma once

#include <initializer_list>

#include "../core/dtype-configs.h"
#include "../core/scalars.h"

namespace fused_adamw::cuda {

/// Elements of a work item at most. Items begin at multiples of it, so none
/// crosses a multiple of 2^32, where the key of the random numbers changes.
inline constexpr uint32_t kItemLength = 4096;
/// Tensors up to this length are one warp item each, longer ones several block items.
inline constexpr uint32_t kWarpItemLength = 512;
inline constexpr unsigned kWarp = 32;
inline constexpr unsigned kBlock = 256;
/// Bytes of a vector access at most.
inline constexpr unsigned kAccess = 16;

constexpr unsigned max_of(std::initializer_list<size_t> sizes) {
  size_t most = 0;
  for (const size_t size : sizes) most = size > most ? size : most;
  return static_cast<unsigned>(most);
}

/// Elements of one tensor that a block or a warp updates: a block item or a warp item.
struct WorkItem {
  uint32_t tensor;
  uint32_t length;
  uint64_t start;
};

/// A tensor as the kernels see it. The arrays are addresses on the device; that of
/// the gradient is null here, since it changes from step to step (StepTables::grads).
struct DeviceTensor {
  ByRole<void*> arrays;
  uint64_t key;  // for stochastic rounding
};

/// The scalars of a group, in the arithmetic type of the kernel.
template <typename T>
struct DeviceGroup {
  Scalars<T> scalars;
  uint32_t count;
};

// Bytes of a kernel's parameters at most: the limit that every driver supports.
inline constexpr size_t kParameterBytes = 4096;

/// What a GPU has decided about a step. What the next step begins with is in it, too.
struct Decision {
  enum class Outcome : uint32_t { taken, skipped_by_rescale, skipped_by_norm };

  double norm;                   // of the rescaled gradients, before clipping
  double rescale;                // of the step
  double scale, growth_tracker;  // of a LossScaler, after the step
  uint32_t skips;                // steps since the start that were skipped
  uint32_t candidate;            // which scalars the step takes
  uint32_t finite;               // whether all gradients are
  Outcome outcome;
};
/// The scalars that a step may turn out to take: so many for each group.
inline constexpr size_t kMostCandidates = 8;

struct StepTables {
  const DeviceTensor* tensors;
  void* const* grads;        // of each tensor
  const uint32_t* group_of;  // of each tensor
  const WorkItem* block_items;
  const WorkItem* warp_items;
  uint32_t block_item_count, warp_item_count;
  const void* groups;                       // null if they are in the parameters
  uint32_t stochastic_weights, zero_grads;  // whether
  const Decision* decision;                 // null where the host has decided that the step takes place
};

template <typename T>
struct StepParameters {
  static constexpr size_t kGroups = (kParameterBytes - sizeof(StepTables)) / sizeof(DeviceGroup<T>);

  StepTables tables;
  DeviceGroup<T> groups[kGroups];
};
static_assert(sizeof(StepParameters<float>) <= kParameterBytes && sizeof(StepParameters<double>) <= kParameterBytes);

/// The dtypes of a configuration, by the names of the roles that kernels use.
template <DTypeConfig config>
struct DTypes {
  using Weight = RoleType<config, Role::weight>;
  using Grad = RoleType<config, Role::grad>;
  using Mean = RoleType<config, Role::mean>;
  using Variance = RoleType<config, Role::variance>;
  using Master = RoleType<config, Role::master>;
  using Maximum = RoleType<config, Role::maximum>;
  static constexpr bool kHasMaster = kHasRole<config, Role::master>;
  static constexpr bool kHasMaximum = kHasRole<config, Role::maximum>;
  /// Elements that a thread updates at a time: one access to the widest array.
  static constexpr unsigned kWidth =
      kAccess / max_of({sizeof(Weight), sizeof(Grad), sizeof(Mean), sizeof(Variance), sizeof(Master), sizeof(Maximum)});
};

/// The blocks of a launch: one for each block item, then one for so many warp items.
/// As many as there are items, and none with more than one: the device hands them out
/// as multiprocessors become free, also where other kernels hold some of them.
inline constexpr unsigned kWarpsOfBlock = kBlock / kWarp;
inline uint64_t block_count(const StepTables& tables) {
  return uint64_t{tables.block_item_count} + (tables.warp_item_count + kWarpsOfBlock - 1) / kWarpsOfBlock;
}

/// The work item of a thread, and its place among the threads that share it.
struct ThreadWork {
  const WorkItem* item;  // null where there is none left for its warp
  unsigned lane, lanes;
};

ADAMW_INLINE ThreadWork work_of(const StepTables& tables, unsigned block, unsigned thread) {
  if (block < tables.block_item_count) return {tables.block_items + block, thread, kBlock};
  const unsigned i = (block - tables.block_item_count) * kWarpsOfBlock + thread / kWarp;
  return {i < tables.warp_item_count ? tables.warp_items + i : nullptr, thread % kWarp, kWarp};
}

/// The roles whose arrays are aligned like most, in one register.
struct AlignedRoles {
  uint32_t bits = 0;

  ADAMW_INLINE void add(Role role, bool is_aligned) { bits |= uint32_t{is_aligned} << static_cast<int>(role); }
  ADAMW_INLINE bool operator[](Role role) const { return bits >> static_cast<int>(role) & 1; }
};
/// Where all are.
struct AllRoles {
  ADAMW_INLINE constexpr bool operator[](Role) const { return true; }
};

/// How the elements of an item are accessed: a scalar head, vectors of several elements,
/// and a scalar tail. A vector is one access to each array that is aligned like most;
/// to the others it is an access for each element.
struct AccessSplit {
  uint32_t head;  // elements
  uint32_t vectors;
  AlignedRoles aligned;

  ADAMW_INLINE bool all_aligned() const { return aligned.bits == (1u << kRoles) - 1; }
};

template <class D>
ADAMW_INLINE AccessSplit split_accesses(const typename D::Weight* weight, const typename D::Grad* grad,
                                        const typename D::Mean* mean, const typename D::Variance* variance,
                                        const typename D::Master* master, const typename D::Maximum* maximum,
                                        uint32_t length) {
  constexpr unsigned width = D::kWidth;
  // Elements up to the next one where a vector access may begin.
  const auto misaligned = [](const auto* array) {
    const auto elements = static_cast<unsigned>(reinterpret_cast<uintptr_t>(array) / sizeof(*array));
    return (width - elements % width) % width;
  };
  // States are allocated like their weight, so what two of the three agree in is what most arrays do.
  const uint32_t of_mean = misaligned(mean);
  const uint32_t most = misaligned(variance) == of_mean ? of_mean : misaligned(weight);
  AccessSplit split{};
  split.aligned.add(Role::weight, misaligned(weight) == most);
  split.aligned.add(Role::grad, misaligned(grad) == most);
  split.aligned.add(Role::mean, of_mean == most);
  split.aligned.add(Role::variance, misaligned(variance) == most);
  split.aligned.add(Role::master, !D::kHasMaster || misaligned(master) == most);
  split.aligned.add(Role::maximum, !D::kHasMaximum || misaligned(maximum) == most);
  split.head = most < length ? most : length;
  split.vectors = (length - split.head) / width;
  return split;
}

/// Visits the elements of an item that one of `lanes` threads updates: vector(i, aligned)
/// for elements [i, i + width), scalar(i) for one.
template <unsigned width, class Vector, class Scalar>
ADAMW_INLINE void for_each_element(const AccessSplit& split, uint32_t length, unsigned lane, unsigned lanes,
                                   const Vector& vector, const Scalar& scalar) {
  const uint32_t gap = split.vectors * width;  // between the head and the tail
  for (uint32_t i = lane; i < length - gap; i += lanes) scalar(i < split.head ? i : i + gap);
  const auto for_each_vector = [&](const auto& aligned) {
    for (uint32_t k = lane; k < split.vectors; k += lanes) vector(split.head + k * width, aligned);
  };
  if (split.all_aligned())
    for_each_vector(AllRoles());
  else
    for_each_vector(split.aligned);
}

}  // namespace fused_adamw::cuda
