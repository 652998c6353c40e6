#include "processors.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <string>
#include <thread>

#if defined(__linux__)
#include <sched.h>
#endif

#include "../platform/platform.h"

namespace fused_adamw::cpu {
namespace {

/// Processors by the quota of the process's cgroup and of those above it, as
/// the kernel's documentation of cpu.max (v2) and cpu.cfs_quota_us (v1) has
/// it; infinity without one.
double cgroup_processors() {
  double least = INFINITY;
#if defined(__linux__)
  const auto consider = [&least](double quota, double period) {
    if (quota > 0 && period > 0) least = std::min(least, quota / period);
  };
  const auto read = [](const std::string& path) { return platform::read_file(path).value_or(""); };
  const std::string groups = read("/proc/self/cgroup");
  for (size_t at = 0; at < groups.size();) {
    const std::string line = groups.substr(at, groups.find('\n', at) - at);  // hierarchy:controllers:path
    at += line.size() + 1;
    const size_t first = line.find(':');
    const size_t second = line.find(':', first + 1);
    if (second == std::string::npos) continue;
    const std::string controllers = "," + line.substr(first + 1, second - first - 1) + ",";
    const bool unified = controllers == ",,";
    if (!unified && controllers.find(",cpu,") == std::string::npos) continue;
    for (std::string path = line.substr(second + 1);;) {
      const std::string folder = (unified ? "/sys/fs/cgroup" : "/sys/fs/cgroup/cpu") + path + "/";
      double quota = 0, period = 0;
      if (unified) {
        // "max 100000" has no number to read
        if (std::sscanf(read(folder + "cpu.max").c_str(), "%lf %lf", &quota, &period) == 2) consider(quota, period);
      } else {
        if (std::sscanf(read(folder + "cpu.cfs_quota_us").c_str(), "%lf", &quota) == 1 &&
            std::sscanf(read(folder + "cpu.cfs_period_us").c_str(), "%lf", &period) == 1)
          consider(quota, period);
      }
      if (path.empty() || path == "/") break;
      path.resize(path.rfind('/'));
    }
  }
#endif
  return least;
}

}  // namespace

int available_processors() {
  static const int count = [] {
    int processors = static_cast<int>(std::thread::hardware_concurrency());
#if defined(__linux__)
    cpu_set_t* set = CPU_ALLOC(4096);
    const size_t size = CPU_ALLOC_SIZE(4096);
    if (set && sched_getaffinity(0, size, set) == 0) processors = CPU_COUNT_S(size, set);
    CPU_FREE(set);
#endif
    const double quota = cgroup_processors();
    if (quota < processors) processors = static_cast<int>(std::ceil(quota));
    return std::max(1, processors);
  }();
  return count;
}

}  // namespace fused_adamw::cpu
