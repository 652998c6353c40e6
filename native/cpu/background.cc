#include "background.h"

#include <algorithm>
#include <condition_variable>
#include <deque>
#include <functional>
#include <iterator>
#include <mutex>
#include <system_error>
#include <thread>
#include <utility>

#include "../platform/platform.h"

namespace fused_adamw::cpu::background {
namespace {

struct Entry {
  const void* owner;
  std::unique_ptr<Work> work;
};

class Queue {
 public:
  void start(const void* owner, std::unique_ptr<Work> work) {
    {
      const std::lock_guard lock(mutex_);
      has_thread_ = has_thread_ || start_thread();
      if (has_thread_) {
        waiting_.push_back({owner, std::move(work)});
        changed_.notify_all();
        return;
      }
    }
    Work& here = *work;
    here.run(std::move(work));
  }

  void end(const void* owner) {
    std::deque<Entry> dropped;
    std::unique_lock lock(mutex_);
    const auto is_owned = [owner](const Entry& entry) { return entry.owner == owner; };
    const auto kept = std::stable_partition(waiting_.begin(), waiting_.end(), std::not_fn(is_owned));
    std::move(kept, waiting_.end(), std::back_inserter(dropped));
    waiting_.erase(kept, waiting_.end());
    changed_.wait(lock, [this, owner] { return running_ != owner; });
  }

 private:
  bool start_thread() {
    const platform::SignalsBlocked blocked;
    try {
      std::thread([this] { serve(); }).detach();
      return true;
    } catch (const std::system_error&) {
      return false;
    }
  }

  [[noreturn]] void serve() {
    for (std::unique_lock lock(mutex_);;) {
      changed_.wait(lock, [this] { return !waiting_.empty(); });
      Entry next = std::move(waiting_.front());
      waiting_.pop_front();
      running_ = next.owner;
      lock.unlock();
      Work& work = *next.work;
      work.run(std::move(next.work));
      lock.lock();
      running_ = nullptr;
      changed_.notify_all();
    }
  }

  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<Entry> waiting_;
  const void* running_ = nullptr;  // whose work is being done
  bool has_thread_ = false;
};

/// Never destroyed: its thread outlives main().
Queue* queue = nullptr;

Queue& the_queue() {
  static const bool made = [] {
    queue = new Queue;
    // In the child of a fork the thread is gone, with what it had to do.
    platform::on_fork([] { queue = new Queue; });
    return true;
  }();
  (void)made;
  return *queue;
}

}  // namespace

void start(const void* owner, std::unique_ptr<Work> work) { the_queue().start(owner, std::move(work)); }

void end(const void* owner) { the_queue().end(owner); }

}  // namespace fused_adamw::cpu::background
