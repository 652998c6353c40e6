// The floating-point environment, the thread team, and steps cut into chunks.
#include "cpu/threads.h"

#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <functional>
#include <memory>
#include <thread>

#include "cpu/float-environment.h"
#include "cpu/step.h"
#include "support.h"

namespace fused_adamw {
namespace {

using cpu::for_each_chunk;
using testing::Random;

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

TEST(FloatEnvironment, HoldsInEveryThreadOfATeam) {
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

TEST(ForEachChunk, CallsEachChunkOnce) {
  for (int threads = 1; threads <= 8; ++threads)
    for (size_t chunks : {0, 1, 2, 3, 7, 8, 9, 1000, 100000}) {
      std::vector<std::atomic<int>> calls(chunks);
      for_each_chunk(chunks, threads, [&](size_t chunk) { calls.at(chunk).fetch_add(1); });
      for (size_t chunk = 0; chunk < chunks; ++chunk)
        ASSERT_EQ(calls[chunk], 1) << chunk << " of " << chunks << ", threads: " << threads;
    }
}

TEST(ForEachChunk, UsesNoMoreThreadsThanItIsGiven) {
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

TEST(ForEachChunk, HelpsOneCallAtATime) {
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

TEST(ForEachChunk, DoesNotWaitForATeamThatIsTaken) {
  std::atomic<bool> inside{false}, returned{false};
  std::thread other([&] {
    while (!inside) std::this_thread::yield();
    for_each_chunk(1, 8, [](size_t) {});
    for_each_chunk(100, 1, [](size_t) {});
    for_each_chunk(100, 8, [](size_t) {});
    returned = true;
  });
  for_each_chunk(2, 2, [&](size_t) {
    inside = true;
    const auto limit = std::chrono::steady_clock::now() + std::chrono::seconds(20);
    while (!returned && std::chrono::steady_clock::now() < limit) std::this_thread::yield();
    EXPECT_TRUE(returned);
  });
  other.join();
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

TEST(Step, EqualsALoopOverTheTensors) {
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
