// Threads of our own that wait for work.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <deque>
#include <mutex>

#include "thread-start.h"

namespace fused_adamw::cpu {

/// Runs a body on the calling thread and on others.
///
/// A call is over when the calling thread and those that have joined it are
/// done: a thread that the system has not scheduled by then is not waited for,
/// where the barrier of an OpenMP team waits out whole time slices. So the body
/// must do all of the work on whichever threads come (chunk-shares.h).
///
/// One call at a time. Its threads never end: it must not be destroyed.
class ThreadPool {
 public:
  /// Calls body(context, 0) on the calling thread and body(context, t), for
  /// each t below `threads`, at most once on thread t of the pool.
  void run(int threads, ThreadBody body, const void* context);

 private:
  struct Helper {
    std::atomic<bool> asleep{false};
    std::condition_variable wake;
  };

  /// Makes helpers until there are `wanted`, or no more can be had; returns how many there are.
  int grow(int wanted);
  [[noreturn]] void serve(int thread, Helper& helper);
  /// Waits for a call that this thread has not seen, and joins it; returns its number.
  uint32_t join(int thread, Helper& helper, uint32_t last_call);
  void leave();

  // The state of the current call in one word, so that joining it and closing
  // it exclude each other: bits 0 to 15 count the helpers that are in it, bits
  // 16 to 31 are the threads that may join (0 once it is closed), the rest
  // numbers the calls.
  std::atomic<uint64_t> state_{0};
  ThreadBody body_ = nullptr;
  const void* context_ = nullptr;

  std::mutex mutex_;            // of those who sleep
  std::deque<Helper> helpers_;  // of threads 1, 2, ...; only the calling thread looks at the list
  std::condition_variable done_;
  std::atomic<bool> caller_asleep_{false};
};

}  // namespace fused_adamw::cpu
