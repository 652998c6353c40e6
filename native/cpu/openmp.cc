// Why the addon is not compiled with -fopenmp: one that is linked with libgomp
// does not load where that library is missing, and a binary serves machines
// with GCC's libgomp, with LLVM's libomp and with neither. The compiler turns
// `#pragma omp parallel num_threads(n)` into a call of GOMP_parallel, which both
// libraries export; here that call is made by hand. So it is an OpenMP team:
// OMP_PROC_BIND, OMP_PLACES, OMP_WAIT_POLICY, OMP_STACKSIZE and OMP_THREAD_LIMIT
// are the library's to follow. Of OpenMP's own schedules none deals out static
// shares and then steals: chunk-shares.h does.
#include "openmp.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdlib>
#include <deque>
#include <exception>
#include <mutex>
#include <optional>
#include <thread>
#include <vector>

#if defined(__linux__)
#include <sched.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

#include "../platform/platform.h"
#include "processors.h"

namespace fused_adamw::cpu::openmp {
namespace {

struct Library {
  void (*parallel)(void (*body)(void*), void* data, unsigned threads, unsigned flags) = nullptr;
  int (*get_thread_num)() = nullptr;
  int (*get_num_threads)() = nullptr;
  int (*get_thread_limit)() = nullptr;
  int (*get_dynamic)() = nullptr;
  void (*set_dynamic)(int) = nullptr;
  void (*set_blocktime)(int) = nullptr;  // LLVM's alone: milliseconds that this thread's team spins
  std::string path;
  std::string problem;         // why it cannot be used
  bool waits_as_told = false;  // the user has said how its threads wait
};

#if defined(__APPLE__)
constexpr const char* kNames[] = {"libomp.dylib", "/opt/homebrew/opt/libomp/lib/libomp.dylib",
                                  "/usr/local/opt/libomp/lib/libomp.dylib"};
#elif defined(_WIN32)
constexpr const char* kNames[] = {"libgomp-1.dll"};  // LLVM's has no GOMP_parallel there
#else
constexpr const char* kNames[] = {"libgomp.so.1", "libomp.so.5", "libomp.so", "libiomp5.so"};
#endif

template <typename Function>
bool find(void* handle, const char* name, Function* function) {
  *function = reinterpret_cast<Function>(platform::symbol_of(handle, name));
  return *function != nullptr;
}

bool is_waiting_told() {
  const char* const names[] = {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME"};
  return std::any_of(std::begin(names), std::end(names), [](const char* name) { return std::getenv(name) != nullptr; });
}

/// How long libgomp's threads spin for each other, where the user has not said
/// it. By default that is several milliseconds: on a busy machine they then use
/// up their time slices by waiting, and a barrier waits for the next one, while
/// OMP_WAIT_POLICY=passive puts threads to sleep and wakes them at each step.
/// This is what passes between steps in a loop (docs/performance.md). Those of
/// libomp spin for 200 ms by default, and for 1 at least.
constexpr int kSpinOfLibomp = 1;  // ms
#if defined(__linux__)
constexpr std::chrono::microseconds kSpin{15};

/// Iterations of libgomp's loop of waiting that take so long.
long long iterations_in(std::chrono::nanoseconds time) {
  constexpr long long kIterations = 200;
  auto least = std::chrono::nanoseconds::max();
  const std::atomic<int> word{0};
  for (int attempt = 0; attempt < 5; ++attempt) {
    const auto start = std::chrono::steady_clock::now();
    for (int i = 0; i < kIterations && word.load(std::memory_order_relaxed) == 0; ++i) {
#if defined(__x86_64__)
      __builtin_ia32_pause();
#else
      asm volatile("" : : : "memory");
#endif
    }
    least = std::min<std::chrono::nanoseconds>(least, std::chrono::steady_clock::now() - start);
  }
  return std::max<long long>(1, kIterations * time.count() / std::max<long long>(1, least.count()));
}

/// A variable of the environment while this lives, for what a library reads
/// when it is opened. Not by setenv(), which may free the list of variables
/// while another thread's getenv() goes through it: the list is replaced as a
/// whole, and neither list is freed.
class AddedVariable {
 public:
  AddedVariable(const std::string& name, const std::string& value) : name_(name), before_(environ) {
    struct Kept {
      std::string variable;
      std::vector<char*> list;
    };
    static std::deque<Kept>& all = *new std::deque<Kept>;
    Kept& kept = all.emplace_back();
    kept.variable = name + "=" + value;
    for (char** entry = before_; entry && *entry; ++entry) kept.list.push_back(*entry);
    kept.list.push_back(kept.variable.data());
    kept.list.push_back(nullptr);
    added_ = kept.list.data();
    __atomic_store_n(&environ, added_, __ATOMIC_SEQ_CST);
  }
  ~AddedVariable() {
    char** expected = added_;
    const bool restored =
        __atomic_compare_exchange_n(&environ, &expected, before_, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);
    if (!restored) unsetenv(name_.c_str());  // another thread has copied the list and changed its copy
  }
  AddedVariable(const AddedVariable&) = delete;
  AddedVariable& operator=(const AddedVariable&) = delete;

 private:
  std::string name_;
  char **before_, **added_;
};
#endif

/// Opens a library that is not there yet.
void* load(const char* name, std::string* reason) {
#if defined(__linux__)
  std::optional<AddedVariable> spin;
  if (!is_waiting_told()) spin.emplace("GOMP_SPINCOUNT", std::to_string(iterations_in(kSpin)));
#endif
  return platform::open_library(name, reason);
}

Library open() {
  Library library;
  library.waits_as_told = is_waiting_told();
  available_processors();  // is kept, from before OMP_PROC_BIND binds this thread to one
  // One that is loaded already is taken first: two copies of LLVM's library end the process.
  // None is ever closed: its idle threads would run code that is no longer there.
  for (const bool only_loaded : {true, false})
    for (const char* name : kNames) {
      std::string reason;
      void* handle = only_loaded ? platform::loaded_library(name) : load(name, &reason);
      if (!handle) {
        if (library.problem.empty()) library.problem = reason;
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
      find(handle, "kmp_set_blocktime", &library.set_blocktime);
      library.path = platform::file_of(reinterpret_cast<const void*>(library.parallel));
      if (library.path.empty()) library.path = name;
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

/// The processor that this thread is on; -1 where nothing tells.
int processor() {
#if defined(__linux__)
  return sched_getcpu();
#else
  return -1;
#endif
}

struct Region {
  ThreadBody body;
  const void* context;
  int processor_of_caller = processor();
  std::atomic<bool> has_helped{false};
};

void enter(void* data) {
  Region& region = *static_cast<Region*>(data);
  const int thread = opened().get_thread_num();
  if (thread == 0) team_size = opened().get_num_threads();
  const int here = processor();
  const bool beside = thread > 0 && (here < 0 || here != region.processor_of_caller);
  if (region.body(region.context, thread) && beside) region.has_helped.store(true, std::memory_order_relaxed);
}

Abstention abstention;

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

void run(int threads, ThreadBody body, const void* context) {
  threads = std::min(threads, thread_limit());
  if (threads < 2 || (!opened().waits_as_told && abstention.skips())) {
    body(context, 0);
    return;
  }
  was_used = true;
  const FixedSize fixed;
  Region region{body, context};
  if (threads > team_size) {
    const platform::SignalsBlocked blocked;
    threads = grow(threads);
    if (opened().set_blocktime && !opened().waits_as_told) opened().set_blocktime(kSpinOfLibomp);
    opened().parallel(enter, &region, threads, 0);
  } else {
    opened().parallel(enter, &region, threads, 0);
  }
  if (threads > 1) abstention.note(region.has_helped.load(std::memory_order_relaxed));
}

void forked() { lost = was_used.load(); }

}  // namespace fused_adamw::cpu::openmp
