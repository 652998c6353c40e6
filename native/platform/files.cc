#include <memory>

#include "platform.h"

namespace fused_adamw::platform {

std::optional<std::string> read_file(const std::string& path) {
  const std::unique_ptr<FILE, int (*)(FILE*)> file(open_file(path), std::fclose);
  if (!file) return std::nullopt;
  std::string content;
  char buffer[16 * 1024];
  for (size_t bytes; (bytes = std::fread(buffer, 1, sizeof buffer, file.get())) > 0;) content.append(buffer, bytes);
  return content;
}

}  // namespace fused_adamw::platform
