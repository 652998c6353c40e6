// The thread of asynchronous steps.
#include "cpu/background.h"

#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <functional>
#include <future>
#include <memory>
#include <thread>
#include <utility>
#include <vector>

namespace fused_adamw {
namespace {

using cpu::background::Work;

class Task : public Work {
 public:
  explicit Task(std::function<void()> body) : body_(std::move(body)) {}
  void run(std::unique_ptr<Work>) override { body_(); }

 private:
  std::function<void()> body_;
};

void start(const void* owner, std::function<void()> body) {
  cpu::background::start(owner, std::make_unique<Task>(std::move(body)));
}

const int one = 1, other = 2;  // owners

TEST(Background, RunsOnOneThreadInOrder) {
  std::vector<int> order;
  std::promise<void> done;
  std::thread::id first, last;
  start(&one, [&] { first = std::this_thread::get_id(); });
  for (int i = 0; i < 100; ++i) start(i % 2 ? &one : &other, [&order, i] { order.push_back(i); });
  start(&one, [&] {
    last = std::this_thread::get_id();
    done.set_value();
  });
  done.get_future().wait();
  ASSERT_EQ(order.size(), 100u);
  for (int i = 0; i < 100; ++i) EXPECT_EQ(order[i], i);
  EXPECT_EQ(first, last);
  EXPECT_NE(first, std::this_thread::get_id());
}

TEST(Background, EndDropsWhatWaitsAndWaitsForWhatRuns) {
  std::promise<void> begun, go_on;
  std::atomic<bool> has_run{false}, has_run_late{false}, has_run_for_other{false};
  auto held = std::make_shared<int>(0);
  start(&one, [&] {
    begun.set_value();
    go_on.get_future().wait();
    has_run = true;
  });
  start(&one, [&has_run_late, held] { has_run_late = true; });
  start(&other, [&] { has_run_for_other = true; });
  begun.get_future().wait();
  std::thread helper([&] {
    std::this_thread::sleep_for(std::chrono::milliseconds(200));  // end() drops what waits first
    go_on.set_value();
  });
  cpu::background::end(&one);
  EXPECT_TRUE(has_run);
  EXPECT_EQ(held.use_count(), 1);  // what was dropped is gone
  helper.join();
  std::promise<void> done;
  start(&one, [&] { done.set_value(); });
  done.get_future().wait();
  EXPECT_FALSE(has_run_late);
  EXPECT_TRUE(has_run_for_other);
}

TEST(Background, EndOfAnOwnerWithoutWorkReturns) { cpu::background::end(&other + 1); }

TEST(BackgroundOfAFork, Works) {
  std::promise<void> begun, go_on;
  start(&one, [&] {
    begun.set_value();
    go_on.get_future().wait();
  });
  begun.get_future().wait();
  const pid_t child = fork();
  if (child == 0) {
    cpu::background::end(&one);  // what the parent's thread runs is not waited for
    std::promise<void> done;
    start(&one, [&] { done.set_value(); });
    done.get_future().wait();
    _exit(7);
  }
  int status = 0;
  ASSERT_EQ(waitpid(child, &status, 0), child);
  EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 7);
  go_on.set_value();
  cpu::background::end(&one);
}

}  // namespace
}  // namespace fused_adamw
