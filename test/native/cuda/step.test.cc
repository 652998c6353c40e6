// Steps on a device give the bits of the CPU, whatever else runs there.
#include "cuda/step.h"

#include <chrono>
#include <mutex>
#include <thread>

#include "driver.h"
#include "twins.h"

namespace fused_adamw::cuda {
namespace {

using testing::OnDevice;
using testing::OnStandIn;
using testing::Random;
using testing::StreamKind;
using testing::Twins;

void change_grads(Twins& twins, bool in_place) {
  twins.make_grads(in_place);
  twins.change_grads();
}

constexpr StreamKind kEveryStream[] = {StreamKind::legacy, StreamKind::blocking, StreamKind::non_blocking};

class Steps : public OnDevice, public ::testing::WithParamInterface<StreamKind> {};

TEST_P(Steps, EqualTheCpuInEveryRuleAndConfiguration) {
  Random random(1);
  StreamHandle stream = testing::make_stream(device(), GetParam());
  for (int rule = 0; rule < kRules; ++rule) {
    Twins twins(device(), static_cast<Rule>(rule), stream, testing::random_tensors(40, random), random);
    for (int i = 0; i < 12; ++i) {
      // Few groups are passed by value, more in a table; the number changes while steps are in flight.
      if (i % 3 == 0) twins.set_group_count(i % 2 ? 1 + random.below(5) : 40);
      if (i > 0) change_grads(twins, random.below(2) == 0);
      twins.run(1 + random.below(3));
      // After many steps with such scalars, few weights are numbers.
      if (i == 0) {
        ASSERT_TRUE(twins.are_equal());
      }
    }
    ASSERT_TRUE(twins.are_equal());
  }
}

TEST_P(Steps, MeasureAndClearGradientsInOrder) {
  Random random(23);
  StreamHandle stream = testing::make_stream(device(), GetParam());
  Twins twins(device(), Rule::mxnet, stream, testing::random_tensors(20, random), random);
  twins.set_group_count(2);
  for (int i = 0; i < 12; ++i) {
    if (i % 3 == 1)
      twins.start_to_change_grads();
    else
      change_grads(twins, i % 2 == 0);
    ASSERT_TRUE(twins.sums_are_equal());
    if (i % 4 == 3) twins.step().zero_grads();
    if (i % 4 == 3) {
      std::vector<double> sums(twins.size(), 1);
      ASSERT_TRUE(twins.step().sums_of_squares(sums.data()));
      ASSERT_EQ(sums, std::vector<double>(twins.size()));
      change_grads(twins, true);
    }
    twins.run();
  }
  ASSERT_TRUE(twins.are_equal());
}

TEST_P(Steps, AreDecidedAboutByTheDevice) {
  for (const Rule rule : {Rule::mxnet, Rule::coupled, Rule::pytorch}) {
    Random random(24);
    StreamHandle stream = testing::make_stream(device(), GetParam());
    Twins twins(device(), rule, stream, testing::random_tensors(30, random), random);
    for (int i = 0; i < 24; ++i) {
      if (i % 6 == 0) twins.set_group_count(i % 12 ? 1 + random.below(20) : 300);
      if (i % 4 == 1)
        twins.start_to_change_grads();
      else
        change_grads(twins, i % 2 == 0);
      if (i % 3 == 2)
        twins.run();
      else
        twins.decide(1 + random.below(3));
    }
    ASSERT_TRUE(twins.are_equal());
  }
}

TEST_P(Steps, TellWhatWasDecidedInOrder) {
  Random random(25);
  StreamHandle stream = testing::make_stream(device(), GetParam());
  Twins twins(device(), Rule::mxnet, stream, {{DTypeConfig::float32, 100}, {DTypeConfig::float64, 3}}, random);
  twins.set_group_count(1);
  twins.step().zero_grads();
  const StepScalars step = {1, INFINITY, 0.9, 0.999};
  std::vector<ScalarGroup> groups(kMostCandidates);
  DecisionScalars scalars;
  scalars.scales = scalars.dynamic = scalars.restarts = scalars.interval = 1;
  scalars.growth = 2;
  scalars.scale = 4;
  testing::DeviceArray<float> scale(device(), std::vector<float>{0}.data(), 1, 0);
  for (size_t i = 0; i < kMostCandidates; ++i) {
    twins.step().decide(step, groups.data(), 1 + i, scalars, scale.memory(), static_cast<float*>(scale.address()));
    twins.step().run(0, twins.size());
    scalars.restarts = 0;
  }
  std::vector<Decision> decisions(kMostCandidates);
  for (size_t i = 0; i < kMostCandidates; ++i) decisions[i] = twins.step().decision(i);
  EXPECT_TRUE(twins.step().is_decided(kMostCandidates - 1));
  EXPECT_THROW(twins.step().decision(kMostCandidates), std::logic_error);
  for (size_t i = 0; i < kMostCandidates; ++i) {
    EXPECT_EQ(decisions[i].outcome, Decision::Outcome::taken);
    EXPECT_EQ(decisions[i].scale, std::ldexp(8, static_cast<int>(i)));
    EXPECT_EQ(decisions[i].norm, 0);
  }
  EXPECT_EQ(scale.get(1).front(), 1024);
  twins.step().decide(step, groups.data(), 1, scalars, nullptr, nullptr);
  EXPECT_EQ(twins.step().decision(kMostCandidates).scale, 2048);
  EXPECT_THROW(twins.step().decision(0), std::logic_error) << "it keeps so many";
}

TEST_P(Steps, RunWithoutWaiting) {
  Random random(2);
  StreamHandle stream = testing::make_stream(device(), GetParam());
  Twins twins(device(), Rule::mxnet, stream, testing::random_tensors(20, random), random);
  for (int i = 0; i < 100; ++i) {
    // More groups than are passed by value, and more each time, so that each needs a new table.
    if (i % 4 == 0) twins.set_group_count(i % 8 == 0 ? 100 + static_cast<size_t>(i) * 10 : 1 + random.below(20));
    twins.run();
  }
  ASSERT_TRUE(twins.are_equal());
}

TEST_P(Steps, AreInOrderWithAsynchronousCopiesOfTheirMemory) {
  Random random(17);
  StreamHandle stream = testing::make_stream(device(), GetParam());
  Twins twins(device(), Rule::mxnet, stream, testing::random_tensors(12, random), random);
  twins.set_group_count(3);
  Twins other(device(), Rule::mxnet, nullptr, testing::random_tensors(30, random), random);
  other.set_group_count(1);
  for (int i = 0; i < 30; ++i) {
    twins.start_to_change_grads();
    if (i % 3 == 0) other.start_to_change_grads();  // more copies than are compared
    twins.run(1 + random.below(3));
    if (i % 5 == 0) other.run();
  }
  ASSERT_TRUE(twins.are_equal());
  ASSERT_TRUE(other.are_equal());
}

TEST_P(Steps, KeepWhatTheyUseAfterTheyAreDestroyed) {
  Random random(3);
  StreamHandle stream = testing::make_stream(device(), GetParam());
  std::vector<std::unique_ptr<Twins>> all;
  for (int i = 0; i < 10; ++i) {
    all.push_back(
        std::make_unique<Twins>(device(), Rule::coupled, stream, testing::random_tensors(10, random), random));
    all.back()->set_group_count(10);
    all.back()->run();
    all.back()->decide();
    all.back()->drop_step();
  }
  for (const auto& twins : all) ASSERT_TRUE(twins->are_equal());
}

INSTANTIATE_TEST_SUITE_P(OnEvery, Steps, ::testing::ValuesIn(kEveryStream), [](const auto& tested) {
  return std::string(tested.param == StreamKind::legacy     ? "LegacyStream"
                     : tested.param == StreamKind::blocking ? "BlockingStream"
                                                            : "NonBlockingStream");
});

class PendingSteps : public OnStandIn {};

TEST_F(PendingSteps, KeepTheirGradients) {
  Random random(12);
  Twins twins(device(), Rule::mxnet, nullptr, testing::random_tensors(10, random), random);
  twins.set_group_count(1);
  twins.make_grads(false);
  {
    const testing::Paused paused;
    twins.run();
    twins.change_grads();
    device().allocate(8);  // frees memory that nothing uses
  }
  twins.run();
  ASSERT_TRUE(twins.are_equal());
}

TEST_F(PendingSteps, KeepTheTableOfTheirScalars) {
  Random random(13);
  StreamHandle stream = testing::make_stream(device(), StreamKind::non_blocking);
  Twins twins(device(), Rule::mxnet, stream, {{DTypeConfig::float32, 400'000}}, random);
  twins.set_group_count(100);
  {
    const testing::Paused paused;
    twins.run();
    twins.set_group_count(1000);
  }
  for (int i = 0; i < 100; ++i) {  // some of them while the launch runs
    const std::lock_guard lock(device().mutex());
    const ContextGuard guard(device().context());
    device().drain();
    std::this_thread::sleep_for(std::chrono::microseconds(100));
  }
  twins.run();
  ASSERT_TRUE(twins.are_equal());
}

TEST_F(PendingSteps, OfADestroyedStreamComeBeforeCopies) {
  Random random(14);
  for (int i = 0; i < 20; ++i) {
    StreamHandle stream = testing::make_stream(device(), StreamKind::non_blocking);
    Twins twins(device(), Rule::mxnet, stream, {{DTypeConfig::float32, 5000}}, random);
    twins.set_group_count(1);
    {
      const testing::Paused paused;
      twins.run();
      testing::destroy_stream(device(), stream);
      StreamHandle next = testing::make_stream(device(), StreamKind::non_blocking);
      ASSERT_EQ(next, stream) << "the handle is not used again";
      const std::lock_guard lock(device().mutex());
      const ContextGuard guard(device().context());
      const auto event = std::make_shared<Event>();
      event->record(next);
      const auto none = std::make_shared<const Memories>();
      device().end_step(next, event, {none, none});
    }
    ASSERT_TRUE(twins.are_equal());
    testing::destroy_stream(device(), stream);
  }
}

class StepsInOneLaunch : public OnStandIn {};

TEST_F(StepsInOneLaunch, TakeTenThousandTensorsOfTenThousandGroups) {
  Random random(4);
  std::vector<std::pair<DTypeConfig, size_t>> tensors(10000, {DTypeConfig::float32, 64});
  Twins twins(device(), Rule::mxnet, nullptr, tensors, random);
  twins.set_group_count(tensors.size());
  twins.run();
  synchronize();
  const auto launches = testing::count("cuLaunchKernel"), copies = testing::count("cuMemcpyHtoDAsync_v2");
  const auto waits = testing::count("cuEventSynchronize"), reads = testing::count("cuMemcpyDtoHAsync_v2");
  twins.run();
  EXPECT_EQ(testing::count("cuLaunchKernel"), launches + 1);
  EXPECT_EQ(testing::count("cuMemcpyHtoDAsync_v2"), copies + 1) << "the scalars alone";
  EXPECT_EQ(testing::count("cuEventSynchronize"), waits);
  EXPECT_EQ(testing::count("cuMemcpyDtoHAsync_v2"), reads);
  ASSERT_TRUE(twins.are_equal());
}

TEST_F(StepsInOneLaunch, UploadNothingThatIsUnchanged) {
  Random random(5);
  Twins twins(device(), Rule::pytorch, nullptr, {{DTypeConfig::bfloat16, 5000}, {DTypeConfig::bfloat16, 7}}, random);
  twins.set_group_count(2);
  twins.run();
  const auto launches = testing::count("cuLaunchKernel"), copies = testing::count("cuMemcpyHtoDAsync_v2");
  for (int i = 0; i < 5; ++i) twins.run();
  EXPECT_EQ(testing::count("cuLaunchKernel"), launches + 5);
  EXPECT_EQ(testing::count("cuMemcpyHtoDAsync_v2"), copies);
  ASSERT_TRUE(twins.are_equal());
}

TEST_F(StepsInOneLaunch, TakeFourMoreIfTheDeviceDecides) {
  Random random(27);
  Twins twins(device(), Rule::pytorch, nullptr, {{DTypeConfig::bfloat16, 5000}, {DTypeConfig::bfloat16, 7}}, random);
  twins.set_group_count(2);
  twins.decide();
  const auto launches = testing::count("cuLaunchKernel"), reads = testing::count("cuMemcpyDtoHAsync_v2");
  for (int i = 0; i < 5; ++i) twins.decide();
  EXPECT_EQ(testing::count("cuLaunchKernel"), launches + 25);
  EXPECT_EQ(testing::count("cuMemcpyDtoHAsync_v2"), reads + 5);
  ASSERT_TRUE(twins.are_equal());
}

class SteadySteps : public OnStandIn {};

TEST_F(SteadySteps, NeitherAllocateNorFree) {
  Random random(15);
  StreamHandle stream = testing::make_stream(device(), StreamKind::non_blocking);
  Twins twins(device(), Rule::mxnet, stream, testing::random_tensors(148, random), random);
  const char* const functions[] = {"cuMemAlloc_v2", "cuMemFree_v2",  "cuMemHostAlloc",
                                   "cuMemFreeHost", "cuEventCreate", "cuEventDestroy_v2"};
  std::vector<unsigned long long> before;
  for (int i = 0; i < 8; ++i) {
    if (i == 4)
      for (const char* function : functions) before.push_back(testing::count(function));
    twins.make_step();  // as for each call of multiAdamwUpdate
    twins.set_group_count(100);
    twins.run();
    synchronize();
  }
  for (size_t i = 0; i < std::size(functions); ++i)
    EXPECT_EQ(testing::count(functions[i]), before[i]) << functions[i] << " was called";
  ASSERT_TRUE(twins.are_equal());
}

TEST_F(SteadySteps, NeverWait) {
  Random random(18);
  std::vector<std::pair<DTypeConfig, size_t>> tensors(148, {DTypeConfig::float32, 300});
  for (StreamKind kind : kEveryStream) {
    Twins twins(device(), Rule::mxnet, testing::make_stream(device(), kind), tensors, random);
    synchronize();
    const testing::Paused paused;
    const auto waits = testing::count("cuEventSynchronize");
    for (int i = 0; i < 20; ++i) {
      if (i % 2 == 0) twins.make_step();  // new tensors, whose tables are uploaded
      twins.set_group_count(100);
      if (i > 0) change_grads(twins, i % 3 == 0);  // new values in the same memory, or new memory
      twins.run();
    }
    EXPECT_EQ(testing::count("cuEventSynchronize"), waits);
  }
  synchronize();
}

TEST_F(SteadySteps, NeitherWaitForADecisionNorAllocate) {
  Random random(26);
  for (StreamKind kind : kEveryStream) {
    Twins twins(device(), Rule::mxnet, testing::make_stream(device(), kind), testing::random_tensors(148, random),
                random);
    twins.set_group_count(100);
    const auto decide_all = [&twins] {
      for (size_t i = 0; i < kMostCandidates; ++i) twins.decide();
    };
    {
      const testing::Paused paused;  // so that it allocates as much as it ever needs
      decide_all();
    }
    synchronize();
    const char* const functions[] = {"cuMemAlloc_v2", "cuMemHostAlloc", "cuEventCreate", "cuEventSynchronize"};
    std::vector<unsigned long long> before;
    for (const char* function : functions) before.push_back(testing::count(function));
    {
      const testing::Paused paused;
      decide_all();
      EXPECT_FALSE(twins.step().is_decided(0));
      for (size_t i = 0; i < std::size(functions); ++i)
        EXPECT_EQ(testing::count(functions[i]), before[i]) << functions[i] << " was called";
    }
    ASSERT_TRUE(twins.are_equal());
    EXPECT_TRUE(twins.step().is_decided(0)) << "each of them starts";
  }
}

TEST_F(SteadySteps, LeaveTheMemoryThatWasReleasedToTheNextAllocation) {
  Random random(16);
  Twins twins(device(), Rule::mxnet, nullptr, testing::random_tensors(5, random), random);
  twins.set_group_count(2);
  synchronize();
  device().allocate(1000).reset();
  const auto freed = testing::count("cuMemFree_v2");
  for (int i = 0; i < 3; ++i) twins.run();
  ASSERT_TRUE(twins.are_equal());
  EXPECT_EQ(testing::count("cuMemFree_v2"), freed);
  device().allocate(8);
  EXPECT_GT(testing::count("cuMemFree_v2"), freed);
}

class StepsOf : public OnDevice {};

TEST_F(StepsOf, NothingLaunchNothing) {
  Random random(6);
  Twins none(device(), Rule::mxnet, nullptr, {}, random);
  none.set_group_count(1);
  none.run();
  Twins empty(device(), Rule::mxnet, nullptr, {{DTypeConfig::float32, 0}, {DTypeConfig::bfloat16_master, 0}}, random);
  empty.set_group_count(1);
  empty.run();
  ASSERT_TRUE(empty.are_equal());
}

TEST_F(StepsOf, TwoStreamsAndTwoThreadsDoNotMix) {
  const auto work = [&](uint64_t seed, StreamKind kind) {
    Random random(seed);
    StreamHandle stream = testing::make_stream(device(), kind);
    for (int round = 0; round < 4; ++round) {
      Twins twins(device(), Rule::mxnet, stream, testing::random_tensors(15, random), random);
      twins.set_group_count(3);
      for (int i = 0; i < 8; ++i) {
        if (i > 0) change_grads(twins, i % 2 == 0);
        twins.run();
      }
      ASSERT_TRUE(twins.are_equal());
    }
  };
  std::thread other([&] { work(7, StreamKind::non_blocking); });
  work(8, StreamKind::legacy);
  other.join();
}

TEST_F(StepsOf, TwoDevicesDoNotMix) {
  if (device_count() < 2) GTEST_SKIP() << "there is one device";
  Random random(9);
  Twins first(device(0), Rule::mxnet, nullptr, testing::random_tensors(20, random), random);
  Twins second(device(1), Rule::mxnet, testing::make_stream(device(1), StreamKind::non_blocking),
               testing::random_tensors(20, random), random);
  for (Twins* twins : {&first, &second}) twins->set_group_count(30);
  for (int i = 0; i < 8; ++i)
    for (Twins* twins : {&first, &second}) {
      if (i > 0) change_grads(*twins, i % 2 == 0);
      twins->run();
    }
  ASSERT_TRUE(first.are_equal());
  ASSERT_TRUE(second.are_equal());
}

TEST_F(StepsOf, AStreamOfAnotherContextThrow) {
  const testing::ForeignContext context(0);
  StreamHandle stream = nullptr;
  check(testing::find<Status(StreamHandle*, unsigned)>("cuStreamCreate")(&stream, 0), "cuStreamCreate");
  EXPECT_EQ(
      testing::message_of<std::invalid_argument>([&] { Step(device(), TensorList(Rule::mxnet, {}), {}, stream); }),
      "a stream of another context than the primary one of cuda:0");
}

class FailingSteps : public OnStandIn {};

TEST_F(FailingSteps, ReportTheDriversOwnNameAndText) {
  Random random(10);
  Twins twins(device(), Rule::mxnet, nullptr, {{DTypeConfig::float32, 100}}, random);
  twins.set_group_count(1);
  const testing::Failing failing("cuLaunchKernel", 0, 719);
  EXPECT_EQ(testing::message_of<DriverError>([&] { twins.run(); }),
            "CUDA failed in cuLaunchKernel: CUDA_ERROR_LAUNCH_FAILED (unspecified launch failure)");
}

/// Every call of a function that creating and running a step makes fails once. (Not those that record events, without
/// which nobody knows when the work is done.)
class FailingCalls : public OnStandIn, public ::testing::WithParamInterface<const char*> {};

TEST_P(FailingCalls, AreReportedAndLeaveNothingBehind) {
  for (unsigned after = 0;; after += 1 + after / 16) {  // whoever waits queries an event often
    bool failed = false;
    {
      const testing::Failing failing(GetParam(), after, 700);
      try {
        Random random(11);
        Twins twins(device(), Rule::mxnet, testing::make_stream(device(), StreamKind::non_blocking),
                    {{DTypeConfig::float32, 5000}, {DTypeConfig::bfloat16_master, 100}, {DTypeConfig::float64, 10}},
                    random);
        for (int i = 0; i < 3; ++i) {
          twins.set_group_count(i == 1 ? 100 : 3);
          if (i > 0) change_grads(twins, false);
          twins.run();
        }
        ASSERT_TRUE(twins.are_equal());
      } catch (const DriverError& error) {
        failed = true;
        EXPECT_EQ(error.status(), 700);
        EXPECT_EQ(error.name(), "CUDA_ERROR_ILLEGAL_ADDRESS");
      }
    }
    EXPECT_EQ(testing::current_context(), nullptr) << "after call " << after;
    synchronize();  // so that the calls of the next round do not depend on this one
    if (!failed) break;
  }
}

INSTANTIATE_TEST_SUITE_P(Every, FailingCalls,
                         ::testing::Values("cuMemAlloc_v2", "cuMemHostAlloc", "cuMemsetD8Async", "cuMemcpyHtoDAsync_v2",
                                           "cuMemcpyDtoHAsync_v2", "cuStreamWaitEvent", "cuStreamGetCtx",
                                           "cuLaunchKernel", "cuCtxPushCurrent_v2", "cuEventQuery",
                                           "cuEventSynchronize"),
                         [](const auto& tested) { return std::string(tested.param); });

}  // namespace
}  // namespace fused_adamw::cuda
