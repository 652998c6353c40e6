#include "step.h"

#include <algorithm>
#include <cstring>
#include <mutex>
#include <stdexcept>

#include "../cpu/float-environment.h"
#include "launch.h"

namespace fused_adamw::cuda {

Step::Step(Device& device, TensorList list, Memories memories, StreamHandle stream)
    : device_(device), list_(std::move(list)), stream_(stream), resources_(std::make_shared<Resources>()) {
  {
    const ContextGuard guard(device.context());  // the driver's handles of default streams refer to the current context
    device.expect_stream(stream);
  }
  resources_->memories.tensors = std::make_shared<const Memories>(std::move(memories));
  resources_->memories.grads = std::make_shared<const Memories>();
  fill_tables();
  if (configs_.empty()) return;  // nothing is ever launched
  resources_->grads = std::make_shared<StagedBuffer>(device_, list_.size() * sizeof(void*));
  resources_->group_of = std::make_shared<StagedBuffer>(device_, list_.size() * sizeof(uint32_t));
}

Step::~Step() { device_.retire(std::move(resources_), std::move(launched_)); }

/// Uploaded by the first step, on its stream.
void Step::fill_tables() {
  const size_t size = list_.size();
  std::vector<DeviceTensor> tensors;
  std::vector<WorkItem> items;                    // of all configurations
  std::vector<std::pair<size_t, size_t>> firsts;  // of each configuration: its first block item and first warp item
  tensors.reserve(size);
  for (size_t i = 0; i < size; ++i) {
    const TensorArrays& tensor = list_.tensor(i);
    tensors.push_back({tensor.arrays, tensor.key});
    (info(tensor.config).is_f64 ? uses_f64_ : uses_f32_) = true;
    if (std::none_of(configs_.begin(), configs_.end(), [&](const auto& has) { return has.config == tensor.config; })) {
      configs_.emplace_back();
      configs_.back().config = tensor.config;
    }
  }
  for (ConfigItems& of : configs_) {
    const size_t first_block_item = items.size();
    for (size_t i = 0; i < size; ++i) {
      const TensorArrays& tensor = list_.tensor(i);
      of.block_starts.push_back(static_cast<uint32_t>(items.size() - first_block_item));
      if (tensor.config != of.config || tensor.length <= kWarpItemLength) continue;
      for (uint64_t start = 0; start < tensor.length; start += kItemLength)
        items.push_back({static_cast<uint32_t>(i),
                         static_cast<uint32_t>(std::min<uint64_t>(kItemLength, tensor.length - start)), start});
    }
    const size_t first_warp_item = items.size();
    of.block_starts.push_back(static_cast<uint32_t>(first_warp_item - first_block_item));
    for (size_t i = 0; i < size; ++i) {
      const TensorArrays& tensor = list_.tensor(i);
      of.warp_starts.push_back(static_cast<uint32_t>(items.size() - first_warp_item));
      if (tensor.config == of.config && tensor.length > 0 && tensor.length <= kWarpItemLength)
        items.push_back({static_cast<uint32_t>(i), static_cast<uint32_t>(tensor.length), 0});
    }
    of.warp_starts.push_back(static_cast<uint32_t>(items.size() - first_warp_item));
    firsts.push_back({first_block_item, first_warp_item});
  }

  if (configs_.empty()) return;
  const size_t tensor_bytes = tensors.size() * sizeof(DeviceTensor);
  static_assert(sizeof(DeviceTensor) % alignof(WorkItem) == 0);
  table_bytes_ = tensor_bytes + items.size() * sizeof(WorkItem);
  resources_->tables = std::make_shared<StagedBuffer>(device_, table_bytes_);
  const ContextGuard guard(device_.context());
  auto* staged = static_cast<char*>(resources_->tables->stage());
  std::copy(tensors.begin(), tensors.end(), reinterpret_cast<DeviceTensor*>(staged));
  std::copy(items.begin(), items.end(), reinterpret_cast<WorkItem*>(staged + tensor_bytes));  // none if all are empty
  const auto* on_device =
      reinterpret_cast<const WorkItem*>(static_cast<const char*>(resources_->tables->address()) + tensor_bytes);
  for (size_t c = 0; c < configs_.size(); ++c) {
    configs_[c].block_items = on_device + firsts[c].first;
    configs_[c].warp_items = on_device + firsts[c].second;
  }
}

std::optional<Overlap> Step::set_grads(const std::vector<void*>& grads, Memories memories) {
  const auto overlap = list_.set_grads(grads);
  if (overlap) return overlap;
  // Launches hold the previous gradients.
  resources_->memories.grads = std::make_shared<const Memories>(std::move(memories));
  new_grads_ = true;
  return std::nullopt;
}

/// At least so many bytes, in place of a table that launches in flight may use.
void Step::make_room(std::shared_ptr<StagedBuffer>& table, size_t bytes) {
  if (table && table->capacity() >= bytes) return;
  auto larger = std::make_shared<StagedBuffer>(device_, bytes);
  if (launched_) device_.retire(std::move(table), launched_);
  table = std::move(larger);
}

void Step::set_groups(const std::vector<uint32_t>& groups, size_t group_count) {
  if (uses_f32_ && group_count > StepParameters<float>::kGroups)
    make_room(resources_->f32, group_count * sizeof(DeviceGroup<float>));
  if (uses_f64_ && group_count > StepParameters<double>::kGroups)
    make_room(resources_->f64, group_count * sizeof(DeviceGroup<double>));
  list_.set_groups(groups, group_count);
  new_groups_ = true;
}

void Step::upload_grads() {
  if (!new_grads_) return;
  auto** grads = static_cast<void**>(resources_->grads->stage());
  for (size_t i = 0; i < list_.size(); ++i) grads[i] = list_.tensor(i).arrays[Role::grad];
  resources_->grads->upload(list_.size() * sizeof(void*), stream_);
  new_grads_ = false;
}

/// What has changed since the last step.
void Step::upload_tables() {
  const size_t size = list_.size();
  if (new_tables_) {
    resources_->tables->upload(table_bytes_, stream_);
    new_tables_ = false;
  }
  upload_grads();
  if (new_groups_) {
    auto* group_of = static_cast<uint32_t*>(resources_->group_of->stage());
    for (size_t i = 0; i < size; ++i) group_of[i] = list_.tensor(i).group;
    resources_->group_of->upload(size * sizeof(uint32_t), stream_);
    new_groups_ = false;
  }
}

void Step::take_scalars(const StepScalars& step, const ScalarGroup* groups, size_t count) {
  stochastic_weights_ = step.stochastic_weights != 0;
  zero_grads_ = step.zero_grads != 0;
  const FloatEnvironment environment;  // a scalar may be subnormal in float
  const auto round_groups = [&](auto& out, auto zero) {
    using T = decltype(zero);
    out.resize(count * list_.group_count());
    for (size_t i = 0; i < out.size(); ++i) out[i] = {round_scalars<T>(step, groups[i]), round_count(groups[i])};
  };
  if (uses_f32_) round_groups(f32_, float{});
  if (uses_f64_) round_groups(f64_, double{});
}

void Step::begin(const StepScalars& step, const ScalarGroup* groups) {
  if (configs_.empty()) return;
  take_scalars(step, groups, 1);
  is_decided_there_ = false;
  const std::lock_guard lock(device_.mutex());
  const ContextGuard guard(device_.context());
  device_.begin_step(stream_, resources_->memories);
  upload_tables();
  if (f32_.size() > StepParameters<float>::kGroups) upload_groups(f32_, resources_->f32.get());
  if (f64_.size() > StepParameters<double>::kGroups) upload_groups(f64_, resources_->f64.get());
}

template <typename T>
void Step::upload_groups(const std::vector<DeviceGroup<T>>& groups, StagedBuffer* table) {
  if (groups.empty()) return;
  const size_t bytes = groups.size() * sizeof(DeviceGroup<T>);
  std::memcpy(table->stage(), groups.data(), bytes);
  table->upload(bytes, stream_);
}

template <typename T>
DeviceGroup<T>* candidates(const StagedBuffer* table) {
  return table ? static_cast<DeviceGroup<T>*>(table->address()) : nullptr;
}

template <typename T>
DeviceGroup<T>* Step::chosen(const StagedBuffer* table) const {
  return table ? candidates<T>(table) + kMostCandidates * list_.group_count() : nullptr;
}

SquareSums& Step::square_sums() {
  if (!resources_->square_sums)
    resources_->square_sums = std::make_shared<SquareSums>(device_, list_.tensors(), list_.size());
  return *resources_->square_sums;
}

void Step::decide(const StepScalars& step, const ScalarGroup* candidates, size_t candidate_count,
                  const DecisionScalars& scalars, std::shared_ptr<Memory> memory, float* scale) {
  if (configs_.empty()) throw std::logic_error("Expected tensors with elements");
  take_scalars(step, candidates, candidate_count);
  is_decided_there_ = true;
  const ContextGuard guard(device_.context());
  square_sums();
  if (!resources_->decision) resources_->decision = device_.allocate_table(sizeof(Decision));
  const size_t table_size = (kMostCandidates + 1) * list_.group_count();
  if (uses_f32_) make_room(resources_->f32, table_size * sizeof(DeviceGroup<float>));
  if (uses_f64_) make_room(resources_->f64, table_size * sizeof(DeviceGroup<double>));
  if (memory) use_memory(std::move(memory));
  if (scalars.restarts != 0) {
    decided_.clear();
    decisions_ = 0;
  }
  auto copy = device_.allocate_staging(sizeof(Decision));
  const std::lock_guard lock(device_.mutex());
  device_.begin_step(stream_, resources_->memories);
  auto after = device_.make_event();
  upload_tables();
  upload_groups(f32_, resources_->f32.get());
  upload_groups(f64_, resources_->f64.get());
  launch_work(after, [&] {
    square_sums().launch(static_cast<const void* const*>(resources_->grads->address()), stream_);
    launch_decision(step, scalars, scale);
    FUSED_ADAMW_CUDA(cuMemcpyDtoHAsync_v2, copy->data(), resources_->decision->pointer(), sizeof(Decision), stream_);
  });
  device_.retire(copy, after);
  if (decided_.size() == kMostCandidates) decided_.pop_front();
  decided_.push_back({std::move(after), std::move(copy)});
  ++decisions_;
}

/// Keeps one more memory with the tensors, from now on.
void Step::use_memory(std::shared_ptr<Memory> memory) {
  const Memories& known = *resources_->memories.tensors;
  if (std::find(known.begin(), known.end(), memory) != known.end()) return;
  auto all = std::make_shared<Memories>(known);
  all->push_back(std::move(memory));
  resources_->memories.tensors = std::move(all);
}

void Step::launch_decision(const StepScalars& step, const DecisionScalars& scalars, float* scale) {
  const auto group_count = static_cast<uint32_t>(list_.group_count());
  const StagedBuffer *f32 = resources_->f32.get(), *f64 = resources_->f64.get();
  DecisionParameters parameters = {
      square_sums().of_tensors(),
      static_cast<uint32_t>(list_.size()),
      group_count,
      uses_f32_,
      step.rescale,
      scalars,
      static_cast<Decision*>(resources_->decision->address()),
      scale,
      candidates<float>(f32),
      candidates<double>(f64),
      chosen<float>(f32),
      chosen<double>(f64),
  };
  launch_kernel(device_.kernel(GradientKernel::decide), 1, parameters, stream_);
  launch_kernel(device_.kernel(GradientKernel::choose_scalars), blocks_for(group_count, kBlock), parameters, stream_);
}

const Step::Decided& Step::decided(size_t number) const {
  const size_t first = decisions_ - decided_.size();
  if (number < first || number >= decisions_) throw std::logic_error("Expected a step that the device decides about");
  return decided_[number - first];
}

bool Step::is_decided(size_t number) const {
  const ContextGuard guard(device_.context());
  return decided(number).after->state() != Event::State::pending;
}

Decision Step::decision(size_t number) const {
  const Decided& of_step = decided(number);
  const ContextGuard guard(device_.context());
  of_step.after->wait();
  return *static_cast<const Decision*>(of_step.copy->data());
}

template <class Run>
void Step::launch_work(std::shared_ptr<Event> after, const Run& run) {
  const auto finish = [&] {
    after->record(stream_);
    launched_ = after;
    device_.end_step(stream_, std::move(after), resources_->memories);
  };
  try {
    run();
  } catch (...) {
    finish();  // some launches may be in flight
    throw;
  }
  finish();
}

void Step::run(size_t first, size_t last) {
  if (configs_.empty()) return;
  const std::lock_guard lock(device_.mutex());
  const ContextGuard guard(device_.context());
  launch_work(device_.make_event(), [&] {
    for (const ConfigItems& items : configs_) {
      if (info(items.config).is_f64)
        launch(items, first, last, f64_, resources_->f64.get());
      else
        launch(items, first, last, f32_, resources_->f32.get());
    }
  });
}

bool Step::sums_of_squares(double* sums) {
  if (configs_.empty()) return true;
  const ContextGuard guard(device_.context());
  square_sums();
  std::shared_ptr<Event> after;
  std::shared_ptr<PinnedMemory> copy;
  {
    const std::lock_guard lock(device_.mutex());
    device_.begin_step(stream_, resources_->memories);
    after = device_.make_event();
    upload_grads();
    launch_work(after, [&] {
      square_sums().launch(static_cast<const void* const*>(resources_->grads->address()), stream_);
      copy = square_sums().start_copy(stream_);
    });
    device_.retire(copy, after);
  }
  after->wait();
  return square_sums().read(*copy, sums);
}

void Step::zero_grads() {
  if (configs_.empty()) return;
  const std::lock_guard lock(device_.mutex());
  const ContextGuard guard(device_.context());
  device_.begin_step(stream_, resources_->memories);
  launch_work(device_.make_event(), [&] {
    for (size_t i = 0; i < list_.size(); ++i) {
      const TensorArrays& tensor = list_.tensor(i);
      const size_t bytes = tensor.length * role_bytes(tensor.config, Role::grad);
      const auto pointer = static_cast<DevicePointer>(reinterpret_cast<uintptr_t>(tensor.arrays[Role::grad]));
      if (bytes > 0) FUSED_ADAMW_CUDA(cuMemsetD8Async, pointer, 0, bytes, stream_);
    }
  });
}

template <typename T>
void Step::launch(const ConfigItems& items, size_t first, size_t last, const std::vector<DeviceGroup<T>>& groups,
                  const StagedBuffer* table) {
  const bool by_value = !is_decided_there_ && groups.size() <= StepParameters<T>::kGroups;
  StepParameters<T> parameters;
  parameters.tables = {
      static_cast<const DeviceTensor*>(resources_->tables->address()),
      static_cast<void* const*>(resources_->grads->address()),
      static_cast<const uint32_t*>(resources_->group_of->address()),
      items.block_items + items.block_starts[first],
      items.warp_items + items.warp_starts[first],
      items.block_starts[last] - items.block_starts[first],
      items.warp_starts[last] - items.warp_starts[first],
      by_value ? nullptr : (is_decided_there_ ? chosen<T>(table) : table->address()),
      stochastic_weights_,
      zero_grads_,
      is_decided_there_ ? static_cast<const Decision*>(resources_->decision->address()) : nullptr,
  };
  if (by_value) std::copy(groups.begin(), groups.end(), parameters.groups);
  launch_kernel(device_.kernel(list_.rule(), items.config), block_count(parameters.tables), parameters, stream_);
}

}  // namespace fused_adamw::cuda
