// OpenMP: a parallel region of a library that is opened at run time.
#pragma once

#include <algorithm>
#include <string>

#include "thread-start.h"

namespace fused_adamw::cpu::openmp {

/// The library that was opened; empty where there is none.
const std::string& library();

/// Whether regions can be used, and why not; that is empty where they can.
bool is_usable();
std::string unusable();

/// Threads that OMP_THREAD_LIMIT leaves to a region.
int thread_limit();

/// Calls body(context, t) on each thread t of a region of at most `threads`
/// threads, or on the calling thread alone, which must be able to do all of the
/// work. One call at a time.
void run(int threads, ThreadBody body, const void* context);

/// Which calls do without a region, since the last ones were of no use: the
/// other threads came when the calling one had done the work, or shared its
/// processor, and then it waited for them at the barrier. That is so for small
/// steps on a busy machine, and for those that find the others asleep. Not where
/// the user has said how threads wait (OMP_WAIT_POLICY).
class Abstention {
 public:
  /// Whether the next call does without.
  bool skips() { return left_ > 0 && left_-- > 0; }

  /// What came of a region.
  void note(bool has_helped) {
    constexpr int kMost = 15;
    length_ = has_helped ? 0 : std::min(2 * length_ + 1, kMost);
    left_ = length_;
  }

 private:
  int length_ = 0, left_ = 0;
};

/// In the child of a fork, where the library's threads are no more.
void forked();

}  // namespace fused_adamw::cpu::openmp
