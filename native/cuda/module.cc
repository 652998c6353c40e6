#include "module.h"

#include <cstring>
#include <mutex>
#include <utility>

#include "work.h"

namespace fused_adamw::cuda {
namespace {

/// Any JavaScript thread may set it, perhaps while another makes a device ready.
struct DeviceCode {
  std::mutex mutex;
  std::string image;
};
DeviceCode& device_code() {
  static DeviceCode& instance = *new DeviceCode;
  return instance;
}

/// The header gives the length, and the driver reads that far without knowing how long the image is.
void check_whole(const std::string& image) {
  constexpr uint32_t kMagic = 0xba55ed50;
  struct Header {
    uint32_t magic;
    uint16_t version, header_bytes;
    uint64_t bytes;
  } header;
  if (image.size() < sizeof header) throw Unavailable("it is truncated");
  std::memcpy(&header, image.data(), sizeof header);
  if (header.magic == kMagic && header.header_bytes + header.bytes > image.size()) throw Unavailable("it is truncated");
}

ModuleHandle load() {
  const std::lock_guard lock(device_code().mutex);
  const std::string& image = device_code().image;
  if (image.empty()) throw Unavailable("no device code is usable: the package carries none");
  try {
    check_whole(image);
    ModuleHandle module = nullptr;
    FUSED_ADAMW_CUDA(cuModuleLoadData, &module, image.data());
    return module;
  } catch (const std::runtime_error& error) {
    throw Unavailable("no device code is usable: " + std::string(error.what()));
  }
}

}  // namespace

void set_device_code(std::string image) {
  const std::lock_guard lock(device_code().mutex);
  device_code().image = std::move(image);
}

bool has_device_code() {
  const std::lock_guard lock(device_code().mutex);
  return !device_code().image.empty();
}

Module::Module(const PrimaryContext& context) {
  const ContextGuard guard(context.handle());
  ModuleHandle module = load();
  for (int i = 0; i < kKernels; ++i) {
    const std::string name = kernel_name(rule_of_kernel(i), config_of_kernel(i));
    FUSED_ADAMW_CUDA(cuModuleGetFunction, &kernels_[i], module, name.c_str());
  }
  for (const GradientKernel kernel : kGradientKernels)
    FUSED_ADAMW_CUDA(cuModuleGetFunction, &gradient_kernels_[static_cast<int>(kernel)], module, kernel_name(kernel));
}

}  // namespace fused_adamw::cuda
