// The floating-point environment, the threads of both runtimes, and steps cut into chunks.
#include "cpu/threads.h"

#include <gtest/gtest.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <climits>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <thread>

#include "cpu/chunk-shares.h"
#include "cpu/float-environment.h"
#include "cpu/openmp.h"
#include "cpu/step.h"
#include "cpu/thread-start.h"
#include "support.h"

namespace fused_adamw {
namespace {

using cpu::for_each_chunk;
using cpu::Runtime;
using testing::Random;

/// How OpenMP's threads wait is told, so that every call is a region.
const int kWaitingTold = setenv("OMP_WAIT_POLICY", "passive", 0);

/// A test of each runtime that can be used here.
class OnEachRuntime : public ::testing::TestWithParam<Runtime> {
 protected:
  void SetUp() override {
    const std::string reason = cpu::unusable(GetParam());
    if (!reason.empty()) GTEST_SKIP() << reason;
    const Runtime runtime = GetParam();
    cpu::set_runtime(&runtime);
    ASSERT_EQ(cpu::runtime(), runtime);
  }
  void TearDown() override { cpu::set_runtime(nullptr); }
};

// ThreadSanitizer does not see how libgomp's threads wait for each other, which
// is not compiled for it, and reports races at every region. What the threads
// do in it, the shares and the chunks, is what they do in the team.
#if defined(__SANITIZE_THREAD__)
const auto kRuntimes = ::testing::Values(Runtime::team);
#else
const auto kRuntimes = ::testing::Values(Runtime::team, Runtime::openmp);
#endif

std::string name_of_runtime(const ::testing::TestParamInfo<Runtime>& info) {
  return info.param == Runtime::openmp ? "openmp" : "team";
}

/// Waits until a condition holds, or fails.
template <typename Condition>
void wait_for(const Condition& condition) {
  const auto limit = std::chrono::steady_clock::now() + std::chrono::seconds(20);
  while (!condition() && std::chrono::steady_clock::now() < limit) std::this_thread::yield();
  EXPECT_TRUE(condition());
}

#if defined(__x86_64__)
using ControlWord = unsigned;
ControlWord control_word() { return _mm_getcsr() & ~0x3fu; }  // without the exceptions that were raised
void set_control_word(ControlWord word) { _mm_setcsr(word); }
constexpr ControlWord kContract = 0x1f80;
constexpr ControlWord kHostile = 0x1f80 | 0x8000 | 0x0040 | 0x6000;  // flush to zero, denormals are zero, truncate
#elif defined(__aarch64__)
using ControlWord = uint64_t;
ControlWord control_word() {
  ControlWord word;
  asm volatile("mrs %0, fpcr" : "=r"(word));
  return word;
}
void set_control_word(ControlWord word) { asm volatile("msr fpcr, %0" : : "r"(word)); }
constexpr ControlWord kContract = 0;
constexpr ControlWord kHostile = (1u << 24) | (3u << 22);  // flush to zero, truncate
#endif

/// Whether subnormals are kept and sums rounded to nearest here and now.
bool is_contract_arithmetic() {
  volatile float tiny = 0x1p-126f, half = 0.5f, one = 1, beyond_tie = 0x1.8p-24f;
  volatile float subnormal = tiny * half;
  volatile float doubled = subnormal * 2;
  volatile float sum = one + beyond_tie;
  return bits_of(subnormal) == 0x00400000 && doubled == tiny && sum > 1;
}

/// Another library's settings, for as long as it lives.
class HostileEnvironment {
 public:
  HostileEnvironment() : saved_(control_word()) { set_control_word(kHostile); }
  ~HostileEnvironment() { set_control_word(saved_); }

 private:
  ControlWord saved_;
};

TEST(FloatEnvironment, ProtectsAndRestores) {
  const HostileEnvironment hostile;
  ASSERT_EQ(control_word(), kHostile);
  EXPECT_FALSE(is_contract_arithmetic());
  {
    const FloatEnvironment environment;
    EXPECT_EQ(control_word(), kContract);
    EXPECT_TRUE(is_contract_arithmetic());
  }
  EXPECT_EQ(control_word(), kHostile);
  EXPECT_FALSE(is_contract_arithmetic());
}

using FloatEnvironmentOf = OnEachRuntime;
INSTANTIATE_TEST_SUITE_P(Threads, FloatEnvironmentOf, kRuntimes, name_of_runtime);

TEST_P(FloatEnvironmentOf, EveryThread) {
  // A new thread inherits the settings of the one that starts it; so do those that join the team here.
  std::thread([] {
    const HostileEnvironment hostile;
    for (int threads : {1, 4}) {
      std::atomic<int> wrong{0};
      for_each_chunk(64, threads, [&](size_t) {
        if (control_word() != kContract || !is_contract_arithmetic()) ++wrong;
        std::this_thread::sleep_for(std::chrono::microseconds(200));
      });
      EXPECT_EQ(wrong, 0) << threads << " threads";
      EXPECT_EQ(control_word(), kHostile);
    }
  }).join();
}

TEST(FloatEnvironment, DoesNotDependOnTheCaller) {
  const HostileEnvironment hostile;
  for (const cpu::Variant* variant : cpu::variants()) EXPECT_TRUE(cpu::rounds_exactly(*variant)) << variant->name;
  EXPECT_EQ(control_word(), kHostile);
}

using ForEachChunk = OnEachRuntime;
INSTANTIATE_TEST_SUITE_P(Threads, ForEachChunk, kRuntimes, name_of_runtime);

TEST_P(ForEachChunk, CallsEachChunkOnce) {
  for (int threads = 1; threads <= 8; ++threads)
    for (size_t chunks : {0, 1, 2, 3, 7, 8, 9, 1000, 100000}) {
      std::vector<std::atomic<int>> calls(chunks);
      for_each_chunk(chunks, threads, [&](size_t chunk) { calls.at(chunk).fetch_add(1); });
      for (size_t chunk = 0; chunk < chunks; ++chunk)
        ASSERT_EQ(calls[chunk], 1) << chunk << " of " << chunks << ", threads: " << threads;
    }
}

TEST_P(ForEachChunk, UsesNoMoreThreadsThanItIsGiven) {
  for (int threads : {1, 2, 3}) {
    std::atomic<int> running{0}, most{0};
    for_each_chunk(200, threads, [&](size_t) {
      const int now = ++running;
      for (int seen = most; now > seen && !most.compare_exchange_weak(seen, now);) {
      }
      std::this_thread::sleep_for(std::chrono::microseconds(100));
      --running;
    });
    EXPECT_LE(most, threads);
    if (threads > 1) {
      EXPECT_GT(most, 1);
    }
  }
}

TEST_P(ForEachChunk, HelpsOneCallAtATime) {
  constexpr int kCallers = 3, kRounds = 50, kChunks = 8;
  std::atomic<int> helping{0}, most_helping{0}, incomplete{0};
  const auto call = [&] {
    const std::thread::id self = std::this_thread::get_id();
    for (int round = 0; round < kRounds; ++round) {
      std::atomic<int> done{0};
      for_each_chunk(kChunks, 2, [&](size_t) {
        const bool helps = std::this_thread::get_id() != self;
        if (helps) most_helping = std::max<int>(most_helping, ++helping);
        std::this_thread::sleep_for(std::chrono::microseconds(50));
        if (helps) --helping;
        ++done;
      });
      if (done != kChunks) ++incomplete;
    }
  };
  std::vector<std::thread> callers;
  for (int i = 0; i < kCallers; ++i) callers.emplace_back(call);
  for (std::thread& caller : callers) caller.join();
  EXPECT_EQ(incomplete, 0);
  EXPECT_EQ(most_helping, 1);
}

TEST_P(ForEachChunk, DoesNotWaitForATeamThatIsTaken) {
  std::atomic<bool> inside{false}, returned{false};
  std::thread other([&] {
    wait_for([&] { return inside.load(); });
    for_each_chunk(1, 8, [](size_t) {});
    for_each_chunk(100, 1, [](size_t) {});
    for_each_chunk(100, 8, [](size_t) {});
    returned = true;
  });
  for_each_chunk(2, 2, [&](size_t) {
    inside = true;
    wait_for([&] { return returned.load(); });
  });
  other.join();
}

TEST_P(ForEachChunk, BeginsWithTheShareOfEachThread) {
  constexpr size_t kChunks = 90;
  constexpr int kThreads = 3;
  std::map<std::thread::id, size_t> begins_with;  // where each thread began in the first call
  for (int call = 0; call < 20; ++call) {
    std::mutex mutex;
    std::map<std::thread::id, std::vector<size_t>> taken;
    for_each_chunk(kChunks, kThreads, [&](size_t chunk) {
      {
        const std::lock_guard lock(mutex);
        taken[std::this_thread::get_id()].push_back(chunk);
      }
      // None is done with its first chunk before all have begun, so nothing is stolen before.
      wait_for([&] {
        const std::lock_guard lock(mutex);
        return taken.size() == kThreads;
      });
    });
    EXPECT_EQ(taken[std::this_thread::get_id()].front(), 0u);
    for (const auto& [thread, chunks] : taken) {
      EXPECT_EQ(chunks.front() % (kChunks / kThreads), 0u);
      if (call == 0) begins_with[thread] = chunks.front();
      EXPECT_EQ(begins_with.at(thread), chunks.front());
    }
  }
}

TEST_P(ForEachChunk, StealsFromTheEndOfWhatIsLeft) {
  constexpr size_t kChunks = 10;
  std::atomic<size_t> others_done{0};
  std::vector<size_t> by_caller;
  const std::thread::id self = std::this_thread::get_id();
  for_each_chunk(kChunks, 2, [&](size_t chunk) {
    if (std::this_thread::get_id() == self) {
      if (chunk == 0) wait_for([&] { return others_done > 0; });  // the other has begun
      by_caller.push_back(chunk);
    } else {
      EXPECT_EQ(chunk, kChunks / 2);
      ++others_done;
      wait_for([&] { return others_done == kChunks; });  // and is held up in its first chunk
      return;
    }
    ++others_done;
  });
  EXPECT_EQ(by_caller, (std::vector<size_t>{0, 1, 2, 3, 4, 9, 8, 7, 6}));
}

TEST_P(ForEachChunk, KeepsItsThreadsFromSignals) {
  // In a thread of its own, for which OpenMP makes a new team.
  std::thread([] {
    const std::thread::id self = std::this_thread::get_id();
    std::atomic<int> helpers{0}, blocked{0};
    for_each_chunk(2, 2, [&](size_t chunk) {
      if (std::this_thread::get_id() == self) {
        if (chunk == 0) wait_for([&] { return helpers > 0; });
        return;
      }
      sigset_t mask;
      pthread_sigmask(SIG_SETMASK, nullptr, &mask);
      if (sigismember(&mask, SIGINT) && sigismember(&mask, SIGTERM) && sigismember(&mask, SIGCHLD)) ++blocked;
      ++helpers;
    });
    EXPECT_GE(helpers, 1);
    EXPECT_EQ(blocked, helpers);
    sigset_t mask;
    pthread_sigmask(SIG_SETMASK, nullptr, &mask);
    EXPECT_FALSE(sigismember(&mask, SIGINT));
  }).join();
}

TEST_P(ForEachChunk, OutlivesThreadsThatCall) {
  for (int i = 0; i < 30; ++i)
    std::thread([] {
      std::atomic<int> calls{0};
      for_each_chunk(64, 2, [&](size_t) { ++calls; });
      EXPECT_EQ(calls, 64);
    }).join();
}

#if !defined(__SANITIZE_THREAD__)  // which does not start threads in the child of a fork
TEST_P(ForEachChunk, WorksInTheChildOfAFork) {
  for_each_chunk(64, 4, [](size_t) {});
  // One fork at rest, one in the middle of another thread's call.
  for (const bool in_a_call : {false, true}) {
    std::atomic<bool> inside{false}, forked{false};
    std::thread other;
    if (in_a_call) {
      other = std::thread([&] {
        for_each_chunk(2, 2, [&](size_t) {
          inside = true;
          wait_for([&] { return forked.load(); });
        });
      });
      wait_for([&] { return inside.load(); });
    }
    const pid_t child = fork();
    ASSERT_GE(child, 0);
    if (child == 0) {
      alarm(20);
      std::atomic<int> calls{0};
      for (int call = 0; call < 3; ++call) for_each_chunk(1000, 4, [&](size_t) { ++calls; });
      const bool is_told =
          cpu::runtime() == Runtime::team && (GetParam() == Runtime::team) == cpu::unusable(GetParam()).empty();
      _exit(calls == 3000 && is_told ? 0 : 1);
    }
    forked = true;
    if (other.joinable()) other.join();
    int status = 0;
    ASSERT_EQ(waitpid(child, &status, 0), child);
    EXPECT_TRUE(WIFEXITED(status)) << "signal " << WTERMSIG(status);
    EXPECT_EQ(WEXITSTATUS(status), 0);
    std::atomic<int> calls{0};
    for_each_chunk(1000, 4, [&](size_t) { ++calls; });
    EXPECT_EQ(calls, 1000);
  }
}
#endif

TEST(ChunkShares, AreContiguousAndEqual) {
  const auto shares = std::make_unique<cpu::ChunkShares>();
  for (int count : {1, 2, 3, 7, cpu::kMostThreads})
    for (size_t chunks : {0, 1, 2, 64, 1000}) {
      shares->deal(chunks, count);
      std::vector<size_t> taken;
      for (int thread = 0; thread < count; ++thread) {
        const size_t before = taken.size();
        size_t chunk;
        while (shares->take_first(thread, &chunk)) taken.push_back(chunk);
        EXPECT_LE(taken.size() - before, (chunks + count - 1) / count);
      }
      ASSERT_EQ(taken.size(), chunks);
      for (size_t i = 0; i < chunks; ++i) EXPECT_EQ(taken[i], i);
    }
}

#if defined(__linux__)
TEST_P(ForEachChunk, TouchesEveryPageOfZeros) {
  const size_t page = sysconf(_SC_PAGESIZE), pages = 5000;
  void* memory = mmap(nullptr, pages * page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  ASSERT_NE(memory, MAP_FAILED);
  madvise(memory, pages * page, MADV_NOHUGEPAGE);
  const auto present = [&](size_t first, size_t count) {
    std::vector<unsigned char> in_memory(count);
    EXPECT_EQ(mincore(static_cast<char*>(memory) + first * page, count * page, in_memory.data()), 0);
    return std::count_if(in_memory.begin(), in_memory.end(), [](unsigned char is) { return is & 1; });
  };
  ASSERT_EQ(present(0, pages), 0);
  cpu::first_touch(static_cast<char*>(memory) + page, (pages - 2) * page);
  EXPECT_EQ(present(1, pages - 2), pages - 2);
  EXPECT_EQ(present(0, 1) + present(pages - 1, 1), 0);
  munmap(memory, pages * page);
}
#endif

TEST(Abstention, GrowsWhileRegionsAreOfNoUse) {
  cpu::openmp::Abstention abstention;
  const auto skipped = [&](bool has_helped) {
    abstention.note(has_helped);
    int calls = 0;
    while (abstention.skips()) ++calls;
    return calls;
  };
  EXPECT_FALSE(abstention.skips());
  for (int calls : {1, 3, 7, 15, 15}) EXPECT_EQ(skipped(false), calls);
  EXPECT_EQ(skipped(true), 0);
  EXPECT_EQ(skipped(false), 1);
}

TEST(Shortage, IsForgottenAfterAWhile) {
  namespace shortage = cpu::shortage;
  ASSERT_EQ(shortage::limit(), INT_MAX);
  EXPECT_TRUE(shortage::may_ask());
  cpu::set_num_threads(8);
  for (const int delay : {10, 20, 40}) {  // ms
    const auto refusal = std::chrono::steady_clock::now();
    shortage::refused(3);
    EXPECT_EQ(cpu::obtainable_threads(), 3);
    EXPECT_EQ(cpu::num_threads(), 8);
    wait_for([] { return shortage::may_ask(); });
    EXPECT_GE(std::chrono::steady_clock::now() - refusal, std::chrono::milliseconds(delay));
  }
  shortage::granted();
  EXPECT_EQ(cpu::obtainable_threads(), 8);
  cpu::set_num_threads(0);
}

TEST(NumThreads, IsWhatWasSetThenTheDefault) {
  cpu::set_num_threads(0);
  const int by_default = cpu::num_threads();
  EXPECT_GE(by_default, 1);
  cpu::set_num_threads(5);
  EXPECT_EQ(cpu::num_threads(), 5);
  cpu::set_num_threads(0);
  EXPECT_EQ(cpu::num_threads(), by_default);
}

/// One tensor of any dtype configuration, so that a list may mix them.
class AnyTensor {
 public:
  virtual ~AnyTensor() = default;
  virtual std::unique_ptr<AnyTensor> copy() const = 0;
  virtual TensorArrays arrays() = 0;
  virtual void step_alone(const cpu::Variant& variant, Rule rule, const cpu::GroupScalars& scalars) = 0;
  virtual ::testing::AssertionResult equals(const AnyTensor& expected) const = 0;
};

template <typename Arrays>
class TensorOf : public AnyTensor {
 public:
  TensorOf(uint32_t key, Arrays arrays) : key_(key), arrays_(arrays) {}
  std::unique_ptr<AnyTensor> copy() const override { return std::make_unique<TensorOf>(*this); }
  TensorArrays arrays() override { return {Arrays::kConfig, arrays_.length(), arrays_.addresses(), key_, 0}; }
  void step_alone(const cpu::Variant& variant, Rule rule, const cpu::GroupScalars& scalars) override {
    variant.kernel(rule, Arrays::kConfig)(arrays_.span(0, key_, scalars.count), scalars);
  }
  ::testing::AssertionResult equals(const AnyTensor& expected) const override {
    return arrays_.equals(static_cast<const TensorOf&>(expected).arrays_);
  }

 private:
  uint32_t key_;
  Arrays arrays_;
};

using AnyTensors = std::vector<std::unique_ptr<AnyTensor>>;

AnyTensors copy(const AnyTensors& tensors) {
  AnyTensors copied;
  for (const auto& tensor : tensors) copied.push_back(tensor->copy());
  return copied;
}

std::unique_ptr<AnyTensor> random_tensor(size_t length, Random& random) {
  return testing::with_config(testing::random_config(random), [&](auto* type) -> std::unique_ptr<AnyTensor> {
    using Arrays = std::remove_pointer_t<decltype(type)>;
    const auto key = static_cast<uint32_t>(random.next());
    return std::make_unique<TensorOf<Arrays>>(key, Arrays(length, random));
  });
}

/// Nothing, a few elements, blocks give or take one, or several chunks.
size_t random_length(Random& random) {
  switch (random.below(6)) {
    case 0:
      return 0;
    case 1:
      return random.below(40);
    case 2:
      return 256 * (1 + random.below(8)) + random.below(3) - 1;
    case 3:
      return 16384 * (1 + random.below(2)) + random.below(3) - 1;
    case 4:
      return random.below(70000);
    default:
      return random.below(2000);
  }
}

using StepOn = OnEachRuntime;
INSTANTIATE_TEST_SUITE_P(Threads, StepOn, kRuntimes, name_of_runtime);

TEST_P(StepOn, EachRuntimeEqualsALoopOverTheTensors) {
  Random random(5);
  int several_chunks = 0;
  for (int round = 0; round < 250; ++round) {
    const cpu::Variant& variant = *random.one_of(cpu::variants());
    const Rule rule = testing::random_rule(random);
    const bool many = round % 10 == 0;  // chunks of many tensors
    AnyTensors actual;
    for (size_t i = many ? 400 : random.below(9); i > 0; --i)
      actual.push_back(random_tensor(many ? random.below(300) : random_length(random), random));
    AnyTensors expected = copy(actual);

    const StepScalars step = testing::random_step_scalars(random);
    std::vector<ScalarGroup> groups(1 + random.below(3));
    for (ScalarGroup& group : groups) group = testing::random_group(random);
    std::vector<cpu::GroupScalars> scalars(groups.size());
    cpu::round_groups(step, groups.data(), groups.size(), scalars.data());
    std::vector<uint32_t> group_of(actual.size());
    for (uint32_t& group : group_of) group = static_cast<uint32_t>(random.below(groups.size()));

    std::vector<TensorArrays> tensors;
    std::vector<void*> grads;
    for (const auto& tensor : actual) {
      tensors.push_back(tensor->arrays());
      grads.push_back(tensors.back().arrays[Role::grad]);
      tensors.back().arrays[Role::grad] = nullptr;
    }
    TensorList list(rule, tensors);
    ASSERT_FALSE(list.set_grads(grads));
    list.set_groups(group_of, groups.size());

    // Three steps of random parts of the list: what is not in a part stays as it is.
    for (int part = 0; part < 3; ++part) {
      size_t first = random.below(actual.size() + 1), last = random.below(actual.size() + 1);
      if (part == 0) first = 0, last = actual.size();
      if (first > last) std::swap(first, last);
      const int threads = 1 + static_cast<int>(random.below(8));
      cpu::step(list, variant, scalars.data(), first, last, threads);
      for (size_t i = first; i < last; ++i) expected[i]->step_alone(variant, rule, scalars[group_of[i]]);
      for (size_t i = 0; i < actual.size(); ++i)
        ASSERT_TRUE(actual[i]->equals(*expected[i]))
            << "tensor " << i << " of [" << first << ", " << last << "), " << variant.name << ", threads: " << threads;
      if (list.element_start(last) - list.element_start(first) > 65536) ++several_chunks;
    }
  }
  EXPECT_GT(several_chunks, 50);
}

TEST(Step, RoundsScalarsOnceToBothTypes) {
  const StepScalars step{1.0 / 3, 1e-3, 0.9, 0.999};
  const ScalarGroup groups[] = {{0.1, 0.7, 0.3, 1e-8, 0.2, 4}, {1e-50, 1, 0, 1e-6, 1, 0x1p32 + 9}};
  cpu::GroupScalars rounded[2];
  cpu::round_groups(step, groups, 2, rounded);
  const auto expect = [&](const auto& s, auto one, const ScalarGroup& group) {
    using T = decltype(one);
    EXPECT_EQ(s.rescale, static_cast<T>(step.rescale));
    EXPECT_EQ(s.clip, static_cast<T>(step.clip));
    EXPECT_EQ(s.beta1, static_cast<T>(0.9));
    EXPECT_EQ(s.beta2, static_cast<T>(0.999));
    EXPECT_EQ(s.lerp, static_cast<T>(1 - 0.9));  // from double, not 1 - beta1 of T
    EXPECT_EQ(s.one_minus_beta2, static_cast<T>(1 - 0.999));
    EXPECT_EQ(s.eta, static_cast<T>(group.eta));
    EXPECT_EQ(s.lr, static_cast<T>(group.lr));
    EXPECT_EQ(s.wd, static_cast<T>(group.wd));
    EXPECT_EQ(s.epsilon, static_cast<T>(group.epsilon));
    EXPECT_EQ(s.decay, static_cast<T>(1 - group.lr * group.wd));
    EXPECT_EQ(s.root, static_cast<T>(group.root));
  };
  for (int i : {0, 1}) {
    expect(rounded[i].f32, 1.0f, groups[i]);
    expect(rounded[i].f64, 1.0, groups[i]);
  }
  EXPECT_EQ(rounded[0].count, 4u);
  EXPECT_EQ(rounded[1].count, 9u);
}

TEST(Step, TakesCountsOfMoreThan32Bits) {
  Random random(6);
  using Arrays = testing::Arrays<DTypeConfig::bfloat16>;
  Arrays large(1000, random), small(large);
  const StepScalars step{1, INFINITY, 0.9, 0.999};
  for (Arrays* arrays : {&large, &small}) {
    TensorList list(Rule::mxnet, {{DTypeConfig::bfloat16, 1000, arrays->addresses()}});
    list.set_grads({arrays->data<Role::grad>()});
    list.set_groups({0}, 1);
    const ScalarGroup group{1e-3, 1, 0,
                            1e-8, 1, arrays == &large ? 0x1p32 + 7 : 7};  // the generator takes the lower half
    cpu::GroupScalars scalars;
    cpu::round_groups(step, &group, 1, &scalars);
    cpu::step(list, *cpu::variants().front(), &scalars, 0, 1, 1);
  }
  EXPECT_TRUE(large.equals(small));
}

}  // namespace
}  // namespace fused_adamw
