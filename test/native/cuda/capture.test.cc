// Streams that another library captures into a graph: our calls neither go into
// the graph nor invalidate the capture.
#include <thread>

#include "cuda/transfer.h"
#include "driver.h"
#include "twins.h"

namespace fused_adamw::cuda {
namespace {

using testing::Capture;
using testing::Random;
using testing::StreamKind;
using testing::Twins;

class StreamCapture : public testing::OnDevice, public ::testing::WithParamInterface<int> {};

TEST_P(StreamCapture, OfItsStreamRefusesAStep) {
  Random random(1);
  for (StreamKind kind : {StreamKind::blocking, StreamKind::non_blocking}) {
    StreamHandle stream = testing::make_stream(device(), kind);
    Twins twins(device(), Rule::mxnet, stream, testing::random_tensors(5, random), random);
    twins.set_group_count(2);
    twins.run();
    {
      const Capture capture(device(), stream, GetParam());
      EXPECT_EQ(testing::message_of<std::runtime_error>([&] { twins.run(); }),
                "Expected a stream that is not being captured for stream but received one that is: a graph would "
                "repeat the step with the same scalars");
      EXPECT_EQ(testing::message_of<std::runtime_error>([&] { twins.decide(); }),
                "Expected a stream that is not being captured for stream but received one that is: a graph would "
                "repeat the step with the same scalars");
    }
    twins.run();
    twins.decide();
    EXPECT_TRUE(twins.are_equal());
  }
}

TEST_P(StreamCapture, OfANonBlockingStreamDisturbsNothing) {
  Random random(2);
  const Capture capture(device(), testing::make_stream(device(), StreamKind::non_blocking), GetParam());
  const auto work = [&] {
    for (StreamKind kind : {StreamKind::legacy, StreamKind::blocking, StreamKind::non_blocking}) {
      Twins twins(device(), Rule::mxnet, testing::make_stream(device(), kind), testing::random_tensors(5, random),
                  random);
      for (size_t groups : {2, 100}) {
        twins.set_group_count(groups);
        twins.run();
      }
      EXPECT_TRUE(twins.are_equal());
      device().synchronize();
    }
  };
  work();
  std::thread(work).join();
}

TEST_P(StreamCapture, OfABlockingStreamRefusesWorkOnTheLegacyStream) {
  Random random(3);
  StreamHandle stream = testing::make_stream(device(), StreamKind::blocking);
  StreamHandle other = testing::make_stream(device(), StreamKind::non_blocking);
  Twins on_legacy(device(), Rule::mxnet, nullptr, testing::random_tensors(5, random), random);
  Twins on_other(device(), Rule::mxnet, other, testing::random_tensors(5, random), random);
  on_legacy.set_group_count(2);
  on_other.set_group_count(2);
  const auto memory = device().allocate(sizeof(int));
  {
    const Capture capture(device(), stream, GetParam());
    int value = 0;
    const std::function<void()> refused[] = {
        [&] { on_legacy.run(); },
        [&] { device().allocate(8); },
        [&] { device().synchronize(); },
        [&] { copy_from_host(memory, 0, &value, sizeof value); },
        [&] { copy_to_host(&value, memory, 0, sizeof value); },
    };
    for (const auto& call : refused)
      EXPECT_EQ(testing::message_of<std::runtime_error>(call),
                "Expected no capture of a blocking stream during work on the legacy default stream but found one: end "
                "it first, or capture a non-blocking stream");
    on_other.run();
  }
  on_legacy.run();
  EXPECT_TRUE(on_legacy.are_equal());
  EXPECT_TRUE(on_other.are_equal());
}

TEST_P(StreamCapture, ThatRecordedAnEventLeavesTheDeviceUsable) {
  StreamHandle stream = testing::make_stream(device(), StreamKind::non_blocking);
  const auto things = std::make_shared<int>();
  {
    const std::lock_guard lock(device().mutex());
    const ContextGuard guard(device().context());
    const Capture capture(device(), stream, GetParam());
    const auto event = std::make_shared<Event>();
    event->record(stream);
    const auto none = std::make_shared<const Memories>();
    device().end_step(stream, event, {none, none});
    device().retire(things, event);
  }
  int value = 1;
  copy_to_host(&value, device().allocate(sizeof value), 0, sizeof value);
  EXPECT_EQ(value, 0);
  device().synchronize();
  EXPECT_EQ(things.use_count(), 2) << "a graph may still use them";
}

INSTANTIATE_TEST_SUITE_P(InEveryMode, StreamCapture,
                         ::testing::Values(Capture::kGlobal, Capture::kThreadLocal, Capture::kRelaxed),
                         [](const auto& tested) {
                           return std::string(tested.param == Capture::kGlobal        ? "Global"
                                              : tested.param == Capture::kThreadLocal ? "ThreadLocal"
                                                                                      : "Relaxed");
                         });

}  // namespace
}  // namespace fused_adamw::cuda
