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
  const auto memory = device().allocate(sizeof(int));
  int value = 0;
  expect_no_effect_on_a_step("copy_to_host", [&] { copy_to_host(&value, memory, 0, sizeof value); });
  expect_no_effect_on_a_step("copy_from_host", [&] { copy_from_host(memory, 0, &value, sizeof value); });
  expect_no_effect_on_a_step("synchronize", [&] { device().synchronize(); });
  if (device_count() < 2) return;
  const auto there = device(1).allocate(sizeof(int));
  expect_no_effect_on_a_step("copy_memory to the device", [&] { copy_memory(memory, there, sizeof value); });
  expect_no_effect_on_a_step("copy_memory from the device", [&] { copy_memory(there, memory, sizeof value); });
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

}  // namespace
}  // namespace fused_adamw::cuda
