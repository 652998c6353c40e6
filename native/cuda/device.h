// A GPU: its context, kernels and memory, and what work in flight still uses.
#pragma once

#include <deque>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "../core/dtype-configs.h"
#include "driver.h"

namespace fused_adamw::cuda {

class Device;

/// A device's primary context, retained.
class PrimaryContext {
 public:
  explicit PrimaryContext(int ordinal);
  ~PrimaryContext();
  PrimaryContext(const PrimaryContext&) = delete;
  PrimaryContext& operator=(const PrimaryContext&) = delete;

  DeviceHandle device() const { return device_; }
  ContextHandle handle() const { return handle_; }

 private:
  DeviceHandle device_ = 0;
  ContextHandle handle_ = nullptr;
};

/// Makes a device's context current, and what was current again at the end.
class Current {
 public:
  explicit Current(const Device& device);
  ~Current();
  Current(const Current&) = delete;
  Current& operator=(const Current&) = delete;
};

/// A mark in a stream that the host, or another stream, can wait for. Who
/// waits sleeps.
class Event {
 public:
  /// Needs a current context.
  Event();
  ~Event();
  Event(const Event&) = delete;
  Event& operator=(const Event&) = delete;

  void record(StreamHandle stream);
  bool is_done() const;
  void wait() const;
  /// Lets later work of a stream wait.
  void hold_back(StreamHandle stream) const;

 private:
  EventHandle handle_ = nullptr;
};

/// Memory of a device: of ours, or at an address that another library gave.
///
/// Everything that uses it holds a shared_ptr until it is done, so the last
/// one to go may give it back. That only queues it (it may be a finalizer of
/// the garbage collector); Device::drain() frees.
class Memory {
 public:
  Memory(Device& device, DevicePointer pointer, size_t bytes, bool owned);
  ~Memory();
  Memory(const Memory&) = delete;
  Memory& operator=(const Memory&) = delete;

  Device& device() const { return device_; }
  DevicePointer pointer() const { return pointer_; }
  void* address() const { return reinterpret_cast<void*>(pointer_); }
  size_t bytes() const { return bytes_; }

 private:
  Device& device_;
  DevicePointer pointer_;
  size_t bytes_;
  bool owned_;
};

/// Page-locked memory of the host, which a device copies without a detour.
class PinnedMemory {
 public:
  /// Needs a current context.
  explicit PinnedMemory(size_t bytes);
  ~PinnedMemory();
  PinnedMemory(const PinnedMemory&) = delete;
  PinnedMemory& operator=(const PinnedMemory&) = delete;

  void* data() const { return data_; }

 private:
  void* data_ = nullptr;
};

/// What the driver tells of a device without a context.
struct DeviceInfo {
  std::string name;
  int major = 0, minor = 0;  // compute capability
  size_t bytes = 0;          // memory
};

int driver_version();
int device_count();
DeviceInfo device_info(int ordinal);

/// Files with device code, the preferred one first; before the first Device.
void set_device_code(std::vector<std::string> paths);

/// The device on whose context memory at an address lies, and how many bytes
/// of it there are from there on (SIZE_MAX where the driver does not know).
struct PointerInfo {
  int ordinal;
  size_t bytes;
};
/// Throws std::invalid_argument with what the address is instead.
PointerInfo pointer_info(DevicePointer pointer);

class Device {
 public:
  /// The device of that number. Its primary context is retained, and the device
  /// code loaded, at the first call. Throws Unavailable with the reason, again
  /// at each call.
  static Device& get(int ordinal);

  int ordinal() const { return ordinal_; }
  ContextHandle context() const { return context_.handle(); }

  /// Zeroed memory. Where there is none left: waits for all work, frees what it
  /// used, tries once more, and throws DriverError.
  std::shared_ptr<Memory> allocate(size_t bytes);

  // Copies, on the legacy default stream and after all steps on any stream. Those
  // with the host return when the host's memory may be used again; the others
  // hold the memories until they are done.
  void copy_from_host(const std::shared_ptr<Memory>& to, size_t offset, const void* from, size_t bytes);
  void copy_to_host(void* to, const std::shared_ptr<Memory>& from, size_t offset, size_t bytes);
  void copy(const std::shared_ptr<Memory>& to, const std::shared_ptr<Memory>& from, size_t bytes, size_t to_offset = 0,
            size_t from_offset = 0);

  /// Starts a copy with page-locked or other host memory that stays; `done` is
  /// called once, with how it went, on a thread of the driver, which must not call
  /// the driver. Where
  /// this throws `done` is never called, and the host's memory may be used again.
  void start_copy_from_host(const std::shared_ptr<Memory>& to, const void* from, size_t bytes, StreamCallback done,
                            void* context, size_t offset = 0);
  void start_copy_to_host(void* to, const std::shared_ptr<Memory>& from, size_t bytes, StreamCallback done,
                          void* context, size_t offset = 0);

  /// The kernel of a rule and dtype configuration, and how many blocks of it run at a time.
  struct Kernel {
    FunctionHandle function = nullptr;
    unsigned resident_blocks = 0;
  };
  const Kernel& kernel(Rule rule, DTypeConfig config) const { return kernels_[kernel_index(rule, config)]; }

  /// Before a step on a stream: it comes after the copies.
  void begin_step(StreamHandle stream);
  /// After it, where `after` was recorded: later copies come after the step.
  void end_step(StreamHandle stream, std::shared_ptr<Event> after);

  /// Keeps things until an event is done, or, without one, until drain(). No call of the driver.
  void retire(std::shared_ptr<void> things, std::shared_ptr<Event> after);

  /// Frees what nothing uses any more. Needs a current context.
  void drain();

  /// Waits until all work of ours is done and frees what it used.
  void synchronize();

  /// Held by who uses the device. Take it before Current.
  std::mutex& mutex() { return mutex_; }

 private:
  friend class Memory;

  explicit Device(int ordinal);
  void load_kernels();
  void begin_copy();
  void end_copy(std::shared_ptr<void> uses);
  /// Asleep, where a copy with the host's memory would wait awake.
  void wait_for_work();
  void call_after_copies(StreamCallback done, void* context);
  void wait_for_everything();
  void free_released();

  struct Retired {
    std::shared_ptr<void> things;
    std::shared_ptr<Event> after;
  };

  int ordinal_;
  PrimaryContext context_;
  Kernel kernels_[kKernels];

  std::mutex mutex_;
  std::shared_ptr<Event> copied_;                           // after the last copy; null before the first
  std::map<StreamHandle, std::shared_ptr<Event>> stepped_;  // after the last step on each stream but the default one

  std::mutex queue_mutex_;  // of the two below; finalizers take it
  std::deque<Retired> retired_;
  std::vector<DevicePointer> released_;
};

}  // namespace fused_adamw::cuda
