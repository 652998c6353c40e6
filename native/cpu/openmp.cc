// Why the addon is not compiled with -fopenmp: one that is linked with libgomp
// does not load where that library is missing, and a binary serves machines
// with GCC's libgomp, with LLVM's libomp and with neither. The compiler turns
// `#pragma omp parallel num_threads(n)` into a call of GOMP_parallel, which both
// libraries export; here that call is made by hand. So it is an OpenMP team:
// OMP_PROC_BIND, OMP_PLACES, OMP_WAIT_POLICY, OMP_STACKSIZE and OMP_THREAD_LIMIT
// are the library's to follow. Of OpenMP's own schedules none deals out static
// shares and then steals: chunk-shares.h does.
#include "openmp.h"

#include <dlfcn.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <exception>
#include <mutex>
#include <thread>
#include <vector>

#if defined(__linux__)
#include <sys/syscall.h>
#endif

#include "processors.h"
#include "thread-start.h"

namespace fused_adamw::cpu::openmp {
namespace {

struct Library {
  void (*parallel)(void (*body)(void*), void* data, unsigned threads, unsigned flags) = nullptr;
  int (*get_thread_num)() = nullptr;
  int (*get_num_threads)() = nullptr;
  int (*get_thread_limit)() = nullptr;
  int (*get_dynamic)() = nullptr;
  void (*set_dynamic)(int) = nullptr;
  std::string path;
  std::string problem;  // why it cannot be used
};

#if defined(__APPLE__)
constexpr const char* kNames[] = {"libomp.dylib", "/opt/homebrew/opt/libomp/lib/libomp.dylib",
                                  "/usr/local/opt/libomp/lib/libomp.dylib"};
#else
constexpr const char* kNames[] = {"libgomp.so.1", "libomp.so.5", "libomp.so", "libiomp5.so"};
#endif

template <typename Function>
bool find(void* handle, const char* name, Function* function) {
  *function = reinterpret_cast<Function>(dlsym(handle, name));
  return *function != nullptr;
}

Library open() {
  Library library;
  available_processors();  // is kept, from before OMP_PROC_BIND binds this thread to one
  // One that is loaded already is taken first: two copies of LLVM's library end the process.
  for (int only_loaded : {RTLD_NOLOAD, 0})
    for (const char* name : kNames) {
      // Never closed: its idle threads would run unmapped code.
      void* handle = dlopen(name, RTLD_NOW | RTLD_LOCAL | only_loaded);
      if (!handle) {
        const char* error = dlerror();
        if (library.problem.empty() && !only_loaded) library.problem = error ? error : name;
        continue;
      }
      if (!find(handle, "GOMP_parallel", &library.parallel) ||
          !find(handle, "omp_get_thread_num", &library.get_thread_num) ||
          !find(handle, "omp_get_num_threads", &library.get_num_threads) ||
          !find(handle, "omp_get_thread_limit", &library.get_thread_limit) ||
          !find(handle, "omp_get_dynamic", &library.get_dynamic) ||
          !find(handle, "omp_set_dynamic", &library.set_dynamic)) {
        library.problem = std::string(name) + " lacks functions of OpenMP";
        continue;
      }
      Dl_info info;
      const bool found = dladdr(reinterpret_cast<void*>(library.parallel), &info) && info.dli_fname;
      library.path = found ? info.dli_fname : name;
      library.problem.clear();
      return library;
    }
  return library;
}

const Library& opened() {
  static const Library& library = *new Library(open());
  return library;
}

std::atomic<bool> was_used{false};
std::atomic<bool> lost{false};

// Size of the team that the library keeps for this thread.
thread_local int team_size = 1;

/// How many of so many more threads can be made now. Both libraries end the
/// process when one cannot, so they are made here first, with some to spare for
/// what starts elsewhere at that moment.
int threads_to_be_had(int wanted) {
  constexpr int kSpare = 4;
  std::vector<std::thread> threads;
  std::vector<long> ids;
  std::mutex gate;  // none ends before all are there
  try {
    const std::lock_guard closed(gate);
    ids.resize(wanted + kSpare);
    threads.reserve(ids.size());
    for (long& id : ids)
      threads.emplace_back([&id, &gate] {
#if defined(__linux__)
        id = syscall(SYS_gettid);
#else
        id = 0;
#endif
        const std::lock_guard open(gate);
      });
  } catch (const std::exception&) {
  }
  for (std::thread& thread : threads) thread.join();
#if defined(__linux__)
  // A joined thread counts against the limits until the kernel has put it away.
  const auto end = std::chrono::steady_clock::now() + std::chrono::milliseconds(100);
  for (size_t i = 0; i < threads.size(); ++i)
    while (syscall(SYS_tgkill, getpid(), ids[i], 0) == 0 && std::chrono::steady_clock::now() < end)
      std::this_thread::yield();
#endif
  return std::clamp(static_cast<int>(threads.size()) - kSpare, 0, wanted);
}

/// The team of this thread grows to `threads`, or as far as it can; returns how many it may have.
int grow(int threads) {
  if (!shortage::may_ask()) return team_size;
  const int wanted = threads - team_size, had = threads_to_be_had(wanted);
  if (had < wanted)
    shortage::refused(team_size + had);
  else
    shortage::granted();
  return team_size + had;
}

struct Region {
  void (*body)(const void* context, int thread);
  const void* context;
};

void enter(void* data) {
  const Region& region = *static_cast<const Region*>(data);
  const int thread = opened().get_thread_num();
  if (thread == 0) team_size = opened().get_num_threads();
  region.body(region.context, thread);
}

/// A size that changes with the load of the machine would end threads and make them again.
class FixedSize {
 public:
  FixedSize() : dynamic_(opened().get_dynamic() != 0) {
    if (dynamic_) opened().set_dynamic(0);
  }
  ~FixedSize() {
    if (dynamic_) opened().set_dynamic(1);
  }

 private:
  bool dynamic_;
};

}  // namespace

const std::string& library() { return opened().path; }

bool is_usable() { return !lost.load(std::memory_order_relaxed) && opened().problem.empty(); }

std::string unusable() { return lost ? "this process was forked from one that used OpenMP" : opened().problem; }

int thread_limit() { return opened().get_thread_limit(); }

void run(int threads, void (*body)(const void* context, int thread), const void* context) {
  was_used = true;
  const FixedSize fixed;
  threads = std::min(threads, thread_limit());
  Region region{body, context};
  if (threads > team_size) {
    const SignalsBlocked blocked;
    opened().parallel(enter, &region, grow(threads), 0);
  } else {
    opened().parallel(enter, &region, threads, 0);
  }
}

void forked() { lost = was_used.load(); }

}  // namespace fused_adamw::cpu::openmp
