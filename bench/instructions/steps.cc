// Steps of one case on one thread, between two calls of umask(), where
// scripts/check-instructions.mjs counts instructions:
//
//     count_steps ISA LAYOUT TENSORS LENGTH STEPS
#include <sys/stat.h>

#include <cstdio>
#include <cstdlib>
#include <string>

#include "../../native/cpu/step.h"

using namespace fused_adamw;

int main(int count, char** arguments) {
  if (count != 6) {
    std::fprintf(stderr, "Expected ISA LAYOUT TENSORS LENGTH STEPS\n");
    return 1;
  }
  const cpu::Variant* variant = cpu::find_variant(arguments[1]);
  const std::string name = arguments[2];
  const size_t size = std::strtoull(arguments[3], nullptr, 10), length = std::strtoull(arguments[4], nullptr, 10);
  const long steps = std::strtol(arguments[5], nullptr, 10);
  int layout = 0;
  while (layout < kLayouts && name != kLayoutInfo[layout].name) ++layout;
  if (!variant || layout == kLayouts) {
    std::fprintf(stderr, "Expected an instruction set of this machine and the name of a layout\n");
    return 1;
  }

  // Doubles are wide enough for every array, and zeros are numbers of every dtype.
  std::vector<std::vector<double>> arrays(5 * size, std::vector<double>(length));
  std::vector<TensorArrays> tensors(size);
  std::vector<const void*> grads(size);
  for (size_t i = 0; i < size; ++i) {
    double* of[5];
    for (size_t k = 0; k < 5; ++k) of[k] = arrays[5 * i + k].data();
    tensors[i].layout = static_cast<Layout>(layout);
    tensors[i].length = length;
    tensors[i].weight = of[0];
    tensors[i].mean = of[1];
    tensors[i].variance = of[2];
    if (kLayoutInfo[layout].master) tensors[i].master = reinterpret_cast<float*>(of[3]);
    grads[i] = of[4];
  }
  Binding binding(Rule::mxnet, std::move(tensors));
  binding.set_grads(grads);
  binding.set_groups(std::vector<uint32_t>(size), 1);
  cpu::GroupScalars scalars;
  const Group group{0.001, 1, 0.01, 1e-6, 1, 1};
  cpu::round_groups({1, 1e30, 0.9, 0.999}, &group, 1, &scalars);
  umask(022);
  for (long step = 0; step < steps; ++step) cpu::step(binding, *variant, &scalars, 0, size, 1);
  umask(022);
  return 0;
}
