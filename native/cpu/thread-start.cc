#include "thread-start.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <climits>

namespace fused_adamw::cpu::shortage {
namespace {

using std::chrono::steady_clock;

constexpr steady_clock::duration kFirstDelay = std::chrono::milliseconds(10);
constexpr steady_clock::duration kMostDelay = std::chrono::seconds(10);

// Only limit() is asked outside of the call that is admitted (threads.cc).
std::atomic<int> had{INT_MAX};
steady_clock::duration delay = kFirstDelay;
steady_clock::time_point next_attempt;

}  // namespace

bool may_ask() { return limit() == INT_MAX || steady_clock::now() >= next_attempt; }

void refused(int threads) {
  delay = limit() == INT_MAX ? kFirstDelay : std::min(2 * delay, kMostDelay);
  next_attempt = steady_clock::now() + delay;
  had.store(threads, std::memory_order_relaxed);
}

void granted() { had.store(INT_MAX, std::memory_order_relaxed); }

int limit() { return had.load(std::memory_order_relaxed); }

}  // namespace fused_adamw::cpu::shortage
