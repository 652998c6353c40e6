#include "threads.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <condition_variable>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <mutex>
#include <string>
#include <system_error>
#include <thread>
#include <vector>

#if defined(__linux__)
#include <sched.h>
#endif
#if defined(_OPENMP)
#include <omp.h>
#endif

#include "float-environment.h"

namespace fused_adamw::cpu {
namespace {

std::atomic<int> requested{0};

/// Processors by the quota of the process's cgroup and of those above it, as
/// the kernel's documentation of cpu.max (v2) and cpu.cfs_quota_us (v1) has
/// it; infinity without one.
double cgroup_processors() {
  double least = INFINITY;
#if defined(__linux__)
  const auto consider = [&least](double quota, double period) {
    if (quota > 0 && period > 0) least = std::min(least, quota / period);
  };
  std::ifstream groups("/proc/self/cgroup");
  for (std::string line; std::getline(groups, line);) {  // hierarchy:controllers:path
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
        std::ifstream file(folder + "cpu.max");  // "max 100000" has no number to read
        if (file >> quota >> period) consider(quota, period);
      } else {
        std::ifstream quota_file(folder + "cpu.cfs_quota_us"), period_file(folder + "cpu.cfs_period_us");
        if (quota_file >> quota && period_file >> period) consider(quota, period);
      }
      if (path.empty() || path == "/") break;
      path.resize(path.rfind('/'));
    }
  }
#endif
  return least;
}

#if defined(_OPENMP)
/// Threads that can exist at once beside the calling one, up to `wanted`,
/// found by making them: libgomp ends the process when it cannot, and no
/// single limit (pids.max, RLIMIT_NPROC, memory) tells.
int threads_that_start(int wanted) {
  std::mutex mutex;
  std::condition_variable release;
  bool released = false;
  std::vector<std::thread> threads;
  try {
    threads.reserve(wanted);
    for (int i = 0; i < wanted; ++i)
      threads.emplace_back([&] {
        std::unique_lock lock(mutex);
        release.wait(lock, [&] { return released; });
      });
  } catch (const std::system_error&) {
    // as many as there are
  } catch (const std::bad_alloc&) {
  }
  {
    const std::lock_guard lock(mutex);
    released = true;
  }
  release.notify_all();
  for (std::thread& thread : threads) thread.join();
  return static_cast<int>(threads.size());
}

/// `threads`, or fewer where the system makes no more. libgomp keeps a team
/// for each calling thread, so what was proven holds for this one.
int team_size(int threads) {
  thread_local int proven = 1, tried = 1;
  if (threads > tried) {
    proven = 1 + threads_that_start(threads - 1);
    tried = threads;
  }
  return std::min(threads, proven);
}

std::mutex& parallel_step() {
  static std::mutex& mutex = *new std::mutex;  // never destroyed: a worker may still step at exit
  return mutex;
}
#endif

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

bool has_openmp() {
#if defined(_OPENMP)
  return true;
#else
  return false;
#endif
}

int num_threads() {
#if defined(_OPENMP)
  const int set = requested.load(std::memory_order_relaxed);
  if (set > 0) return set;
  const char* variable = std::getenv("OMP_NUM_THREADS");
  const int from_environment = variable ? std::atoi(variable) : 0;  // the first of a list
  return from_environment > 0 ? from_environment : available_processors();
#else
  return 1;
#endif
}

void set_num_threads(int count) { requested.store(count, std::memory_order_relaxed); }

void for_each_chunk(size_t chunks, int threads, void (*work)(const void*, size_t), const void* context) {
#if defined(_OPENMP)
  if (chunks > 1 && threads > 1) {
    const std::lock_guard lock(parallel_step());
    const int team = team_size(static_cast<int>(std::min<size_t>(chunks, threads)));
    if (team > 1) {
      std::atomic<size_t> next{0};
#pragma omp parallel num_threads(team)
      {
        const FloatEnvironment environment;
        for (size_t chunk; (chunk = next.fetch_add(1, std::memory_order_relaxed)) < chunks;) work(context, chunk);
      }
      return;
    }
  }
#endif
  const FloatEnvironment environment;
  for (size_t chunk = 0; chunk < chunks; ++chunk) work(context, chunk);
}

}  // namespace fused_adamw::cpu
