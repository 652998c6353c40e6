// What a JavaScript thread has in flight on devices.
#pragma once

#include <list>
#include <memory>
#include <set>

#include "../cuda/device.h"
#include "errors.h"

namespace fused_adamw {

/// The owners of memory of other libraries, which must be let go of on the
/// JavaScript thread, and the copies that use memory of the thread.
class InFlight {
 public:
  ~InFlight() { wait(); }

  void keep(std::shared_ptr<void> owner, std::weak_ptr<cuda::Memory> memory, int ordinal) {
    owners_.push_back({std::move(owner), std::move(memory), ordinal});
  }
  /// Drops the owners whose memory is not in use any more.
  void sweep() {
    owners_.remove_if([](const Owned& owned) { return owned.memory.expired(); });
  }
  void begin_copy(int ordinal) { copies_.insert(ordinal); }
  void end_copy(int ordinal) { copies_.erase(copies_.find(ordinal)); }

  /// Waits for everything that uses the thread's memory, before that memory is freed.
  void wait() {
    std::set<int> ordinals(copies_.begin(), copies_.end());
    for (const Owned& owned : owners_)
      if (!owned.memory.expired()) ordinals.insert(owned.ordinal);
    for (const int ordinal : ordinals) {
      try {
        cuda::Device::get(ordinal).synchronize();
      } catch (const std::exception&) {
        // A driver that is shutting down has nothing in flight.
      }
    }
  }

 private:
  struct Owned {
    std::shared_ptr<void> owner;
    std::weak_ptr<cuda::Memory> memory;
    int ordinal;
  };
  std::list<Owned> owners_;
  std::multiset<int> copies_;
};

}  // namespace fused_adamw
