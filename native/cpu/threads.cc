#include "threads.h"

#include <algorithm>
#include <atomic>
#include <cstdlib>

#include "../platform/platform.h"
#include "chunk-shares.h"
#include "float-environment.h"
#include "openmp.h"
#include "processors.h"
#include "thread-pool.h"
#include "thread-start.h"

namespace fused_adamw::cpu {
namespace {

std::atomic<int> requested_threads{0};

constexpr int kNone = -1;
std::atomic<int> requested_runtime{kNone}, default_runtime{kNone};

/// OMP_NUM_THREADS, of a list the first; 0 where it says nothing. Read once,
/// since another thread may change the environment while a step runs.
int threads_of_environment() {
  static const int count = [] {
    const char* variable = std::getenv("OMP_NUM_THREADS");
    return static_cast<int>(variable ? std::clamp<long>(std::strtol(variable, nullptr, 10), 0, kMostThreads) : 0);
  }();
  return count;
}

/// What the calls of the process share, one at a time: the library makes an
/// OpenMP team for each thread that calls it, and several at once would be more
/// threads than processors.
struct Shared {
  std::atomic<bool> taken{false};
  ChunkShares shares;
  ThreadPool pool;
};

/// Never destroyed: its threads, and workers that still step, outlive main().
Shared* shared = nullptr;

Shared& the_shared() {
  static const bool made = [] {
    shared = new Shared;
    // In the child of a fork the threads are gone, and what they held is held for ever.
    platform::on_fork([] {
      shared = new Shared;
      openmp::forked();
    });
    return true;
  }();
  (void)made;
  return *shared;
}

/// The right to use what is shared, where it was free.
class Admission {
 public:
  explicit Admission(Shared& shared)
      : shared_(shared), held_(!shared.taken.exchange(true, std::memory_order_acquire)) {}
  ~Admission() {
    if (held_) shared_.taken.store(false, std::memory_order_release);
  }
  Admission(const Admission&) = delete;
  Admission& operator=(const Admission&) = delete;
  explicit operator bool() const { return held_; }

 private:
  Shared& shared_;
  bool held_;
};

struct Call {
  void (*work)(const void* context, size_t chunk);
  const void* context;
  ChunkShares& shares;
};

bool run_thread(const void* context, int thread) {
  const Call& call = *static_cast<const Call*>(context);
  const FloatEnvironment environment;
  return call.shares.work_off(thread, [&call](size_t chunk) { call.work(call.context, chunk); });
}

}  // namespace

std::string unusable(Runtime runtime) { return runtime == Runtime::openmp ? openmp::unusable() : ""; }

Runtime runtime() {
  for (const auto* choice : {&requested_runtime, &default_runtime})
    if (const int chosen = choice->load(std::memory_order_relaxed); chosen != kNone) {
      const auto runtime = static_cast<Runtime>(chosen);
      if (runtime != Runtime::openmp || openmp::is_usable()) return runtime;
    }
  return openmp::is_usable() ? Runtime::openmp : Runtime::team;
}

void set_runtime(const Runtime* runtime) {
  requested_runtime.store(runtime ? static_cast<int>(*runtime) : kNone, std::memory_order_relaxed);
}

void set_default_runtime(Runtime runtime) {
  default_runtime.store(static_cast<int>(runtime), std::memory_order_relaxed);
}

int num_threads() {
  const int set = requested_threads.load(std::memory_order_relaxed);
  if (set > 0) return set;
  const int from_environment = threads_of_environment();
  return from_environment > 0 ? from_environment : available_processors();
}

void set_num_threads(int count) { requested_threads.store(count, std::memory_order_relaxed); }

int obtainable_threads() {
  const int threads = std::min(num_threads(), shortage::limit());
  return runtime() == Runtime::openmp ? std::min(threads, openmp::thread_limit()) : threads;
}

void for_each_chunk(size_t chunks, int threads, void (*work)(const void*, size_t), const void* context) {
  threads = std::min(threads, kMostThreads);
  if (chunks > 1 && threads > 1) {
    Shared& shared = the_shared();
    if (const Admission admission(shared); admission) {
      const int shares = static_cast<int>(std::min<size_t>(chunks, threads));
      shared.shares.deal(chunks, shares);
      const Call call{work, context, shared.shares};
      if (runtime() == Runtime::openmp)
        openmp::run(threads, run_thread, &call);
      else
        shared.pool.run(shares, run_thread, &call);
      return;
    }
  }
  const FloatEnvironment environment;
  for (size_t chunk = 0; chunk < chunks; ++chunk) work(context, chunk);
}

void first_touch(char* zeros, size_t bytes) {
  constexpr size_t kPage = 4096, kLeastChunk = 256 * kPage;
  const int threads = num_threads();
  const size_t chunks = (bytes / kLeastChunk / threads + 1) * threads, size = (bytes + chunks - 1) / chunks;
  for_each_chunk(chunks, threads, [&](size_t chunk) {
    const size_t end = std::min(bytes, (chunk + 1) * size);
    for (size_t at = chunk * size; at < end; at += kPage) static_cast<volatile char*>(zeros)[at] = 0;
  });
}

}  // namespace fused_adamw::cpu
