// The tensors of a step on a GPU: their tables in its memory, and the launches.
#pragma once

#include <array>
#include <memory>
#include <optional>
#include <vector>

#include "../core/tensor-list.h"
#include "device.h"
#include "transfer.h"
#include "work.h"

namespace fused_adamw::cuda {

/// Device memory whose content the host gives anew now and then, by way of
/// page-locked memory, in several slots, so that the host writes while the device reads.
class StagedBuffer {
 public:
  StagedBuffer(Device& device, size_t capacity);
  /// What uploads under way use is kept until they are done.
  ~StagedBuffer();
  StagedBuffer(const StagedBuffer&) = delete;
  StagedBuffer& operator=(const StagedBuffer&) = delete;

  /// Where to write what upload() sends next. Waits, asleep, only where the
  /// device is kSlots uploads behind.
  void* stage();
  /// Needs a current context.
  void upload(size_t bytes, StreamHandle stream);
  size_t capacity() const { return memory_->bytes(); }
  const void* address() const { return memory_->address(); }

 private:
  static constexpr unsigned kSlots = 4;
  struct Slot {
    std::shared_ptr<PinnedMemory> memory;
    std::shared_ptr<Memory> target;
    std::shared_ptr<Event> read;
    bool used = false;
    Slot(Device& device, size_t bytes, std::shared_ptr<Memory> to)
        : memory(device.allocate_staging(bytes)), target(std::move(to)), read(device.make_event()) {}
  };
  Device& device_;
  std::shared_ptr<Memory> memory_;
  std::array<std::shared_ptr<Slot>, kSlots> slots_;
  unsigned next_ = 0;
};

class Step {
 public:
  /// Uploads the work table. `memories` are those behind the addresses of the
  /// binding; a stream other than the default one must be of the device's
  /// primary context, else this throws std::invalid_argument.
  Step(Device& device, Binding binding, Memories memories, StreamHandle stream);
  /// What was in use is kept until the last launch is done.
  ~Step();
  Step(const Step&) = delete;
  Step& operator=(const Step&) = delete;

  const Binding& binding() const { return binding_; }
  Device& device() const { return device_; }

  /// As Binding::set_grads, with the memories behind the addresses.
  std::optional<Overlap> set_grads(const std::vector<const void*>& grads, Memories memories);
  /// As Binding::set_groups; makes room for the scalars of so many groups.
  void set_groups(const std::vector<uint32_t>& groups, size_t group_count);

  /// Rounds the scalars of a step and sends what the device does not have yet.
  void begin(const StepOptions& options, const Group* groups);
  /// Launches the update of tensors [first, last): one launch for each layout among them.
  void run(size_t first, size_t last);

 private:
  /// The units of all tensors of one layout, in the order of the tensors.
  struct LayoutUnits {
    Layout layout;
    const Unit* block_units = nullptr;  // on the device
    const Unit* warp_units = nullptr;
    std::vector<uint32_t> block_starts, warp_starts;  // units before tensor i; of one more than there are: all
  };
  /// What launches in flight use.
  struct Resources {
    Memories memories, grad_memories;
    std::shared_ptr<Memory> tables;
    std::shared_ptr<StagedBuffer> grads, group_of;
    std::shared_ptr<StagedBuffer> single, wide;  // scalars of more groups than go by value
  };

  void upload_tables();
  template <typename T>
  void make_room(std::shared_ptr<StagedBuffer>& table, size_t group_count);
  template <typename T>
  void round_groups(const StepOptions& options, const Group* groups, std::vector<DeviceGroup<T>>& out,
                    StagedBuffer* table);
  template <typename T>
  void launch(const LayoutUnits& units, size_t first, size_t last, const std::vector<DeviceGroup<T>>& groups,
              const StagedBuffer* table);

  Device& device_;
  Binding binding_;
  StreamHandle stream_;
  std::shared_ptr<Resources> resources_;
  std::shared_ptr<Event> launched_;  // after the last launch; null before the first
  std::vector<LayoutUnits> layouts_;
  std::vector<DeviceGroup<float>> single_;  // scalars of the step that runs
  std::vector<DeviceGroup<double>> wide_;
  bool uses_single_ = false, uses_wide_ = false;
  bool new_grads_ = false, new_groups_ = false;
};

}  // namespace fused_adamw::cuda
