#include "step.h"

#include <algorithm>
#include <cstring>
#include <mutex>
#include <stdexcept>

#include "../cpu/float-environment.h"

namespace fused_adamw::cuda {

StagedBuffer::StagedBuffer(Device& device, size_t capacity)
    : device_(device), memory_(device.allocate_table(capacity)) {
  const ContextGuard guard(device.context());
  decltype(slots_) slots;  // where one cannot be made, the others go while the context is current
  for (auto& slot : slots) slot = std::make_shared<Slot>(device, capacity, memory_);
  slots_ = std::move(slots);
}

StagedBuffer::~StagedBuffer() {
  for (unsigned i = 0; i < kSlots; ++i) {
    auto& slot = slots_[(next_ + i) % kSlots];  // in the order of their uploads
    auto read = slot->used ? slot->read : nullptr;
    device_.retire(std::move(slot), std::move(read));
  }
}

void* StagedBuffer::stage() {
  const Slot& slot = *slots_[next_];
  if (slot.used) slot.read->wait();
  return slot.memory->data();
}

void StagedBuffer::upload(size_t bytes, StreamHandle stream) {
  Slot& slot = *slots_[next_];
  FUSED_ADAMW_CUDA(cuMemcpyHtoDAsync_v2, memory_->pointer(), slot.memory->data(), bytes, stream);
  slot.read->record(stream);
  slot.used = true;
  next_ = (next_ + 1) % kSlots;
}

Step::Step(Device& device, Binding binding, Memories memories, StreamHandle stream)
    : device_(device), binding_(std::move(binding)), stream_(stream), resources_(std::make_shared<Resources>()) {
  if (stream) {
    const ContextGuard guard(device.context());  // that of the driver's own names for default streams
    ContextHandle context = nullptr;
    FUSED_ADAMW_CUDA(cuStreamGetCtx, stream, &context);
    if (context != device.context())
      throw std::invalid_argument("a stream of another context than the primary one of cuda:" +
                                  std::to_string(device.ordinal()));
  }
  resources_->memories = std::move(memories);
  upload_tables();
  if (layouts_.empty()) return;  // nothing is ever launched
  resources_->grads = std::make_shared<StagedBuffer>(device_, binding_.size() * sizeof(void*));
  resources_->group_of = std::make_shared<StagedBuffer>(device_, binding_.size() * sizeof(uint32_t));
}

Step::~Step() { device_.retire(std::move(resources_), std::move(launched_)); }

void Step::upload_tables() {
  const size_t size = binding_.size();
  std::vector<DeviceTensor> tensors;
  std::vector<Unit> units;                        // of all layouts
  std::vector<std::pair<size_t, size_t>> firsts;  // of each layout: its first block unit and first warp unit
  tensors.reserve(size);
  for (size_t i = 0; i < size; ++i) {
    const TensorArrays& tensor = binding_.tensor(i);
    tensors.push_back({tensor.weight, tensor.mean, tensor.variance, tensor.master, tensor.key});
    const bool is_double = tensor.layout == Layout::float64;
    (is_double ? uses_wide_ : uses_single_) = true;
    if (std::none_of(layouts_.begin(), layouts_.end(), [&](const auto& has) { return has.layout == tensor.layout; })) {
      layouts_.emplace_back();
      layouts_.back().layout = tensor.layout;
    }
  }
  for (LayoutUnits& of : layouts_) {
    const size_t first_block_unit = units.size();
    for (size_t i = 0; i < size; ++i) {
      const TensorArrays& tensor = binding_.tensor(i);
      of.block_starts.push_back(static_cast<uint32_t>(units.size() - first_block_unit));
      if (tensor.layout != of.layout || tensor.length <= kWarpUnitLength) continue;
      for (uint64_t start = 0; start < tensor.length; start += kUnitLength)
        units.push_back({static_cast<uint32_t>(i),
                         static_cast<uint32_t>(std::min<uint64_t>(kUnitLength, tensor.length - start)), start});
    }
    const size_t first_warp_unit = units.size();
    of.block_starts.push_back(static_cast<uint32_t>(first_warp_unit - first_block_unit));
    for (size_t i = 0; i < size; ++i) {
      const TensorArrays& tensor = binding_.tensor(i);
      of.warp_starts.push_back(static_cast<uint32_t>(units.size() - first_warp_unit));
      if (tensor.layout == of.layout && tensor.length > 0 && tensor.length <= kWarpUnitLength)
        units.push_back({static_cast<uint32_t>(i), static_cast<uint32_t>(tensor.length), 0});
    }
    of.warp_starts.push_back(static_cast<uint32_t>(units.size() - first_warp_unit));
    firsts.push_back({first_block_unit, first_warp_unit});
  }

  const size_t tensor_bytes = tensors.size() * sizeof(DeviceTensor), unit_bytes = units.size() * sizeof(Unit);
  static_assert(sizeof(DeviceTensor) % alignof(Unit) == 0);
  resources_->tables = device_.allocate_table(tensor_bytes + unit_bytes);
  copy_from_host(resources_->tables, 0, tensors.data(), tensor_bytes);
  copy_from_host(resources_->tables, tensor_bytes, units.data(), unit_bytes);
  const auto* on_device =
      reinterpret_cast<const Unit*>(static_cast<char*>(resources_->tables->address()) + tensor_bytes);
  for (size_t l = 0; l < layouts_.size(); ++l) {
    layouts_[l].block_units = on_device + firsts[l].first;
    layouts_[l].warp_units = on_device + firsts[l].second;
  }
}

std::optional<Overlap> Step::set_grads(const std::vector<const void*>& grads, Memories memories) {
  const auto overlap = binding_.set_grads(grads);
  if (overlap) return overlap;
  // The last launch may still read the gradients before these, if it was told of them.
  if (launched_ && !new_grads_)
    device_.retire(std::make_shared<Memories>(std::move(resources_->grad_memories)), launched_);
  resources_->grad_memories = std::move(memories);
  new_grads_ = true;
  return std::nullopt;
}

template <typename T>
void Step::make_room(std::shared_ptr<StagedBuffer>& table, size_t group_count) {
  const size_t bytes = group_count * sizeof(DeviceGroup<T>);
  if (group_count <= StepParameters<T>::kGroups || (table && table->capacity() >= bytes)) return;
  auto larger = std::make_shared<StagedBuffer>(device_, bytes);
  if (launched_) device_.retire(std::move(table), launched_);
  table = std::move(larger);
}

void Step::set_groups(const std::vector<uint32_t>& groups, size_t group_count) {
  if (uses_single_) make_room<float>(resources_->single, group_count);
  if (uses_wide_) make_room<double>(resources_->wide, group_count);
  single_.resize(uses_single_ ? group_count : 0);
  wide_.resize(uses_wide_ ? group_count : 0);
  binding_.set_groups(groups, group_count);
  new_groups_ = true;
}

void Step::begin(const StepOptions& options, const Group* groups) {
  if (layouts_.empty()) return;
  const std::lock_guard lock(device_.mutex());
  const ContextGuard guard(device_.context());
  device_.begin_step(stream_);
  const size_t size = binding_.size();
  if (new_grads_) {
    auto** grads = static_cast<const void**>(resources_->grads->stage());
    for (size_t i = 0; i < size; ++i) grads[i] = binding_.tensor(i).grad;
    resources_->grads->upload(size * sizeof(void*), stream_);
    new_grads_ = false;
  }
  if (new_groups_) {
    auto* group_of = static_cast<uint32_t*>(resources_->group_of->stage());
    for (size_t i = 0; i < size; ++i) group_of[i] = binding_.tensor(i).group;
    resources_->group_of->upload(size * sizeof(uint32_t), stream_);
    new_groups_ = false;
  }
  const FloatEnvironment environment;  // a scalar may be subnormal in float
  round_groups(options, groups, single_, resources_->single.get());
  round_groups(options, groups, wide_, resources_->wide.get());
}

template <typename T>
void Step::round_groups(const StepOptions& options, const Group* groups, std::vector<DeviceGroup<T>>& out,
                        StagedBuffer* table) {
  for (size_t i = 0; i < out.size(); ++i)
    out[i] = {round_scalars<T>(options, groups[i]), static_cast<uint32_t>(static_cast<uint64_t>(groups[i].count))};
  if (out.size() <= StepParameters<T>::kGroups) return;
  const size_t bytes = out.size() * sizeof(DeviceGroup<T>);
  std::memcpy(table->stage(), out.data(), bytes);
  table->upload(bytes, stream_);
}

void Step::run(size_t first, size_t last) {
  if (layouts_.empty()) return;
  const std::lock_guard lock(device_.mutex());
  const ContextGuard guard(device_.context());
  auto after = device_.make_event();
  const auto finish = [&] {
    after->record(stream_);
    launched_ = after;
    device_.end_step(stream_, std::move(after));
  };
  try {
    for (const LayoutUnits& units : layouts_) {
      if (units.layout == Layout::float64)
        launch(units, first, last, wide_, resources_->wide.get());
      else
        launch(units, first, last, single_, resources_->single.get());
    }
  } catch (...) {
    finish();  // some may have been launched
    throw;
  }
  finish();
}

template <typename T>
void Step::launch(const LayoutUnits& units, size_t first, size_t last, const std::vector<DeviceGroup<T>>& groups,
                  const StagedBuffer* table) {
  const bool by_value = groups.size() <= StepParameters<T>::kGroups;
  StepParameters<T> parameters;
  parameters.tables = {
      static_cast<const DeviceTensor*>(resources_->tables->address()),
      static_cast<const void* const*>(resources_->grads->address()),
      static_cast<const uint32_t*>(resources_->group_of->address()),
      units.block_units + units.block_starts[first],
      units.warp_units + units.warp_starts[first],
      units.block_starts[last] - units.block_starts[first],
      units.warp_starts[last] - units.warp_starts[first],
      by_value ? nullptr : table->address(),
  };
  if (by_value) std::copy(groups.begin(), groups.end(), parameters.groups);
  const StepTables& tables = parameters.tables;
  constexpr unsigned warps = kBlock / kWarp;
  const uint64_t wanted = uint64_t{tables.block_unit_count} + (tables.warp_unit_count + warps - 1) / warps;
  if (wanted == 0) return;
  const Kernel& kernel = device_.kernel(binding_.rule(), units.layout);
  const auto blocks = static_cast<unsigned>(std::min<uint64_t>(wanted, kernel.resident_blocks));
  void* arguments[] = {&parameters};
  FUSED_ADAMW_CUDA(cuLaunchKernel, kernel.function, blocks, 1, 1, kBlock, 1, 1, 0, stream_, arguments, nullptr);
}

}  // namespace fused_adamw::cuda
