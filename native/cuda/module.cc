#include "module.h"

#include <algorithm>
#include <cstring>
#include <mutex>
#include <optional>
#include <utility>

#include "../platform/platform.h"
#include "kernels.h"
#include "work.h"

namespace fused_adamw::cuda {
namespace {

/// Every JavaScript thread sets the paths, perhaps while another makes a device ready.
struct DeviceCode {
  std::mutex mutex;
  std::vector<std::string> paths;
};
DeviceCode& device_code() {
  static DeviceCode& instance = *new DeviceCode;
  return instance;
}
std::vector<std::string> device_code_paths() {
  const std::lock_guard lock(device_code().mutex);
  return device_code().paths;
}

/// The file's bytes. c_str() ends them with a zero, which PTX needs as it is text.
std::string read_file(const std::string& path) {
  std::optional<std::string> content = platform::read_file(path);
  if (!content) throw Unavailable("there is no device code at " + path);
  return *std::move(content);
}

/// The header of a file of machine code gives its length, and the driver reads
/// that far without knowing how long the image is.
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

/// The first file that the driver takes.
ModuleHandle load() {
  const std::vector<std::string> paths = device_code_paths();
  if (paths.empty()) throw Unavailable("no device code is usable: the package carries none");
  std::string reasons;
  for (const std::string& path : paths) {
    try {
      const std::string image = read_file(path);
      check_whole(image, path);
      ModuleHandle module = nullptr;
      FUSED_ADAMW_CUDA(cuModuleLoadData, &module, image.c_str());
      return module;
    } catch (const std::runtime_error& error) {
      reasons += (reasons.empty() ? "" : "; ") + std::string(error.what());
    }
  }
  throw Unavailable("no device code is usable: " + reasons);
}

}  // namespace

void set_device_code(std::vector<std::string> paths) {
  const std::lock_guard lock(device_code().mutex);
  device_code().paths = std::move(paths);
}

Module::Module(const PrimaryContext& context) {
  const ContextGuard guard(context.handle());
  ModuleHandle module = load();
  int multiprocessors = 0;
  FUSED_ADAMW_CUDA(cuDeviceGetAttribute, &multiprocessors, kMultiprocessorCount, context.device());
  for (int i = 0; i < kKernels; ++i) {
    int blocks = 0;
    const std::string name = kernel_name(rule_of_kernel(i), config_of_kernel(i));
    FUSED_ADAMW_CUDA(cuModuleGetFunction, &kernels_[i].function, module, name.c_str());
    FUSED_ADAMW_CUDA(cuOccupancyMaxActiveBlocksPerMultiprocessor, &blocks, kernels_[i].function, kBlock, 0);
    kernels_[i].resident_blocks = static_cast<unsigned>(std::max(1, blocks) * multiprocessors);
  }
}

}  // namespace fused_adamw::cuda
