#include "accumulate.h"

#include <algorithm>
#include <mutex>

#include "accumulate-loop.h"
#include "launch.h"
#include "staged-buffer.h"

namespace fused_adamw::cuda {

void accumulate(Device& device, const std::vector<Accumulation>& accumulations, Memories memories, double scale) {
  std::vector<ArrayPair> arrays;
  std::vector<AccumulateItem> items;
  for (const Accumulation& each : accumulations) {
    for (uint64_t start = 0; start < each.length; start += kItemLength)
      items.push_back({static_cast<uint32_t>(arrays.size()),
                       static_cast<uint16_t>(std::min<uint64_t>(kItemLength, each.length - start)),
                       static_cast<uint16_t>(each.dtypes), start});
    arrays.push_back({each.into, each.grad});
  }
  if (items.empty()) return;
  const size_t array_bytes = arrays.size() * sizeof(ArrayPair);
  static_assert(sizeof(ArrayPair) % alignof(AccumulateItem) == 0);
  const size_t bytes = array_bytes + items.size() * sizeof(AccumulateItem);
  const ContextGuard guard(device.context());
  const auto tables = std::make_shared<StagedBuffer>(device, bytes);
  auto* staged = static_cast<char*>(tables->stage());
  std::copy(arrays.begin(), arrays.end(), reinterpret_cast<ArrayPair*>(staged));
  std::copy(items.begin(), items.end(), reinterpret_cast<AccumulateItem*>(staged + array_bytes));

  const std::lock_guard lock(device.mutex());
  auto after = device.begin_copy(memories);
  const auto finish = [&] {
    device.end_copy(after, std::move(memories));
    device.retire(tables, after);
  };
  try {
    tables->upload(bytes, nullptr);
    const auto* uploaded = static_cast<const char*>(tables->address());
    AccumulateParameters parameters = {reinterpret_cast<const ArrayPair*>(uploaded),
                                       reinterpret_cast<const AccumulateItem*>(uploaded + array_bytes), scale};
    launch_kernel(device.kernel(GradientKernel::accumulate), items.size(), parameters, nullptr);
  } catch (...) {
    finish();  // some of it may be in flight
    throw;
  }
  finish();
}

}  // namespace fused_adamw::cuda
