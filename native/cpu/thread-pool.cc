#include "thread-pool.h"

#include <algorithm>
#include <chrono>
#include <exception>
#include <thread>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

#include "../platform/platform.h"

namespace fused_adamw::cpu {
namespace {

using std::chrono::steady_clock;

// How long a thread spins before it sleeps: about what passes between steps in a loop.
constexpr std::chrono::microseconds kSpin{200};

constexpr uint64_t kLimitUnit = 1 << 16;
constexpr uint64_t kCallUnit = uint64_t{1} << 32;

int active_of(uint64_t state) { return static_cast<int>(state & 0xffff); }
int limit_of(uint64_t state) { return static_cast<int>(state / kLimitUnit & 0xffff); }
uint32_t call_of(uint64_t state) { return static_cast<uint32_t>(state / kCallUnit); }

void pause() {
#if defined(__x86_64__)
  _mm_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

/// Waits, for kSpin at most, until a condition holds; returns whether it does.
template <typename Condition>
bool spin_until(const Condition& condition) {
  constexpr int kPauses = 16;
  const auto end = steady_clock::now() + kSpin;
  do {
    for (int i = 0; i < kPauses; ++i) {
      if (condition()) return true;
      pause();
    }
    std::this_thread::yield();  // to a thread that has work, where they share a processor
  } while (steady_clock::now() < end);
  return condition();
}

}  // namespace

void ThreadPool::run(int threads, ThreadBody body, const void* context) {
  threads = 1 + std::min(threads - 1, grow(threads - 1));
  body_ = body;
  context_ = context;
  const uint64_t next_call = static_cast<uint64_t>(call_of(state_.load(std::memory_order_relaxed)) + 1) * kCallUnit;
  state_.store(next_call + threads * kLimitUnit);
  for (int i = 0; i < threads - 1; ++i) {
    if (!helpers_[i].asleep.load()) continue;
    {
      const std::lock_guard lock(mutex_);
    }  // it has looked at the state before, or will after
    helpers_[i].wake.notify_one();
  }
  body(context, 0);

  state_.fetch_sub(threads * kLimitUnit);  // who has not come by now need not
  const auto is_done = [this] { return active_of(state_.load()) == 0; };
  if (spin_until(is_done)) return;
  std::unique_lock lock(mutex_);
  caller_asleep_.store(true);
  done_.wait(lock, is_done);
  caller_asleep_.store(false);
}

int ThreadPool::grow(int wanted) {
  const int size = static_cast<int>(helpers_.size());
  if (size >= wanted || !shortage::may_ask()) return size;
  const platform::SignalsBlocked blocked;
  for (int thread = size + 1; thread <= wanted; ++thread) {
    try {
      Helper& helper = helpers_.emplace_back();
      std::thread([this, thread, &helper] { serve(thread, helper); }).detach();
    } catch (const std::exception&) {
      if (static_cast<int>(helpers_.size()) == thread) helpers_.pop_back();
      shortage::refused(thread);
      return thread - 1;
    }
  }
  shortage::granted();
  return wanted;
}

void ThreadPool::serve(int thread, Helper& helper) {
  for (uint32_t call = 0;;) {
    call = join(thread, helper, call);
    body_(context_, thread);
    leave();
  }
}

uint32_t ThreadPool::join(int thread, Helper& helper, uint32_t last_call) {
  uint64_t state = 0;
  const auto may_join = [&] {
    state = state_.load();
    return limit_of(state) > thread && call_of(state) != last_call;
  };
  for (;;) {
    if (!spin_until(may_join)) {
      std::unique_lock lock(mutex_);
      helper.asleep.store(true);
      helper.wake.wait(lock, may_join);
      helper.asleep.store(false);
    }
    while (may_join())
      if (state_.compare_exchange_weak(state, state + 1)) return call_of(state);
  }
}

void ThreadPool::leave() {
  const uint64_t state = state_.fetch_sub(1) - 1;
  if (active_of(state) > 0 || !caller_asleep_.load()) return;
  {
    const std::lock_guard lock(mutex_);
  }
  done_.notify_one();
}

}  // namespace fused_adamw::cpu
