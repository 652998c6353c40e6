// A GPU: the order of its copies and steps, and what work in flight still uses.
#pragma once

#include <deque>
#include <initializer_list>
#include <map>
#include <memory>
#include <mutex>
#include <set>
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

/// What a step uses: the arrays of its tensors but the gradients, and those.
struct StepMemories {
  std::shared_ptr<const Memories> tensors, grads;

  bool operator==(const StepMemories& other) const { return tensors == other.tensors && grads == other.grads; }
};

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
  FunctionHandle kernel(Rule rule, DTypeConfig config) const { return module_.kernel(rule, config); }
  FunctionHandle kernel(GradientKernel kernel) const { return module_.kernel(kernel); }

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
  /// Throws std::invalid_argument, with what it is instead, unless a stream other than the
  /// default one is of the device's primary context.
  void expect_stream(StreamHandle stream) const;
  /// The stream of asynchronous copies. It is of ours, and waits for no other unless told to.
  StreamHandle copy_stream() const { return copy_stream_; }
  /// Lets this device reach the memory of another directly, where it can.
  void enable_access_to(Device& peer);

  // These need the mutex, too. Those that begin something throw std::runtime_error
  // where the stream is being captured into a graph, before anything is recorded.

  /// Before a copy on the legacy default stream: it comes after all steps so far, and
  /// after what uses the memory on the stream of asynchronous copies. Returns the event
  /// for end_copy(), made first: a copy without one could not be told to be done.
  std::shared_ptr<Event> begin_copy(const Memories& uses);
  /// After a copy, which holds `uses` until it is done: later steps come after it.
  void end_copy(std::shared_ptr<Event> after, Memories uses);
  /// Before a copy on the stream of asynchronous copies: it comes after all work so far
  /// that uses the memory, and after no other. Returns the event for end_async_copy().
  std::shared_ptr<Event> begin_async_copy(const Memories& uses);
  /// After it: later work that uses the memory comes after it.
  void end_async_copy(std::shared_ptr<Event> after, Memories uses);
  /// Before a step on a stream: it comes after all copies so far on the legacy default
  /// stream, and after the asynchronous ones of its memory.
  void begin_step(StreamHandle stream, const StepMemories& uses);
  /// After a step, whose end `after` marks and which holds `uses` until then: later copies come after it.
  void end_step(StreamHandle stream, std::shared_ptr<Event> after, StepMemories uses);
  /// Lets a stream wait for an event of another library; asynchronous copies, too.
  void wait_for(EventHandle event, StreamHandle stream);
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

  StreamHandle copy_stream_ = nullptr;

  /// Work in flight.
  struct Use {
    StepMemories memories;
    std::shared_ptr<Event> after;
  };
  using Uses = std::deque<Use>;  // of one stream, in its order
  static void add_use(Uses& uses, StepMemories memories, std::shared_ptr<Event> after);
  /// The last work that uses some of the memory, or may; null where there is none.
  static const Use* find_last(const Uses& uses, std::initializer_list<const Memories*> of);
  void drop_done(Uses& uses);

  std::mutex mutex_;
  std::shared_ptr<Event> copied_;  // after the last copy on the legacy default stream; null before the first
  Uses on_legacy_, on_copy_stream_;
  /// Steps on each other stream, by the driver's id of it: its handle may be that of a
  /// destroyed stream whose steps still run.
  std::map<unsigned long long, Uses> on_streams_;
  std::set<int> reachable_;  // the other devices that were asked for

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
