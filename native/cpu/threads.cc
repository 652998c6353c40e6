#include "threads.h"

#include <pthread.h>
#include <signal.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <climits>
#include <cmath>
#include <condition_variable>
#include <cstdlib>
#include <fstream>
#include <mutex>
#include <string>
#include <thread>

#if defined(__linux__)
#include <sched.h>
#endif

#include "float-environment.h"

namespace fused_adamw::cpu {
namespace {

std::atomic<int> requested{0};

/// OMP_NUM_THREADS, of a list the first; 0 where it says nothing. Read once,
/// since another thread may change the environment while a step runs.
int threads_of_environment() {
  static const int count = [] {
    constexpr long kMost = 1024;
    const char* variable = std::getenv("OMP_NUM_THREADS");
    return static_cast<int>(variable ? std::clamp(std::strtol(variable, nullptr, 10), 0L, kMost) : 0);
  }();
  return count;
}

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

/// New threads inherit the signal mask: the process's signals are Node's to handle.
class SignalsBlocked {
 public:
  SignalsBlocked() {
    sigset_t all;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &saved_);
  }
  ~SignalsBlocked() { pthread_sigmask(SIG_SETMASK, &saved_, nullptr); }

 private:
  sigset_t saved_;
};

/// Threads that wait for chunks to work on.
///
/// A call is over when its chunks are, whichever threads did them: one that the
/// system has not scheduled yet is not waited for. On a busy machine the
/// barrier of an OpenMP team waits out whole time slices (docs/performance.md).
class Team {
 public:
  using Work = void (*)(const void* context, size_t chunk);

  /// Whether the team was free and took the call.
  bool run(size_t chunks, int others, Work work, const void* context) {
    const std::unique_lock admission(admission_, std::try_to_lock);
    if (!admission) return false;
    others = std::min(others, grow(others));
    if (others == 0) return false;
    {
      const std::lock_guard lock(mutex_);
      job_ = {chunks, work, context};
      next_chunk_.store(0, std::memory_order_relaxed);
      seats_.store(others, std::memory_order_relaxed);
    }
    others == 1 ? wake_.notify_one() : wake_.notify_all();
    work_on(job_);

    std::unique_lock lock(mutex_);
    seats_.store(0, std::memory_order_relaxed);  // who has not come by now need not
    done_.wait(lock, [this] { return active_ == 0; });
    return true;
  }

 private:
  struct Job {
    size_t chunks = 0;
    Work work = nullptr;
    const void* context = nullptr;
  };

  // How long a thread looks out for the next call before it sleeps: about what passes between steps in a loop.
  static constexpr std::chrono::microseconds kLookOut{200};

  void work_on(const Job& job) {
    const FloatEnvironment environment;
    for (size_t chunk; (chunk = next_chunk_.fetch_add(1, std::memory_order_relaxed)) < job.chunks;)
      job.work(job.context, chunk);
  }

  /// Makes threads until there are `wanted`, or no more can be had; returns how many there are.
  int grow(int wanted) {
    while (size_ < wanted && wanted < refused_) {
      try {
        const SignalsBlocked blocked;
        std::thread([this] { serve(); }).detach();
        ++size_;
      } catch (const std::exception&) {
        refused_ = wanted;  // asking again at every step would cost too much
      }
    }
    return size_;
  }

  [[noreturn]] void serve() {
    for (;;) {
      const auto until = std::chrono::steady_clock::now() + kLookOut;
      while (seats_.load(std::memory_order_relaxed) == 0 && std::chrono::steady_clock::now() < until)
        std::this_thread::yield();  // to the calling thread, where they share a processor
      std::unique_lock lock(mutex_);
      wake_.wait(lock, [this] { return seats_.load(std::memory_order_relaxed) > 0; });
      seats_.fetch_sub(1, std::memory_order_relaxed);
      ++active_;
      const Job job = job_;
      lock.unlock();
      work_on(job);
      lock.lock();
      if (--active_ == 0) done_.notify_one();
    }
  }

  std::mutex admission_;   // held by the call that runs
  int size_ = 0;           // threads there are
  int refused_ = INT_MAX;  // so many could not be had

  std::mutex mutex_;
  std::condition_variable wake_, done_;
  Job job_;
  int active_ = 0;             // threads in the job
  std::atomic<int> seats_{0};  // threads that may still join it
  std::atomic<size_t> next_chunk_{0};
};

/// Never destroyed: its threads, and workers that still step, outlive main().
Team& team() {
  static Team& instance = *new Team;
  return instance;
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

int num_threads() {
  const int set = requested.load(std::memory_order_relaxed);
  if (set > 0) return set;
  const int from_environment = threads_of_environment();
  return from_environment > 0 ? from_environment : available_processors();
}

void set_num_threads(int count) { requested.store(count, std::memory_order_relaxed); }

void for_each_chunk(size_t chunks, int threads, void (*work)(const void*, size_t), const void* context) {
  const int others = static_cast<int>(std::min<size_t>(chunks, threads)) - 1;
  if (others > 0 && team().run(chunks, others, work, context)) return;
  const FloatEnvironment environment;
  for (size_t chunk = 0; chunk < chunks; ++chunk) work(context, chunk);
}

}  // namespace fused_adamw::cpu
