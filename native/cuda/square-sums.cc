#include "square-sums.h"

#include <algorithm>
#include <mutex>
#include <tuple>

#include "launch.h"

namespace fused_adamw::cuda {
namespace {

template <typename T>
constexpr GradType kGradType = GradType::float32;
template <>
constexpr GradType kGradType<double> = GradType::float64;
template <>
constexpr GradType kGradType<Float16> = GradType::float16;
template <>
constexpr GradType kGradType<BFloat16> = GradType::bfloat16;

constexpr GradType kGradTypes[] = {
#define DTYPE_CONFIG(identifier, ...) kGradType<RoleType<DTypeConfig::identifier, Role::grad>>,
#include "../core/dtype-configs.def"
};

}  // namespace

/// The tables are uploaded by the first launch, on its stream.
SquareSums::SquareSums(Device& device, const TensorArrays* tensors, size_t size) : device_(device), size_(size) {
  std::vector<NormItem> items;
  std::vector<uint32_t> starts;
  starts.reserve(size + 1);
  for (size_t i = 0; i < size; ++i) {
    starts.push_back(static_cast<uint32_t>(items.size()));
    const GradType type = kGradTypes[static_cast<int>(tensors[i].config)];
    for (uint64_t start = 0; start < tensors[i].length; start += kNormBlock)
      items.push_back({static_cast<uint32_t>(i),
                       static_cast<uint16_t>(std::min<uint64_t>(kNormBlock, tensors[i].length - start)), type, start});
  }
  item_count_ = items.size();
  starts.push_back(static_cast<uint32_t>(item_count_));
  if (size == 0) return;
  const size_t item_bytes = items.size() * sizeof(NormItem);
  table_bytes_ = item_bytes + starts.size() * sizeof(uint32_t);
  tables_ = std::make_shared<StagedBuffer>(device, table_bytes_);
  sums_ = device.allocate_table((item_count_ + size) * sizeof(SquareSum));
  const ContextGuard guard(device.context());
  auto* staged = static_cast<char*>(tables_->stage());
  std::copy(items.begin(), items.end(), reinterpret_cast<NormItem*>(staged));  // none if all are empty
  std::copy(starts.begin(), starts.end(), reinterpret_cast<uint32_t*>(staged + item_bytes));
}

void SquareSums::launch(const void* const* grads, StreamHandle stream) {
  if (size_ == 0) return;
  if (new_tables_) {
    tables_->upload(table_bytes_, stream);
    new_tables_ = false;
  }
  const auto* items = static_cast<const NormItem*>(tables_->address());
  auto* sums = static_cast<SquareSum*>(sums_->address());
  NormParameters parameters = {grads,
                               items,
                               reinterpret_cast<const uint32_t*>(items + item_count_),
                               sums,
                               sums + item_count_,
                               static_cast<uint32_t>(size_)};
  launch_kernel(device_.kernel(GradientKernel::sum_items), blocks_for(item_count_, kItemsOfBlock), parameters, stream);
  launch_kernel(device_.kernel(GradientKernel::sum_tensors), blocks_for(size_, kBlock), parameters, stream);
}

std::shared_ptr<PinnedMemory> SquareSums::start_copy(StreamHandle stream) {
  const size_t bytes = size_ * sizeof(SquareSum);
  auto copy = device_.allocate_staging(bytes);
  if (bytes > 0)
    FUSED_ADAMW_CUDA(cuMemcpyDtoHAsync_v2, copy->data(), sums_->pointer() + item_count_ * sizeof(SquareSum), bytes,
                     stream);
  return copy;
}

bool SquareSums::read(const PinnedMemory& copy, double* sums) const {
  const auto* of_tensors = static_cast<const SquareSum*>(copy.data());
  bool finite = true;
  for (size_t i = 0; i < size_; ++i) {
    sums[i] = of_tensors[i].sum;
    if (of_tensors[i].invalid != 0) finite = false;
  }
  return finite;
}

bool sums_of_squares(Device& device, const std::vector<TensorArrays>& tensors, Memories memories, double* sums) {
  const ContextGuard guard(device.context());
  const auto square_sums = std::make_shared<SquareSums>(device, tensors.data(), tensors.size());
  const auto grads = std::make_shared<StagedBuffer>(device, tensors.size() * sizeof(void*));
  auto** staged = static_cast<void**>(grads->stage());
  for (size_t i = 0; i < tensors.size(); ++i) staged[i] = tensors[i].arrays[Role::grad];
  std::shared_ptr<PinnedMemory> copy;
  std::shared_ptr<Event> after;
  {
    const std::lock_guard lock(device.mutex());
    after = device.begin_copy(memories);
    const auto finish = [&] {
      device.end_copy(after, std::move(memories));
      using Used =
          std::tuple<std::shared_ptr<SquareSums>, std::shared_ptr<StagedBuffer>, std::shared_ptr<PinnedMemory>>;
      device.retire(std::make_shared<Used>(square_sums, grads, copy), after);
    };
    try {
      grads->upload(tensors.size() * sizeof(void*), nullptr);
      square_sums->launch(static_cast<const void* const*>(grads->address()), nullptr);
      copy = square_sums->start_copy(nullptr);
    } catch (...) {
      finish();  // some of it may be in flight
      throw;
    }
    finish();
  }
  after->wait();
  return square_sums->read(*copy, sums);
}

}  // namespace fused_adamw::cuda
