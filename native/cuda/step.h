// The step on a GPU: tables of the tensors in its memory, and the launches.
#pragma once

#include <deque>
#include <memory>
#include <optional>
#include <vector>

#include "../core/tensor-list.h"
#include "decision.h"
#include "square-sums.h"
#include "staged-buffer.h"
#include "work.h"

namespace fused_adamw::cuda {

class Step {
 public:
  /// Prepares the table of the tensors. `memories` own the addresses in the list. A
  /// stream other than the default one must belong to the device's primary context,
  /// else this throws std::invalid_argument.
  Step(Device& device, TensorList list, Memories memories, StreamHandle stream);
  /// Everything in use is kept until the last launch is done.
  ~Step();
  Step(const Step&) = delete;
  Step& operator=(const Step&) = delete;

  const TensorList& list() const { return list_; }
  Device& device() const { return device_; }

  /// As TensorList::set_grads; `memories` own the addresses.
  std::optional<Overlap> set_grads(const std::vector<void*>& grads, Memories memories);
  /// As TensorList::set_groups; also allocates memory for the scalars of the groups.
  void set_groups(const std::vector<uint32_t>& groups, size_t group_count);

  /// Rounds the scalars of a step and uploads what has changed since the last one.
  void begin(const StepScalars& step, const ScalarGroup* groups);
  /// In place of begin(), for a step about which the device decides by its gradients: it may be skipped, and which
  /// scalars it takes depends on how many of those before were. `candidates` are those of each group for each number of
  /// skipped steps, from none on. Writes the scale of the next step to `scale`, an address in `memory`, unless they are
  /// null. Does not wait for the device.
  void decide(const StepScalars& step, const ScalarGroup* candidates, size_t candidate_count,
              const DecisionScalars& scalars, std::shared_ptr<Memory> memory, float* scale);
  /// Whether decision() would not wait.
  bool is_decided(size_t number) const;
  /// What was decided about a step, by its number since the last start. Waits for it. Those of kMostCandidates are
  /// kept.
  Decision decision(size_t number) const;

  /// Writes the sum of the squares of each gradient; false if an element is infinite or NaN. Waits for the device.
  bool sums_of_squares(double* sums);
  /// Clears the gradients.
  void zero_grads();
  /// Launches the update of tensors [first, last): one launch for each dtype configuration among them.
  void run(size_t first, size_t last);

 private:
  /// The work items of all tensors of one dtype configuration, in the order of the tensors.
  struct ConfigItems {
    DTypeConfig config;
    const WorkItem* block_items = nullptr;  // on the device
    const WorkItem* warp_items = nullptr;
    std::vector<uint32_t> block_starts, warp_starts;  // items before tensor i; the last entry is the total
  };
  /// What launches in flight use.
  struct Resources {
    StepMemories memories;
    std::shared_ptr<StagedBuffer> tables;
    std::shared_ptr<StagedBuffer> grads, group_of;
    // Scalars of more groups than fit into the parameters; or those that a decision chooses from, and then the chosen.
    std::shared_ptr<StagedBuffer> f32, f64;
    std::shared_ptr<SquareSums> square_sums;
    std::shared_ptr<Memory> decision;
  };
  struct Decided {
    std::shared_ptr<Event> after;
    std::shared_ptr<PinnedMemory> copy;  // of the Decision
  };
  const Decided& decided(size_t number) const;

  void fill_tables();
  void upload_grads();
  void upload_tables();
  SquareSums& square_sums();
  /// Puts work of the device on the stream, after a begin_step(): run() launches it. `after` marks its end.
  template <class Run>
  void launch_work(std::shared_ptr<Event> after, const Run& run);
  void make_room(std::shared_ptr<StagedBuffer>& table, size_t bytes);
  /// The scalars of the current step: `count` times those of the groups.
  void take_scalars(const StepScalars& step, const ScalarGroup* groups, size_t count);
  template <typename T>
  void upload_groups(const std::vector<DeviceGroup<T>>& groups, StagedBuffer* table);
  /// Where a decision puts the scalars that it chooses.
  template <typename T>
  DeviceGroup<T>* chosen(const StagedBuffer* table) const;
  void use_memory(std::shared_ptr<Memory> memory);
  void launch_decision(const StepScalars& step, const DecisionScalars& scalars, float* scale);
  template <typename T>
  void launch(const ConfigItems& items, size_t first, size_t last, const std::vector<DeviceGroup<T>>& groups,
              const StagedBuffer* table);

  Device& device_;
  TensorList list_;
  StreamHandle stream_;
  std::shared_ptr<Resources> resources_;
  std::shared_ptr<Event> launched_;  // after the last launch; null before the first
  std::vector<ConfigItems> configs_;
  size_t table_bytes_ = 0;
  std::vector<DeviceGroup<float>> f32_;  // scalars of the current step
  std::vector<DeviceGroup<double>> f64_;
  bool uses_f32_ = false, uses_f64_ = false;
  bool stochastic_weights_ = false, zero_grads_ = false;  // in the current step
  bool is_decided_there_ = false;                         // whether decide() began it
  std::deque<Decided> decided_;                           // the last ones
  size_t decisions_ = 0;                                  // since the last start
  bool new_tables_ = true, new_grads_ = false, new_groups_ = false;
};

}  // namespace fused_adamw::cuda
