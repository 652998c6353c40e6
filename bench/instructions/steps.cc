// Steps of one case on one thread, between two calls of umask(), where
// scripts/check-instructions.mjs counts instructions:
//
//     count_steps ISA DTYPES TENSORS LENGTH STEPS
#include <sys/stat.h>

#include <cstdio>
#include <cstdlib>
#include <string>

#include "../../native/cpu/step.h"

using namespace fused_adamw;

int main(int count, char** arguments) {
  if (count != 6) {
    std::fprintf(stderr, "Expected ISA DTYPES TENSORS LENGTH STEPS\n");
    return 1;
  }
  const cpu::Variant* variant = cpu::find_variant(arguments[1]);
  const std::string name = arguments[2];
  const size_t size = std::strtoull(arguments[3], nullptr, 10), length = std::strtoull(arguments[4], nullptr, 10);
  const long steps = std::strtol(arguments[5], nullptr, 10);
  int config = 0;
  while (config < kDTypeConfigs && name != kDTypeConfigInfo[config].name) ++config;
  if (!variant || config == kDTypeConfigs) {
    std::fprintf(stderr, "Expected an instruction set of this machine and the name of a dtype configuration\n");
    return 1;
  }

  // Doubles are wide enough for every array, and zeros are zeros of every dtype.
  std::vector<std::vector<double>> arrays(kRoles * size, std::vector<double>(length));
  std::vector<TensorArrays> tensors(size);
  std::vector<void*> grads(size);
  for (size_t i = 0; i < size; ++i) {
    tensors[i].config = static_cast<DTypeConfig>(config);
    tensors[i].length = length;
    for (int k = 0; k < kRoles; ++k)
      if (role_bytes(tensors[i].config, kEveryRole[k]) > 0) tensors[i].arrays.values[k] = arrays[kRoles * i + k].data();
    grads[i] = tensors[i].arrays[Role::grad];
  }
  TensorList list(Rule::mxnet, std::move(tensors));
  list.set_grads(grads);
  list.set_groups(std::vector<uint32_t>(size), 1);
  cpu::GroupScalars scalars;
  const ScalarGroup group{0.001, 1, 0.01, 1e-6, 1, 1};
  cpu::round_groups({1, 1e30, 0.9, 0.999}, &group, 1, &scalars);
  umask(022);
  for (long step = 0; step < steps; ++step) cpu::step(list, *variant, &scalars, 0, size, 1);
  umask(022);
  return 0;
}
