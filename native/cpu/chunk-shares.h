// How the chunks of a call are dealt out to threads.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>

namespace fused_adamw::cpu {

/// The most threads that a call may have.
inline constexpr int kMostThreads = 1024;

/// The chunks of a call in contiguous shares of equal size, one for each thread.
///
/// Thread t begins with share t at every call, so that its chunks stay in its
/// own caches and, on a machine with several memory nodes, in its own memory. A
/// thread that has done its share steals single chunks from the ends of the
/// others', so that a call is over when its chunks are, whichever threads came.
class ChunkShares {
 public:
  /// Fewer than 2^32 chunks, at most kMostThreads shares.
  void deal(size_t chunks, int shares) {
    count_ = shares;
    for (int i = 0; i < shares; ++i)
      shares_[i].range.store(range(chunks * i / shares, chunks * (i + 1) / shares), std::memory_order_relaxed);
  }

  /// Calls work(chunk) for chunks that no other thread takes, until there are
  /// none left; returns whether there was any.
  template <typename Work>
  bool work_off(int thread, const Work& work) {
    size_t chunk, done = 0;
    if (thread < count_)
      for (; take_first(thread, &chunk); ++done) work(chunk);
    for (int i = 1; i <= count_; ++i)
      for (; take_last((thread + i) % count_, &chunk); ++done) work(chunk);
    return done > 0;
  }

  /// The first, or last, of a share that nobody has taken; false where there is none.
  bool take_first(int share, size_t* chunk) {
    return take(share, [chunk](uint64_t first, uint64_t end) { return *chunk = first, range(first + 1, end); });
  }
  bool take_last(int share, size_t* chunk) {
    return take(share, [chunk](uint64_t first, uint64_t end) { return *chunk = end - 1, range(first, end - 1); });
  }

 private:
  /// The chunks that nobody has taken: the first in the lower half, the one after the last in the upper half.
  struct alignas(64) Share {
    std::atomic<uint64_t> range{0};
  };

  static uint64_t range(uint64_t first, uint64_t end) { return end << 32 | first; }

  template <typename Rest>
  bool take(int share, const Rest& rest_of) {
    std::atomic<uint64_t>& shared = shares_[share].range;
    uint64_t now = shared.load(std::memory_order_relaxed);
    for (;;) {
      const uint64_t first = now & 0xffffffff, end = now >> 32;
      if (first == end) return false;
      if (shared.compare_exchange_weak(now, rest_of(first, end), std::memory_order_relaxed)) return true;
    }
  }

  int count_ = 0;
  Share shares_[kMostThreads];
};

}  // namespace fused_adamw::cpu
