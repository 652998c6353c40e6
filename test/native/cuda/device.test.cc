// Memory of devices: allocation, copies, and when it is freed.
#include "cuda/device.h"

#include <atomic>
#include <numeric>
#include <thread>

#include "../support.h"
#include "cuda/transfer.h"
#include "driver.h"

namespace fused_adamw::cuda {
namespace {

using testing::OnDevice;
using testing::OnStandIn;

std::vector<int> numbers(size_t length, int first) {
  std::vector<int> values(length);
  std::iota(values.begin(), values.end(), first);
  return values;
}
std::vector<int> read(const std::shared_ptr<Memory>& memory, size_t length) {
  std::vector<int> values(length);
  copy_to_host(values.data(), memory, 0, length * sizeof(int));
  return values;
}
std::shared_ptr<Memory> allocate(Device& device, const std::vector<int>& values) {
  auto memory = device.allocate(values.size() * sizeof(int));
  copy_from_host(memory, 0, values.data(), values.size() * sizeof(int));
  return memory;
}

class DeviceMemory : public OnDevice {};

TEST_F(DeviceMemory, IsZeroedAndDisjoint) {
  std::vector<std::shared_ptr<Memory>> all;
  for (size_t bytes : {1u, 255u, 4096u, 1000000u}) all.push_back(device().allocate(bytes));
  for (const auto& memory : all) {
    std::vector<unsigned char> bytes(memory->bytes(), 1);
    copy_to_host(bytes.data(), memory, 0, bytes.size());
    EXPECT_EQ(std::count(bytes.begin(), bytes.end(), 0), static_cast<ptrdiff_t>(bytes.size()));
    EXPECT_EQ(memory->pointer() % 64, 0u);
    for (const auto& other : all)
      EXPECT_TRUE(memory == other || memory->pointer() + memory->bytes() <= other->pointer() ||
                  other->pointer() + other->bytes() <= memory->pointer());
  }
  EXPECT_EQ(device().allocate(0)->bytes(), 0u);
}

TEST_F(DeviceMemory, IsCopiedInEveryDirection) {
  const auto values = numbers(100000, 1);
  const auto first = allocate(device(), values), second = device().allocate(values.size() * sizeof(int));
  copy_memory(second, first, values.size() * sizeof(int));
  EXPECT_EQ(read(second, values.size()), values);
  const auto tail = numbers(10, -10);
  copy_from_host(second, 400, tail.data(), 40);
  EXPECT_EQ(read(second, 111)[99], 100);
  EXPECT_EQ(read(second, 111)[100], -10);
  EXPECT_EQ(read(second, 111)[110], 111);
  int number = 0;
  copy_to_host(&number, second, 404, sizeof number);
  EXPECT_EQ(number, -9);
}

TEST_F(DeviceMemory, IsCopiedBetweenDevices) {
  if (device_count() < 2) GTEST_SKIP() << "there is one device";
  for (int round = 0; round < 20; ++round) {
    const auto values = numbers(10000, round);
    auto there = device(1).allocate(values.size() * sizeof(int));
    {
      auto here = allocate(device(0), values);
      copy_memory(there, here, values.size() * sizeof(int));
      const auto other = numbers(values.size(), -1);
      copy_from_host(here, 0, other.data(), other.size() * sizeof(int));
    }
    // A copy comes after the pending work of the other device, here zeroing.
    auto zeroed = device(1).allocate(values.size() * sizeof(int)), zeros = device(0).allocate(zeroed->bytes());
    copy_memory(zeros, zeroed, zeroed->bytes());
    ASSERT_EQ(read(zeros, values.size()), std::vector<int>(values.size()));
    auto back = device(0).allocate(values.size() * sizeof(int));
    copy_memory(back, there, values.size() * sizeof(int));
    ASSERT_EQ(read(there, values.size()), values);
    ASSERT_EQ(read(back, values.size()), values);
  }
}

TEST_F(DeviceMemory, IsCopiedAsynchronously) {
  const auto values = numbers(50000, 7);
  const size_t bytes = values.size() * sizeof(int);
  std::unique_ptr<PinnedMemory> from, to;
  {
    const ContextGuard guard(device().context());
    from = std::make_unique<PinnedMemory>(device(), bytes);
    to = std::make_unique<PinnedMemory>(device(), bytes);
  }
  std::memcpy(from->data(), values.data(), bytes);
  std::atomic<int> done{0};
  const StreamCallback count = [](StreamHandle, Status, void* context) { ++*static_cast<std::atomic<int>*>(context); };
  auto memory = device().allocate(bytes);
  start_copy_from_host(memory, from->data(), bytes, count, &done);
  start_copy_to_host(to->data(), memory, bytes, count, &done);
  memory.reset();  // the copies keep it
  device().synchronize();
  EXPECT_EQ(done, 2);
  EXPECT_EQ(std::memcmp(to->data(), values.data(), bytes), 0);
}

TEST_F(DeviceMemory, LeavesTheCurrentContextUnchanged) {
  const testing::ForeignContext foreign(0);
  const auto memory = allocate(device(), numbers(10, 0));
  read(memory, 10);
  pointer_info(memory->pointer(), 1);
  device().synchronize();
  EXPECT_EQ(testing::current_context(), foreign.handle());
}

class Pointers : public OnDevice {
 protected:
  static std::string reason(const void* pointer) {
    return testing::message_of<std::invalid_argument>([&] { pointer_info(reinterpret_cast<uintptr_t>(pointer), 1); });
  }
};

TEST_F(Pointers, HaveADeviceAndTheBytesThatFollow) {
  const auto memory = device().allocate(1000);
  EXPECT_EQ(pointer_info(memory->pointer(), 1).ordinal, 0);
  EXPECT_GE(pointer_info(memory->pointer(), 1).bytes, 1000u);
  EXPECT_EQ(pointer_info(memory->pointer() + 400, 1).bytes, pointer_info(memory->pointer(), 1).bytes - 400);
  if (device_count() < 2) return;
  EXPECT_EQ(pointer_info(device(1).allocate(8)->pointer(), 1).ordinal, 1);
}

/// A range of addresses with memory in some of its pages, as PyTorch's expandable segments are.
class ReservedRange {
 public:
  static constexpr size_t kPage = size_t{2} << 20;

  explicit ReservedRange(size_t pages) : bytes_(pages * kPage) {
    check(testing::find<Status(DevicePointer*, size_t, size_t, DevicePointer, unsigned long long)>(
              "cuMemAddressReserve")(&start_, bytes_, 0, 0, 0),
          "cuMemAddressReserve");
  }
  ~ReservedRange() {
    for (size_t page : mapped_) testing::find<Status(DevicePointer, size_t)>("cuMemUnmap")(at(page), kPage);
    testing::find<Status(DevicePointer, size_t)>("cuMemAddressFree")(start_, bytes_);
  }
  ReservedRange(const ReservedRange&) = delete;
  ReservedRange& operator=(const ReservedRange&) = delete;

  void map(size_t page) {
    struct Location {
      int type = 1, id = 0;  // CU_MEM_LOCATION_TYPE_DEVICE
    };
    struct {
      int type = 1, handle_types = 0;  // CU_MEM_ALLOCATION_TYPE_PINNED
      Location location;
      void* meta_data = nullptr;
      unsigned char flags[8] = {};
    } const properties;  // CUmemAllocationProp
    struct {
      Location location;
      int flags = 3;  // read and write
    } const access;   // CUmemAccessDesc
    unsigned long long handle = 0;
    using Create = Status(unsigned long long*, size_t, const void*, unsigned long long);
    using Map = Status(DevicePointer, size_t, size_t, unsigned long long, unsigned long long);
    check(testing::find<Create>("cuMemCreate")(&handle, kPage, &properties, 0), "cuMemCreate");
    check(testing::find<Map>("cuMemMap")(at(page), kPage, 0, handle, 0), "cuMemMap");
    check(testing::find<Status(unsigned long long)>("cuMemRelease")(handle), "cuMemRelease");
    check(testing::find<Status(DevicePointer, size_t, const void*, size_t)>("cuMemSetAccess")(at(page), kPage, &access,
                                                                                              1),
          "cuMemSetAccess");
    mapped_.push_back(page);
  }
  DevicePointer at(size_t page) const { return start_ + page * kPage; }

 private:
  DevicePointer start_ = 0;
  size_t bytes_;
  std::vector<size_t> mapped_;
};

TEST_F(Pointers, ReachToTheEndOfWhatIsMapped) {
  constexpr size_t kPage = ReservedRange::kPage;
  ReservedRange range(8);
  for (size_t page : {0, 1, 2, 4}) range.map(page);
  EXPECT_EQ(pointer_info(range.at(0), 8 * kPage).bytes, 3 * kPage);
  EXPECT_EQ(pointer_info(range.at(0) + 64, 8 * kPage).bytes, 3 * kPage - 64);
  EXPECT_GE(pointer_info(range.at(0), kPage + 1).bytes, kPage + 1);
  EXPECT_EQ(pointer_info(range.at(4), 8 * kPage).bytes, kPage);
  EXPECT_EQ(pointer_info(range.at(3), 1).bytes, 0u);

  const auto memory = std::make_shared<Memory>(device(), range.at(0), 3 * kPage, false);
  const auto values = numbers(3 * kPage / sizeof(int), 5);
  copy_from_host(memory, 0, values.data(), 3 * kPage);
  EXPECT_EQ(read(memory, values.size()), values);
}

TEST_F(Pointers, OfTheHostAreRefused) {
  int number = 0;
  EXPECT_EQ(reason(&number), "an address of no device");
  const ContextGuard guard(device().context());
  const PinnedMemory pinned(device(), 100);
  EXPECT_EQ(reason(pinned.data()), "an address of no device");
}

TEST_F(Pointers, ToManagedMemoryAreAccepted) {
  const ContextGuard guard(device().context());
  DevicePointer pointer = 0;
  check(testing::find<Status(DevicePointer*, size_t, unsigned)>("cuMemAllocManaged")(&pointer, 400, 1),
        "cuMemAllocManaged");
  EXPECT_EQ(pointer_info(pointer, 1).ordinal, 0);
  EXPECT_GE(pointer_info(pointer, 400).bytes, 400u);
  {
    const auto memory = std::make_shared<Memory>(device(), pointer, 400, false);
    const auto values = numbers(100, 3);
    copy_from_host(memory, 0, values.data(), 400);
    EXPECT_EQ(read(memory, 100), values);
  }
  device().synchronize();
  FUSED_ADAMW_CUDA(cuMemFree_v2, pointer);
}

TEST_F(Pointers, OfAnotherContextAreRefused) {
  const testing::ForeignContext foreign(0);
  DevicePointer pointer = 0;
  FUSED_ADAMW_CUDA(cuMemAlloc_v2, &pointer, 100);
  EXPECT_EQ(reason(reinterpret_cast<void*>(pointer)), "an address of another context than the primary one of cuda:0");
  FUSED_ADAMW_CUDA(cuMemFree_v2, pointer);
}

TEST_F(Pointers, OfAnotherLibraryAreUsedAndNotFreed) {
  DevicePointer pointer = 0;
  {
    const ContextGuard guard(device().context());
    FUSED_ADAMW_CUDA(cuMemAlloc_v2, &pointer, 400);
  }
  {
    const auto memory = std::make_shared<Memory>(device(), pointer, 400, false);
    const auto values = numbers(100, 3);
    copy_from_host(memory, 0, values.data(), 400);
    EXPECT_EQ(read(memory, 100), values);
  }
  device().synchronize();
  EXPECT_EQ(pointer_info(pointer, 1).bytes, 400u);
  const ContextGuard guard(device().context());
  FUSED_ADAMW_CUDA(cuMemFree_v2, pointer);
}

class MemoryIsFreed : public OnStandIn {
 protected:
  static size_t total() { return device_info(0).bytes; }
};

TEST_F(MemoryIsFreed, WhenTheWorkThatUsesItIsDone) {
  const auto before = testing::count("bytes");
  auto memory = device().allocate(1000);
  device().synchronize();
  auto other = device().allocate(1000);
  {
    const testing::Paused paused;
    copy_memory(other, memory, 1000);
    memory.reset();
    device().allocate(8);  // drains
    EXPECT_GE(testing::count("bytes"), before + 2000) << "freed while the copy waits";
  }
  other.reset();
  device().synchronize();
  device().synchronize();
  EXPECT_EQ(testing::count("bytes"), before);
}

TEST_F(MemoryIsFreed, OverTenThousandRounds) {
  for (int i = 0; i < 10000; ++i) {
    device().allocate(64 * 1024);
    ASSERT_LE(testing::count("bytes"), total());
  }
}

TEST_F(MemoryIsFreed, BeforeAnAllocationFails) {
  auto large = device().allocate(total() / 4 * 3);
  testing::make_stream(device(), testing::StreamKind::non_blocking);
  EXPECT_EQ(testing::message_of<DriverError>([&] { device().allocate(total() / 2); }),
            "CUDA failed in cuMemAlloc: CUDA_ERROR_OUT_OF_MEMORY (out of memory)");
  for (int i = 0; i < 20; ++i) {
    large.reset();  // its zeroing may still be pending
    large = device().allocate(total() / 4 * 3);
  }
}

TEST_F(MemoryIsFreed, FromAnyThread) {
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t)
    threads.emplace_back([t] {
      for (int i = 0; i < 100; ++i) {
        const auto values = numbers(100, t * 1000 + i);
        ASSERT_EQ(read(allocate(device(), values), values.size()), values);
      }
    });
  for (std::thread& thread : threads) thread.join();
}

TEST_F(MemoryIsFreed, BetweenDevicesInBothDirectionsAtOnce) {
  if (device_count() < 2) GTEST_SKIP() << "there is one device";
  const auto copy = [](int from, int to) {
    for (int i = 0; i < 50; ++i) {
      const auto values = numbers(1000, i);
      const auto source = allocate(device(from), values), target = device(to).allocate(4000);
      copy_memory(target, source, 4000);
      ASSERT_EQ(read(target, 1000), values);
    }
  };
  std::thread other(copy, 1, 0);
  copy(0, 1);
  other.join();
}

}  // namespace
}  // namespace fused_adamw::cuda
