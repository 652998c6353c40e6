// A GPU: the order of its copies and steps, and what work in flight still uses.
#pragma once

#include <deque>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "context.h"
#include "event.h"
#include "memory.h"
#include "module.h"
#include "pool.h"

namespace fused_adamw::cuda {

/// What the driver reports about a device without a context.
struct DeviceInfo {
  std::string name;
  int major = 0, minor = 0;  // compute capability
  size_t bytes = 0;          // memory
};

int driver_version();
int device_count();
DeviceInfo device_info(int ordinal);

class Device {
 public:
  /// The device of that number. The first call retains its primary context and
  /// loads the device code. Throws Unavailable with the reason, the same one at
  /// each call.
  static Device& get(int ordinal);

  /// A device that get() has returned before, in this process; null where there is none.
  static Device* in_use();

  int ordinal() const { return ordinal_; }
  ContextHandle context() const { return context_.handle(); }
  const Kernel& kernel(Rule rule, DTypeConfig config) const { return module_.kernel(rule, config); }

  /// Held while a thread puts work on the device, and not while it waits for work.
  std::mutex& mutex() { return mutex_; }

  /// Zeroed memory. Where there is none left, waits for all work, frees what it
  /// used, tries once more, and throws DriverError.
  std::shared_ptr<Memory> allocate(size_t bytes);
  /// Memory with any content, at least so many bytes of it, from a pool.
  std::shared_ptr<Memory> allocate_table(size_t bytes);
  /// Frees memory that was released, and what the pools keep.
  void trim();

  /// Page-locked memory for a caller.
  std::unique_ptr<PinnedMemory> allocate_pinned(size_t bytes);

  // These need a current context.

  /// Page-locked memory, at least so many bytes of it, from a pool.
  std::shared_ptr<PinnedMemory> allocate_staging(size_t bytes);
  /// From a pool.
  std::shared_ptr<Event> make_event() const;

  // These need the mutex, too. The first two throw
  // std::runtime_error where the stream is being captured into a graph, before
  // anything is recorded.

  /// Before a copy on the legacy default stream: it comes after all steps so far.
  /// Returns the event for end_copy(), made first: a copy without one could not be told to be done.
  std::shared_ptr<Event> begin_copy();
  /// Before a step on a stream: it comes after the copies.
  void begin_step(StreamHandle stream);
  /// After a copy, which holds `uses` until it is done: later steps come after it.
  void end_copy(std::shared_ptr<Event> after, std::shared_ptr<void> uses);
  /// After a step, whose end `after` marks: later copies come after it.
  void end_step(StreamHandle stream, std::shared_ptr<Event> after);
  /// Lets go of what work used that is done. Frees no memory, which may wait for all
  /// work of the device.
  void drain();

  /// Keeps things until an event is done, or, without one, until drain(). Calls no
  /// function of the driver.
  void retire(std::shared_ptr<void> things, std::shared_ptr<Event> after);
  // They queue memory of cuMemAlloc or cuMemHostAlloc that nothing uses any more, to be freed at the next allocation
  // or synchronize(). They call no function of the driver.
  void release(DevicePointer pointer);
  void release(void* pinned);

  /// Waits until all our work is done and frees what it used.
  void synchronize();

 private:
  explicit Device(int ordinal);
  DevicePointer allocate_uninitialised(size_t bytes);
  /// The events after all work so far.
  std::vector<std::shared_ptr<Event>> work_in_flight();
  void free_released();

  struct Retired {
    std::shared_ptr<void> things;
    std::shared_ptr<Event> after;
  };

  int ordinal_;
  PrimaryContext context_;
  Module module_;

  std::mutex mutex_;
  std::shared_ptr<Event> copied_;  // after the last copy; null before the first
  /// After the last step on each stream but the default one, by the driver's id of the
  /// stream: its handle may be that of a destroyed stream whose steps still run.
  std::map<unsigned long long, std::shared_ptr<Event>> stepped_;

  mutable Pool<Event> events_;
  Pool<Memory> tables_;
  Pool<PinnedMemory> staging_;

  std::mutex queue_mutex_;  // of what follows; finalizers take it
  std::deque<Retired> retired_;
  std::vector<DevicePointer> released_;
  std::vector<void*> released_pinned_;
  std::vector<std::shared_ptr<void>> captured_;  // what a graph may use at any time: kept to the end
};

}  // namespace fused_adamw::cuda
