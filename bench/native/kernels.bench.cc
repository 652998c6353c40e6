// The kernels and the whole step in C++, with Google Benchmark and without Node.
//
//   cmake -S . -B build-bench -DFUSED_ADAMW_BENCH=ON && cmake --build build-bench
//   build-bench/native_bench --isa=avx512,avx2 --threads=1,2 --sizes=4096,16777216 --dtypes=float32,bfloat16
//   build-bench/native_bench --tensors=10000 --sizes=64
//
//   --isa=LIST      instruction sets; default: all that this machine runs
//   --threads=LIST  default: 1 and all processors
//   --threading=LIST  openmp, team; default: openmp where there is a library of it, else team
//   --sizes=LIST    elements of each tensor; default: 4096,1048576,16777216
//   --tensors=N     tensors of that size; default: 1
//   --dtypes=LIST   dtype configurations (native/core/dtype-configs.def); default: float32
//   --memory=NAME   ours (default): placed as lib/tensor/ does; malloc: as malloc places it
//   --rule=NAME     mxnet (default), coupled or pytorch
//
// and Google Benchmark's own options, such as --benchmark_repetitions=9 or
// --benchmark_enable_random_interleaving=true. Each size is measured with every
// instruction set and, as the machine's limit, with plain streams of the same bytes.
#include <benchmark/benchmark.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <sstream>
#include <string>

#include "../../native/cpu/processors.h"
#include "../../native/cpu/step.h"
#include "../../native/cpu/threads.h"
#include "stream.h"

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace {

using namespace fused_adamw;

[[noreturn]] void fail(const std::string& expected, const std::string& name, const std::string& received) {
  std::fprintf(stderr, "Expected %s for %s but received %s\n", expected.c_str(), name.c_str(), received.c_str());
  std::exit(1);
}

std::vector<std::string> split(const std::string& list) {
  std::vector<std::string> parts;
  std::istringstream stream(list);
  for (std::string part; std::getline(stream, part, ',');) parts.push_back(part);
  return parts;
}

std::vector<size_t> numbers(const std::string& list, const char* name) {
  std::vector<size_t> values;
  for (const std::string& part : split(list)) {
    char* end = nullptr;
    const unsigned long long value = std::strtoull(part.c_str(), &end, 10);
    if (value == 0 || *end != '\0') fail("whole numbers of at least 1", name, part);
    values.push_back(value);
  }
  return values;
}

struct Options {
  std::vector<const cpu::Variant*> isas = cpu::variants();
  std::vector<size_t> threads{1, static_cast<size_t>(cpu::available_processors())};
  std::vector<cpu::Runtime> runtimes{cpu::runtime()};
  std::vector<size_t> sizes{4096, 1024 * 1024, 16 * 1024 * 1024};
  std::vector<DTypeConfig> configs{DTypeConfig::float32};
  size_t tensors = 1;
  Rule rule = Rule::mxnet;
  bool plain_malloc = false;

  /// Each number of threads with each runtime; one thread needs none.
  std::vector<std::pair<size_t, cpu::Runtime>> threadings() const {
    std::vector<std::pair<size_t, cpu::Runtime>> all;
    for (size_t count : threads)
      for (cpu::Runtime runtime : runtimes)
        if (count > 1 || runtime == runtimes.front()) all.emplace_back(count, runtime);
    return all;
  }
};

/// Takes our options out of the arguments and leaves those of Google Benchmark.
Options read_options(int& count, char** arguments) {
  Options options;
  int kept = 1;
  for (int i = 1; i < count; ++i) {
    const std::string argument = arguments[i];
    const size_t equals = argument.find('=');
    const std::string name = argument.substr(0, equals),
                      value = equals == std::string::npos ? "" : argument.substr(equals + 1);
    if (name == "--isa") {
      options.isas.clear();
      for (const std::string& isa : split(value)) {
        const cpu::Variant* variant = cpu::find_variant(isa);
        if (!variant) fail("an instruction set of this machine", name, isa);
        options.isas.push_back(variant);
      }
    } else if (name == "--threads") {
      options.threads = numbers(value, "--threads");
    } else if (name == "--threading") {
      options.runtimes.clear();
      for (const std::string& runtime : split(value)) {
        if (runtime != "openmp" && runtime != "team") fail("openmp or team", name, runtime);
        options.runtimes.push_back(runtime == "openmp" ? cpu::Runtime::openmp : cpu::Runtime::team);
        const std::string reason = cpu::unusable(options.runtimes.back());
        if (!reason.empty()) fail("a usable runtime", name, runtime + " (" + reason + ")");
      }
    } else if (name == "--sizes") {
      options.sizes = numbers(value, "--sizes");
    } else if (name == "--tensors") {
      const auto tensors = numbers(value, "--tensors");
      if (tensors.size() != 1) fail("one number", name, value);
      options.tensors = tensors[0];
    } else if (name == "--dtypes") {
      options.configs.clear();
      for (const std::string& config : split(value)) {
        const auto* found = std::find_if(std::begin(kDTypeConfigInfo), std::end(kDTypeConfigInfo),
                                         [&](const DTypeConfigInfo& is) { return config == is.name; });
        if (found == std::end(kDTypeConfigInfo)) fail("the name of a dtype configuration", name, config);
        options.configs.push_back(static_cast<DTypeConfig>(found - kDTypeConfigInfo));
      }
    } else if (name == "--memory") {
      if (value != "ours" && value != "malloc") fail("ours or malloc", name, value);
      options.plain_malloc = value == "malloc";
    } else if (name == "--rule") {
      const auto* found = std::find(std::begin(kRuleNames), std::end(kRuleNames), value);
      if (found == std::end(kRuleNames)) fail("mxnet, coupled or pytorch", name, value);
      options.rule = static_cast<Rule>(found - kRuleNames);
    } else {
      arguments[kept++] = arguments[i];
    }
  }
  count = kept;
  return options;
}

/// Arrays placed as lib/tensor/ places them (aligned, staggered by 16 KiB, on huge pages if possible), or by malloc.
class Memory {
 public:
  explicit Memory(bool plain_malloc) : plain_malloc_(plain_malloc) {}
  ~Memory() {
    for (void* block : blocks_) std::free(block);
  }
  void* array(size_t bytes) {
    if (plain_malloc_) {
      void* array = std::malloc(bytes);
      if (!array) throw std::bad_alloc();
      blocks_.push_back(array);
      return std::memset(array, 0, bytes);
    }
    constexpr size_t kWindow = 256 * 1024, kSlot = 16 * 1024, kHugePage = 2 * 1024 * 1024;
    const bool large = bytes >= 1024 * 1024;
    const size_t alignment = large ? kHugePage : 64, needed = bytes + (large ? kWindow : 0);
    void* block = std::aligned_alloc(alignment, (needed + alignment - 1) / alignment * alignment);
    if (!block) throw std::bad_alloc();
    blocks_.push_back(block);
#if defined(__linux__)
    if (large) madvise(block, bytes + kWindow, MADV_HUGEPAGE);
#endif
    char* begin = static_cast<char*>(block) + (large ? slot_++ % (kWindow / kSlot) * kSlot : 0);
    return std::memset(begin, 0, bytes);
  }

 private:
  bool plain_malloc_;
  std::vector<void*> blocks_;
  size_t slot_ = 0;
};

TensorList make_list(Memory& memory, const Options& options, DTypeConfig config, size_t size) {
  std::vector<TensorArrays> tensors(options.tensors);
  std::vector<void*> grads;
  for (TensorArrays& tensor : tensors) {
    tensor.config = config;
    tensor.length = size;
    for (const Role role : kEveryRole)
      if (role_bytes(config, role) > 0) tensor.arrays[role] = memory.array(size * role_bytes(config, role));
    grads.push_back(tensor.arrays[Role::grad]);
  }
  TensorList list(options.rule, std::move(tensors));
  list.set_grads(grads);
  list.set_groups(std::vector<uint32_t>(options.tensors), 1);
  return list;
}

template <typename Pass>
void measure(benchmark::State& state, const Options& options, DTypeConfig config, size_t size, const Pass& pass) {
  Memory memory(options.plain_malloc);
  const TensorList list = make_list(memory, options, config, size);
  pass(list);
  for (auto _ : state) pass(list);
  size_t bytes = 0;  // of memory that an element takes: each array is read, and most are written
  for (const Role role : kEveryRole) bytes += (is_written(role) ? 2 : 1) * role_bytes(config, role);
  const auto elements = static_cast<int64_t>(state.iterations() * size * options.tensors);
  state.SetItemsProcessed(elements);
  state.SetBytesProcessed(elements * static_cast<int64_t>(bytes));
}

void register_benchmarks(const Options& options) {
  for (DTypeConfig config : options.configs)
    for (size_t size : options.sizes)
      for (const auto& [threads, runtime] : options.threadings()) {
        const auto add = [&, threads = threads, runtime = runtime](const std::string& what, auto pass) {
          const std::string name = what + "/" + info(config).name + "/" + std::to_string(options.tensors) + "x" +
                                   std::to_string(size) + "/threads:" + std::to_string(threads) +
                                   (threads == 1                      ? ""
                                    : runtime == cpu::Runtime::openmp ? "/openmp"
                                                                      : "/team");
          benchmark::RegisterBenchmark(name.c_str(), [=, &options](benchmark::State& state) {
            cpu::set_runtime(&runtime);
            measure(state, options, config, size, pass);
          })->UseRealTime();
        };
        for (const cpu::Variant* variant : options.isas)
          add(variant->name, [=, threads = threads](const TensorList& list) {
            cpu::GroupScalars scalars;
            const ScalarGroup group{0.001, 1, 0.01, 1e-6, 1, 1};
            cpu::round_groups({1, INFINITY, 0.9, 0.999}, &group, 1, &scalars);
            cpu::step(list, *variant, &scalars, 0, list.size(), static_cast<int>(threads));
          });
        for (const bench::StreamVariant& variant : bench::kStreamVariants)
          add(variant.name, [=, &variant, threads = threads](const TensorList& list) {
            bench::stream(list, variant, static_cast<int>(threads));
          });
      }
}

}  // namespace

int main(int count, char** arguments) {
  const Options options = read_options(count, arguments);
  benchmark::Initialize(&count, arguments);
  if (benchmark::ReportUnrecognizedArguments(count, arguments)) return 1;
  register_benchmarks(options);
  benchmark::RunSpecifiedBenchmarks();
  benchmark::Shutdown();
  return 0;
}
