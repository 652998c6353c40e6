// What is done with gradients outside of a step, on the CPU.
#pragma once

#include <vector>

#include "../core/gradient-norm.h"
#include "../core/tensor-list.h"
#include "isa/kernels.h"

namespace fused_adamw::cpu {

/// The sums of the squares of gradients, in the order of core/gradient-norm.h.
class SquareSums {
 public:
  /// @param lengths elements of each gradient
  explicit SquareSums(const std::vector<size_t>& lengths);

  /// Writes the sum of each gradient to `sums`; false if an element is infinite or NaN. Of `tensors`, one for each
  /// length, only the configuration, the gradient and the length are used. Allocates nothing.
  bool compute(const TensorArrays* tensors, const Variant& variant, int threads, double* sums);

 private:
  std::vector<size_t> first_blocks_;  // of each gradient, and the number of all
  std::vector<double> blocks_;
};

/// into = into + scale * grad, for each pair of arrays.
void accumulate(const std::vector<Accumulation>& accumulations, double scale, const Variant& variant, int threads);

}  // namespace fused_adamw::cpu
