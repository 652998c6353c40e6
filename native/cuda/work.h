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

struct StepTables {
  const DeviceTensor* tensors;
  const void* const* grads;  // of each tensor
  const uint32_t* group_of;  // of each tensor
  const WorkItem* block_items;
  const WorkItem* warp_items;
  uint32_t block_item_count, warp_item_count;
  const void* groups;  // null if they are in the parameters
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
  static constexpr bool kHasMaster = kHasRole<config, Role::master>;
  /// Elements that a thread updates at a time: one access to the widest array.
  static constexpr unsigned kWidth =
      kAccess / max_of({sizeof(Weight), sizeof(Grad), sizeof(Mean), sizeof(Variance), sizeof(Master)});
};

/// Visits the work items of one thread: its block takes every `blocks`-th block
/// item, then its warp every so many-th warp item.
template <class Visit>
ADAMW_INLINE void for_each_item(const StepTables& tables, unsigned block, unsigned blocks, unsigned thread,
                                const Visit& visit) {
  constexpr unsigned warps = kBlock / kWarp;
  bool of_block = true;
  for (uint32_t i = block;;) {
    if (of_block && i >= tables.block_item_count) {
      of_block = false;
      i = block * warps + thread / kWarp;
    }
    if (!of_block && i >= tables.warp_item_count) return;
    const WorkItem& item = of_block ? tables.block_items[i] : tables.warp_items[i];
    visit(item, of_block ? thread : thread % kWarp, of_block ? kBlock : kWarp);
    i += of_block ? blocks : blocks * warps;
  }
}

/// How the elements of an item are accessed: a scalar head, vector accesses of
/// several elements each, and a scalar tail. Where the arrays are not aligned
/// alike, all elements are in the head.
struct AccessSplit {
  uint32_t head;      // elements
  uint32_t accesses;  // vector accesses
};

template <class D>
ADAMW_INLINE AccessSplit split_accesses(const typename D::Weight* weight, const typename D::Grad* grad,
                                        const typename D::Mean* mean, const typename D::Variance* variance,
                                        const typename D::Master* master, uint32_t length) {
  constexpr unsigned width = D::kWidth;
  // Elements up to the next one where a vector access may begin.
  const auto misaligned = [](const auto* array) {
    const auto elements = static_cast<unsigned>(reinterpret_cast<uintptr_t>(array) / sizeof(*array));
    return (width - elements % width) % width;
  };
  const uint32_t head = misaligned(weight);
  const bool alike = misaligned(grad) == head && misaligned(mean) == head && misaligned(variance) == head &&
                     (!D::kHasMaster || misaligned(master) == head);
  if (!alike || head >= length) return {length, 0};
  return {head, (length - head) / width};
}

/// Visits the elements of an item that one of `lanes` threads updates: vector(i)
/// for elements [i, i + width), scalar(i) for one.
template <unsigned width, class Vector, class Scalar>
ADAMW_INLINE void for_each_element(const AccessSplit& split, uint32_t length, unsigned lane, unsigned lanes,
                                   const Vector& vector, const Scalar& scalar) {
  const uint32_t gap = split.accesses * width;  // between the head and the tail
  for (uint32_t i = lane; i < length - gap; i += lanes) scalar(i < split.head ? i : i + gap);
  for (uint32_t k = lane; k < split.accesses; k += lanes) vector(split.head + k * width);
}

}  // namespace fused_adamw::cuda
