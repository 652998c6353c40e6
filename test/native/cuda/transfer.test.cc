// Threads that wait for a device do not hold up the others.
#include "cuda/transfer.h"

#include <atomic>
#include <chrono>
#include <functional>
#include <future>
#include <thread>

#include "driver.h"
#include "twins.h"

namespace fused_adamw::cuda {
namespace {

class Waiting : public testing::OnStandIn {
 protected:
  /// Expects that a step returns although another thread waits in `wait`.
  static void expect_no_effect_on_a_step(const char* what, const std::function<void()>& wait,
                                         const char* waits_in = "cuEventSynchronize") {
    testing::Random random(1);
    StreamHandle stream = testing::make_stream(device(), testing::StreamKind::non_blocking);
    testing::Twins twins(device(), Rule::mxnet, stream, testing::random_tensors(5, random), random);
    twins.set_group_count(2);
    synchronize();
    std::future<void> waiting, step;
    {
      const testing::Paused paused;
      const auto before = testing::count(waits_in);
      waiting = std::async(std::launch::async, wait);
      while (testing::count(waits_in) == before) std::this_thread::yield();
      step = std::async(std::launch::async, [&] { twins.run(); });
      EXPECT_EQ(step.wait_for(std::chrono::seconds(20)), std::future_status::ready) << what;
    }
    step.get();
    waiting.get();
    EXPECT_TRUE(twins.are_equal());
  }
};

TEST_F(Waiting, ForACopyDoesNotDelayAStepOfAnotherThread) {
  std::vector<int> values(100'000);
  const size_t bytes = values.size() * sizeof(int);
  const auto memory = device().allocate(bytes);
  expect_no_effect_on_a_step("copy_to_host", [&] { copy_to_host(values.data(), memory, 0, bytes); });
  expect_no_effect_on_a_step("copy_to_host", [&] { copy_to_host(values.data(), memory, 0, sizeof(int)); });
  expect_no_effect_on_a_step("copy_from_host", [&] { copy_from_host(memory, 0, values.data(), bytes); });
  expect_no_effect_on_a_step("synchronize", [&] { device().synchronize(); });
  if (device_count() < 2) return;
  const auto there = device(1).allocate(bytes);
  expect_no_effect_on_a_step("copy_memory to the device", [&] { copy_memory(memory, there, bytes); });
  expect_no_effect_on_a_step("copy_memory from the device", [&] { copy_memory(there, memory, bytes); });
}

TEST_F(Waiting, InTheDriverDoesNotDelayAStepOfAnotherThread) {
  const auto memory = device().allocate(sizeof(int));
  int value = 0;  // not page-locked, so that the driver waits for the copy
  std::atomic<bool> is_done{false};
  const StreamCallback done = [](StreamHandle, Status, void* context) {
    *static_cast<std::atomic<bool>*>(context) = true;
  };
  expect_no_effect_on_a_step(
      "start_copy_to_host", [&] { start_copy_to_host(&value, memory, sizeof value, done, &is_done); },
      "cuMemcpyDtoHAsync_v2");
  synchronize();
  EXPECT_TRUE(is_done);
}

class AsyncCopies : public testing::OnStandIn {
 protected:
  /// Of many asynchronous copies, how many were done before a step that was launched before them on the legacy stream.
  static int overtaking_copies(bool use_the_same_memory) {
    testing::Random random(2);
    testing::Twins twins(device(), Rule::mxnet, nullptr, {{DTypeConfig::float32, 5000}}, random);
    twins.set_group_count(1);
    const auto other = device().allocate(5000 * sizeof(float));
    const auto pinned = device().allocate_pinned(5000 * sizeof(float));
    int overtaking = 0;
    for (int i = 0; i < 200; ++i) {
      std::atomic<bool> is_stepped{false}, was_stepped{false};
      struct Both {
        std::atomic<bool>&stepped, &was;
      } both{is_stepped, was_stepped};
      const StreamCallback step_done = [](StreamHandle, Status, void* context) {
        static_cast<Both*>(context)->stepped = true;
      };
      const StreamCallback copy_done = [](StreamHandle, Status, void* context) {
        auto& of = *static_cast<Both*>(context);
        of.was = of.stepped.load();
      };
      twins.run();
      {
        const ContextGuard guard(device().context());
        FUSED_ADAMW_CUDA(cuStreamAddCallback, nullptr, step_done, &both, 0);
      }
      const auto memory = use_the_same_memory ? twins.some_grad_memory() : other;
      start_copy_to_host(pinned->data(), memory, 5000 * sizeof(float), copy_done, &both);
      device().synchronize();
      overtaking += !was_stepped;
    }
    EXPECT_TRUE(twins.are_equal());
    return overtaking;
  }
};

TEST_F(AsyncCopies, OverlapStepsThatDoNotUseTheirMemory) { EXPECT_GT(overtaking_copies(false), 0); }

TEST_F(AsyncCopies, OfTheMemoryOfOtherLibrariesComeAfterTheirWork) {
  // A write of another library on the legacy default stream.
  const auto owned = device().allocate(5000);
  owned->share();
  const auto pinned = device().allocate_pinned(5000);
  const StreamCallback done = [](StreamHandle, Status, void*) {};
  for (int i = 0; i < 200; ++i) {
    {
      const ContextGuard guard(device().context());
      FUSED_ADAMW_CUDA(cuMemsetD8Async, owned->pointer(), static_cast<unsigned char>(i), 5000, nullptr);
    }
    const auto foreign = std::make_shared<Memory>(device(), owned->pointer(), 5000, false);
    start_copy_to_host(pinned->data(), i % 2 == 0 ? owned : foreign, 5000, done, nullptr);
    device().synchronize();
    ASSERT_EQ(static_cast<unsigned char*>(pinned->data())[4999], static_cast<unsigned char>(i));
  }
}

class SmallCopies : public testing::OnStandIn {};

TEST_F(SmallCopies, FromTheHostDoNotWaitAndToTheHostWaitOnce) {
  const auto memory = device().allocate(4000);
  device().synchronize();
  const std::vector<char> ones(4000, 1);
  {
    const testing::Paused paused;
    for (int i = 0; i < 10; ++i) copy_from_host(memory, 0, ones.data(), 4000);
  }
  std::vector<char> values(4000);
  const auto waits = testing::count("cuEventSynchronize");
  copy_to_host(values.data(), memory, 0, 4000);
  EXPECT_LE(testing::count("cuEventSynchronize"), waits + 1);
  EXPECT_EQ(values, ones);
}

class PeerCopies : public testing::OnStandIn {};

TEST_F(PeerCopies, AreDirectWhereTheDevicesReachEachOther) {
  if (device_count() < 2) GTEST_SKIP() << "there is one device";
  int can_access = 0;
  FUSED_ADAMW_CUDA(cuDeviceCanAccessPeer, &can_access, 0, 1);
  const char* const kind = can_access ? "direct copies" : "copies through the host";
  const auto before = testing::count(kind);
  const auto here = device(0).allocate(5000), there = device(1).allocate(5000);
  const std::vector<char> ones(5000, 1);
  copy_from_host(here, 0, ones.data(), 5000);
  for (int i = 0; i < 3; ++i) copy_memory(there, here, 5000);
  std::vector<char> values(5000);
  copy_to_host(values.data(), there, 0, 5000);
  EXPECT_EQ(values, ones);
  EXPECT_EQ(testing::count(kind), before + 3);
  copy_memory(here, there, 5000);
  EXPECT_EQ(testing::count(kind), before + 4);
}

}  // namespace
}  // namespace fused_adamw::cuda
