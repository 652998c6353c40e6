#include "module.h"

#include <cstring>
#include <mutex>
#include <optional>
#include <utility>

#include "../platform/platform.h"
#include "kernels.h"
#include "work.h"

namespace fused_adamw::cuda {
namespace {

/// Every JavaScript thread sets the path, perhaps while another makes a device ready.
struct DeviceCode {
  std::mutex mutex;
  std::string path;
};
DeviceCode& device_code() {
  static DeviceCode& instance = *new DeviceCode;
  return instance;
}
std::string device_code_path() {
  const std::lock_guard lock(device_code().mutex);
  return device_code().path;
}

std::string read_file(const std::string& path) {
  std::optional<std::string> content = platform::read_file(path);
  if (!content) throw Unavailable("there is no device code at " + path);
  return *std::move(content);
}

/// The header of the file gives its length, and the driver reads that far without
/// knowing how long the image is.
void check_whole(const std::string& image, const std::string& path) {
  constexpr uint32_t kMagic = 0xba55ed50;
  struct Header {
    uint32_t magic;
    uint16_t version, header_bytes;
    uint64_t bytes;
  } header;
  if (image.size() < sizeof header) throw Unavailable("the device code at " + path + " is truncated");
  std::memcpy(&header, image.data(), sizeof header);
  if (header.magic == kMagic && header.header_bytes + header.bytes > image.size())
    throw Unavailable("the device code at " + path + " is truncated");
}

ModuleHandle load() {
  const std::string path = device_code_path();
  if (path.empty()) throw Unavailable("no device code is usable: the package carries none");
  try {
    const std::string image = read_file(path);
    check_whole(image, path);
    ModuleHandle module = nullptr;
    FUSED_ADAMW_CUDA(cuModuleLoadData, &module, image.data());
    return module;
  } catch (const std::runtime_error& error) {
    throw Unavailable("no device code is usable: " + std::string(error.what()));
  }
}

}  // namespace

void set_device_code(std::string path) {
  const std::lock_guard lock(device_code().mutex);
  device_code().path = std::move(path);
}

Module::Module(const PrimaryContext& context) {
  const ContextGuard guard(context.handle());
  ModuleHandle module = load();
  for (int i = 0; i < kKernels; ++i) {
    const std::string name = kernel_name(rule_of_kernel(i), config_of_kernel(i));
    FUSED_ADAMW_CUDA(cuModuleGetFunction, &kernels_[i], module, name.c_str());
  }
}

}  // namespace fused_adamw::cuda
