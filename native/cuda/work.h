// What a CUDA step hands to its kernels, and which elements each thread takes.
//
// Plain structs and index arithmetic for host and device: the host makes the
// tables, and the tests run the arithmetic of every block and thread there.
#pragma once

#include "../core/dtypes.h"

namespace fused_adamw::cuda {

/// Elements of a unit of work at most. Units begin at multiples of it, so none
/// crosses a multiple of 2^32, where the random numbers take another key.
inline constexpr uint32_t kUnitLength = 4096;
/// Tensors up to this length take a warp; longer ones a block for each unit.
inline constexpr uint32_t kWarpUnitLength = 512;
inline constexpr unsigned kWarp = 32;
inline constexpr unsigned kBlock = 256;
/// Bytes of a memory access at most.
inline constexpr unsigned kAccess = 16;

/// Some elements of one tensor.
struct Unit {
  uint32_t tensor;
  uint32_t length;
  uint64_t start;
};

/// The arrays of a tensor that stay from step to step; addresses of the device.
struct DeviceTensor {
  void* weight;
  void* mean;
  void* variance;
  float* master;
  uint64_t key;  // for stochastic rounding
};

/// The scalars of a group, in the arithmetic type of the kernel.
template <typename T>
struct DeviceGroup {
  Scalars<T> scalars;
  uint32_t count;
};

// The parameters of a kernel: 4,096 bytes at most, which every driver takes.
inline constexpr size_t kParameterBytes = 4096;

struct StepTables {
  const DeviceTensor* tensors;
  const void* const* grads;  // of each tensor
  const uint32_t* group_of;  // of each tensor
  const Unit* block_units;
  const Unit* warp_units;
  uint32_t block_unit_count, warp_unit_count;
  const void* groups;  // null: they are in the parameters
};

template <typename T>
struct StepParameters {
  static constexpr size_t kGroups = (kParameterBytes - sizeof(StepTables)) / sizeof(DeviceGroup<T>);

  StepTables tables;
  DeviceGroup<T> groups[kGroups];
};
static_assert(sizeof(StepParameters<float>) <= kParameterBytes && sizeof(StepParameters<double>) <= kParameterBytes);

/// The dtypes of a layout's arrays.
template <Layout layout>
struct Dtypes;
template <typename W, typename S, bool master>
struct DtypesAre {
  using Weight = W;  // and gradient
  using State = S;   // mean and variance
  static constexpr bool kMaster = master;
  /// Elements that a thread updates at a time: one access of the widest array.
  static constexpr unsigned kWidth = kAccess / (sizeof(W) > sizeof(S) ? sizeof(W) : sizeof(S));
};
template <>
struct Dtypes<Layout::float32> : DtypesAre<float, float, false> {};
template <>
struct Dtypes<Layout::float64> : DtypesAre<double, double, false> {};
template <>
struct Dtypes<Layout::float16> : DtypesAre<Float16, Float16, false> {};
template <>
struct Dtypes<Layout::float16_float32_states> : DtypesAre<Float16, float, false> {};
template <>
struct Dtypes<Layout::float16_master> : DtypesAre<Float16, float, true> {};
template <>
struct Dtypes<Layout::bfloat16> : DtypesAre<BFloat16, BFloat16, false> {};
template <>
struct Dtypes<Layout::bfloat16_float32_states> : DtypesAre<BFloat16, float, false> {};
template <>
struct Dtypes<Layout::bfloat16_master> : DtypesAre<BFloat16, float, true> {};

/// The units that one thread works on: its block takes every so many-th block
/// unit, then its warp every so many-th warp unit.
template <class Visit>
ADAMW_INLINE void for_each_unit(const StepTables& tables, unsigned block, unsigned blocks, unsigned thread,
                                const Visit& visit) {
  constexpr unsigned warps = kBlock / kWarp;
  bool of_block = true;
  for (uint32_t i = block;;) {
    if (of_block && i >= tables.block_unit_count) {
      of_block = false;
      i = block * warps + thread / kWarp;
    }
    if (!of_block && i >= tables.warp_unit_count) return;
    const Unit& unit = of_block ? tables.block_units[i] : tables.warp_units[i];
    visit(unit, of_block ? thread : thread % kWarp, of_block ? kBlock : kWarp);
    i += of_block ? blocks : blocks * warps;
  }
}

/// The elements of a unit before whole accesses begin, and how many of these
/// there are: none where the arrays do not become aligned together.
struct Cut {
  uint32_t head, accesses;
};

template <class D>
ADAMW_INLINE Cut cut_unit(const typename D::Weight* weight, const typename D::Weight* grad,
                          const typename D::State* mean, const typename D::State* variance, const float* master,
                          uint32_t length) {
  constexpr unsigned width = D::kWidth;
  // Elements up to the next place where an access may begin.
  const auto misaligned = [](const auto* array) {
    const auto elements = static_cast<unsigned>(reinterpret_cast<uintptr_t>(array) / sizeof(*array));
    return (width - elements % width) % width;
  };
  const uint32_t head = misaligned(weight);
  const bool together = misaligned(grad) == head && misaligned(mean) == head && misaligned(variance) == head &&
                        (!D::kMaster || misaligned(master) == head);
  if (!together || head >= length) return {length, 0};
  return {head, (length - head) / width};
}

/// The elements of a unit that one of `lanes` threads updates: together(i)
/// takes the elements of an access, [i, i + width); apart(i) one.
template <unsigned width, class Together, class Apart>
ADAMW_INLINE void for_each_element(const Cut& cut, uint32_t length, unsigned lane, unsigned lanes,
                                   const Together& together, const Apart& apart) {
  const uint32_t gap = cut.accesses * width;  // between the head and what follows the last access
  for (uint32_t i = lane; i < length - gap; i += lanes) apart(i < cut.head ? i : i + gap);
  for (uint32_t k = lane; k < cut.accesses; k += lanes) together(cut.head + k * width);
}

}  // namespace fused_adamw::cuda
