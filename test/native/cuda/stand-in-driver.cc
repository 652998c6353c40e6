// A stand-in for the CUDA driver, for tests on machines without a GPU: a
// libcuda.so.1 that keeps device memory in host memory and runs the kernels by
// step_thread() and the like, so that the whole host side is tested.
//
// It is as asynchronous as CUDA allows. Work waits in its stream and is run
// later by one thread, after random delays and in any order that the streams,
// the legacy default stream and the events permit. New device memory is filled
// with noise, and the host cannot access it except in a kernel.
//
// It is stricter than the driver: what CUDA leaves undefined, or merely makes
// slow, ends the process with a line that says what was wrong. Examples are
// freeing memory that queued work uses, using a destroyed event, addresses
// outside any allocation, calls without a context or in the wrong one, and calls
// that invalidate a stream capture.
//
// Environment variables, each prefixed with FUSED_ADAMW_STAND_IN_:
//   SEED            of the delays and of the order (default 1)
//   DELAY           longest delay in microseconds (default 200; 0: none)
//   DEVICES         0, 1 (default) or 2
//   MEMORY          bytes of each device (default 256 MiB)
//   P2P             whether devices reach each other's memory directly (default 1)
//   DRIVER_VERSION  default 13000
//   INIT            the status that cuInit returns (default 0; 100 without devices)
//   MODULE          the status that cuModuleLoadData returns (default 0)
//   KERNELS         a library whose kernels run instead of step_thread(), made by scripts/ptx-to-cc.mjs
//   FAIL            function:call:status: that call fails, the first being 1; with "+" after the number all later
//                   ones too. The function "callback" is the next stream callback, which receives the status
#include "stand-in-driver.h"

#include <dlfcn.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <random>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "cpu/float-environment.h"
#include "cuda/driver.h"
#include "host-kernels.h"
#include "ptx.h"

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#else
#define ASAN_POISON_MEMORY_REGION(address, size) static_cast<void>(0)
#define ASAN_UNPOISON_MEMORY_REGION(address, size) static_cast<void>(0)
#endif

using namespace fused_adamw;
using namespace fused_adamw::cuda;
using fused_adamw::cuda::testing::HostGradientKernel;
using fused_adamw::cuda::testing::HostKernel;
using fused_adamw::cuda::testing::HostStepKernel;
using fused_adamw::cuda::testing::kHostGradientKernels;
using fused_adamw::cuda::testing::kHostKernels;

#define EXPORT extern "C" __attribute__((visibility("default")))

namespace {

constexpr int kGlobalCapture = 0;  // CU_STREAM_CAPTURE_MODE_GLOBAL
constexpr Status kInvalidValue = 1;
constexpr Status kNotInitialized = 3;
constexpr Status kInvalidDevice = 101;
constexpr Status kInvalidImage = 200;
constexpr Status kPeerAccessUnsupported = 217;
constexpr Status kInvalidHandle = 400;
constexpr Status kNotFound = 500;
constexpr Status kCaptureUnsupported = 900;
constexpr Status kCaptureUnmatched = 903;

struct StatusText {
  Status status;
  const char *name, *text;
};
constexpr StatusText kStatusTexts[] = {
    {kSuccess, "CUDA_SUCCESS", "no error"},
    {kInvalidValue, "CUDA_ERROR_INVALID_VALUE", "invalid argument"},
    {kOutOfMemory, "CUDA_ERROR_OUT_OF_MEMORY", "out of memory"},
    {kNotInitialized, "CUDA_ERROR_NOT_INITIALIZED", "initialization error"},
    {kNoDevice, "CUDA_ERROR_NO_DEVICE", "no CUDA-capable device is detected"},
    {kInvalidDevice, "CUDA_ERROR_INVALID_DEVICE", "invalid device ordinal"},
    {kInvalidImage, "CUDA_ERROR_INVALID_IMAGE", "device kernel image is invalid"},
    {209, "CUDA_ERROR_NO_BINARY_FOR_GPU", "no kernel image is available for execution on the device"},
    {kPeerAccessUnsupported, "CUDA_ERROR_PEER_ACCESS_UNSUPPORTED",
     "peer access is not supported between these two devices"},
    {kPeerAccessAlreadyEnabled, "CUDA_ERROR_PEER_ACCESS_ALREADY_ENABLED", "peer access is already enabled"},
    {kInvalidHandle, "CUDA_ERROR_INVALID_HANDLE", "invalid resource handle"},
    {kNotFound, "CUDA_ERROR_NOT_FOUND", "named symbol not found"},
    {kNotReady, "CUDA_ERROR_NOT_READY", "device not ready"},
    {700, "CUDA_ERROR_ILLEGAL_ADDRESS", "an illegal memory access was encountered"},
    {719, "CUDA_ERROR_LAUNCH_FAILED", "unspecified launch failure"},
    {kCaptureUnsupported, "CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED", "operation not permitted when stream is capturing"},
    {kCaptureUnmatched, "CUDA_ERROR_STREAM_CAPTURE_UNMATCHED", "the capture was not initiated in this stream"},
    {kCaptureImplicit, "CUDA_ERROR_STREAM_CAPTURE_IMPLICIT",
     "operation would make the legacy stream depend on a capturing blocking stream"},
    {kCapturedEvent, "CUDA_ERROR_CAPTURED_EVENT",
     "operation not permitted on an event last recorded in a capturing stream"},
    {803, "CUDA_ERROR_SYSTEM_DRIVER_MISMATCH", "system has unsupported display driver / cuda driver combination"},
};

[[noreturn]] void misuse(const std::string& what) {
  std::fprintf(stderr, "stand-in driver: %s\n", what.c_str());
  std::abort();
}

const char* setting(const char* name) { return std::getenv(("FUSED_ADAMW_STAND_IN_" + std::string(name)).c_str()); }
size_t number(const char* name, size_t otherwise) {
  const char* text = setting(name);
  return text ? std::strtoull(text, nullptr, 10) : otherwise;
}

std::string hexadecimal(uint64_t value) {
  char text[24];
  std::snprintf(text, sizeof text, "0x%llx", static_cast<unsigned long long>(value));
  return text;
}

// ---- Device memory ----

/// The memory of a device, mapped twice: at the addresses that programs see,
/// accessible only while a kernel runs, and again for the stand-in itself.
class Arena {
 public:
  explicit Arena(size_t capacity) : capacity_(capacity), size_(std::max(capacity, kPage) / kPage * kPage * 4) {
    const int file = memfd_create("device memory", 0);
    if (file < 0 || ftruncate(file, static_cast<off_t>(size_)) != 0) misuse("there is no memory for the device's");
    seen_ = map_file(file, PROT_NONE);
    alias_ = map_file(file, PROT_READ | PROT_WRITE);
    close(file);
    ASAN_POISON_MEMORY_REGION(seen_, size_);
  }

  /// 0 where there is no room.
  DevicePointer allocate(size_t bytes, ContextHandle context, bool is_managed = false) {
    if (bytes > capacity_ - used_) return 0;
    // After the previous allocation, so that freed memory is not reused soon.
    const size_t start = find_room(next_, bytes);
    if (start == kNone) return 0;
    next_ = start + bytes;
    used_ += bytes;
    allocations_[start] = {bytes, context, is_managed};
    ASAN_UNPOISON_MEMORY_REGION(seen_ + start, bytes);
    std::memset(alias_ + start, 0xb7, bytes);
    return pointer(start);
  }

  void free(DevicePointer pointer) {
    const auto found = allocations_.find(offset(pointer));
    used_ -= found->second.bytes;
    ASAN_POISON_MEMORY_REGION(seen_ + found->first, found->second.bytes);
    const size_t begin = (found->first + kPage - 1) / kPage * kPage;
    const size_t end = (found->first + found->second.bytes) / kPage * kPage;
    if (end > begin + 16 * kPage) madvise(alias_ + begin, end - begin, MADV_REMOVE);
    allocations_.erase(found);
  }

  // Ranges that are reserved as a whole and mapped in chunks.
  DevicePointer reserve(size_t bytes) {
    const size_t start = find_room(next_, bytes);
    if (start == kNone) return 0;
    next_ = start + bytes;
    allocations_[start] = {bytes, nullptr, false, true, {}};
    return pointer(start);
  }
  void map(DevicePointer address, size_t bytes) {
    used_ += bytes;
    ASAN_UNPOISON_MEMORY_REGION(seen_ + offset(address), bytes);
    block(offset(address)).mapped[offset(address)] = bytes;
  }
  void unmap(DevicePointer address) {
    auto& mapped = block(offset(address)).mapped;
    used_ -= mapped.at(offset(address));
    ASAN_POISON_MEMORY_REGION(seen_ + offset(address), mapped.at(offset(address)));
    mapped.erase(offset(address));
  }
  void unreserve(DevicePointer address) { allocations_.erase(offset(address)); }

  struct Allocation {
    DevicePointer start;
    size_t bytes;
    ContextHandle context;
    bool is_managed;
  };
  /// The allocation or reserved range that holds these bytes, all of them mapped; its start is 0 where there is none.
  Allocation find(DevicePointer address, size_t bytes) const {
    const size_t at = offset(address);
    if (at >= size_) return {};
    const auto found = containing(at);
    if (found == allocations_.end()) return {};
    const size_t within = at - found->first;
    if (within >= found->second.bytes || bytes > found->second.bytes - within) return {};
    for (size_t i = at; i < at + bytes;) {
      const Range range = mapped(found, i);
      if (range.bytes == 0) return {};
      i = range.begin + range.bytes;
    }
    return {pointer(found->first), found->second.bytes, found->second.context, found->second.is_managed};
  }

  /// What was mapped at once to an address; its size is 0 where nothing is.
  Allocation find_mapped(DevicePointer address) const {
    const auto found = find(address, 1).start ? containing(offset(address)) : allocations_.end();
    if (found == allocations_.end()) return {};
    const Range range = mapped(found, offset(address));
    return {pointer(range.begin), range.bytes, found->second.context, found->second.is_managed};
  }

  /// Where the stand-in reads and writes what lies at a device's address.
  char* host(DevicePointer address) const { return alias_ + offset(address); }
  void open() const { mprotect(seen_, size_, PROT_READ | PROT_WRITE); }
  void shut() const { mprotect(seen_, size_, PROT_NONE); }
  size_t used() const { return used_; }
  size_t count() const { return allocations_.size(); }

 private:
  struct Block {
    size_t bytes;
    ContextHandle context;
    bool is_managed = false;
    bool is_reserved = false;
    std::map<size_t, size_t> mapped{};  // bytes by start, of a reserved range
  };
  struct Range {
    size_t begin, bytes;
  };
  /// Also one that ends before the place.
  std::map<size_t, Block>::const_iterator containing(size_t at) const {
    const auto next = allocations_.upper_bound(at);
    return next == allocations_.begin() ? allocations_.end() : std::prev(next);
  }
  Block& block(size_t at) { return std::prev(allocations_.upper_bound(at))->second; }
  static Range mapped(std::map<size_t, Block>::const_iterator block, size_t at) {
    if (!block->second.is_reserved) return {block->first, block->second.bytes};
    const auto next = block->second.mapped.upper_bound(at);
    if (next == block->second.mapped.begin()) return {};
    const auto [begin, bytes] = *std::prev(next);
    return at < begin + bytes ? Range{begin, bytes} : Range{};
  }
  static constexpr size_t kPage = 4096, kNone = SIZE_MAX;
  static constexpr size_t kAlignment = 256;  // of cuMemAlloc

  char* map_file(int file, int protection) const {
    void* mapped = mmap(nullptr, size_, protection, MAP_SHARED | MAP_NORESERVE, file, 0);
    if (mapped == MAP_FAILED) misuse("there is no memory for the device's");
    return static_cast<char*>(mapped);
  }
  DevicePointer pointer(size_t at) const { return reinterpret_cast<uintptr_t>(seen_) + at; }
  size_t offset(DevicePointer pointer) const { return pointer - reinterpret_cast<uintptr_t>(seen_); }

  size_t find_room(size_t from, size_t bytes) const {
    for (const size_t begin : {from, size_t{0}}) {
      size_t at = begin;
      for (auto next = allocations_.lower_bound(begin);; ++next) {
        at = (at / kAlignment + 1) * kAlignment;  // a gap after each, and none at 0
        const size_t end = next == allocations_.end() ? size_ : next->first;
        if (at < end && end - at > bytes) return at;
        if (next == allocations_.end()) break;
        at = next->first + next->second.bytes;
      }
    }
    return kNone;
  }

  size_t capacity_, size_, used_ = 0, next_ = 0;
  char *seen_ = nullptr, *alias_ = nullptr;
  std::map<size_t, Block> allocations_;
};

// ---- Streams ----

struct Range {
  uintptr_t begin;
  size_t bytes;
};

/// A sequence of work that becomes a graph rather than running. Its work is
/// dropped here, as nothing launches graphs.
struct Capture {
  int mode;
  std::thread::id thread;
};

/// One item of a stream's queue. It runs when everything in `after` is done.
struct Work {
  const char* what;
  std::function<void()> run;  // null: an event
  std::vector<Range> uses;    // memory of host and devices
  std::vector<std::shared_ptr<Work>> after;
  bool done = false;
  std::shared_ptr<Capture> capture;  // null: it is run
};

}  // namespace

struct CUstream_st {
  ContextHandle context;
  bool blocking;  // synchronises with the legacy default stream
  std::deque<std::shared_ptr<Work>> queue;
  std::shared_ptr<Work> last;
  unsigned long long id = 0;
  std::shared_ptr<Capture> capture{};  // null: its work is run
};
struct CUevent_st {
  ContextHandle context;
  std::shared_ptr<Work> recorded;  // null before the first
};
struct CUctx_st {
  int device;
  CUstream_st legacy{this, false, {}, nullptr};
  std::set<CUstream_st*> streams{};  // except the legacy one; those that were destroyed, too
  std::set<CUctx_st*> peers{};       // whose memory it reaches directly
};
struct CUmod_st {
  ContextHandle context;
};
/// One thread of a kernel that was translated from PTX.
using TranslatedThread = void(const char* parameters, uint32_t ctaid, uint32_t nctaid, uint32_t tid, ptx::Warp& warp);

struct CUfunc_st {
  ContextHandle context;
  const HostKernel* kernel;
  const HostStepKernel* step;  // one of these two
  const HostGradientKernel* gradient;
  TranslatedThread* translated;  // null: the host's own kernel runs
};

namespace {

struct Failure {
  std::string function;
  unsigned after = 0;
  Status status = kSuccess;
  bool forever = false;
};

/// The state of the driver. Never destroyed, as its thread runs to the end of the process.
struct State {
  std::mutex mutex;
  std::condition_variable changed;
  bool initialised = false, paused = false;
  std::mt19937_64 random{number("SEED", 1)};
  const size_t longest_delay = number("DELAY", 200);

  struct Gpu {
    Arena arena;
    CUctx_st primary;
    Gpu(int ordinal, size_t memory) : arena(memory), primary{ordinal} {}
  };
  std::vector<std::unique_ptr<Gpu>> gpus;
  std::set<ContextHandle> contexts;
  std::map<StreamHandle, CUstream_st*> streams;  // by handle
  std::vector<StreamHandle> free_handles;        // of destroyed streams, the next ones to be used
  unsigned long long last_stream_id = 0;
  std::set<EventHandle> events;
  std::set<CUmod_st*> modules;
  std::set<FunctionHandle> functions;
  std::map<uintptr_t, size_t> pinned;
  std::map<std::string, unsigned long long> calls;
  Failure failure;

  State() {
    for (size_t i = 0; i < number("DEVICES", 1); ++i) {
      gpus.push_back(std::make_unique<Gpu>(static_cast<int>(i), number("MEMORY", size_t{256} << 20)));
      contexts.insert(&gpus.back()->primary);
    }
    if (const char* text = setting("FAIL")) {
      char function[64] = "", plus[2] = "";
      unsigned call = 0;
      int status = 0;
      if (std::sscanf(text, "%63[^:]:%u%1[+]:%d", function, &call, plus, &status) != 4 &&
          std::sscanf(text, "%63[^:]:%u:%d", function, &call, &status) != 3)
        misuse("FUSED_ADAMW_STAND_IN_FAIL is function:call:status");
      failure = {function, call - 1, status, *plus == '+'};
    }
    std::thread([this] { work(); }).detach();
  }

  // -- the thread that runs queued work

  static bool is_ready(const CUstream_st& stream) {
    const auto is_done = [](const auto& work) { return work->done; };
    return !stream.queue.empty() &&
           std::all_of(stream.queue.front()->after.begin(), stream.queue.front()->after.end(), is_done);
  }
  StreamHandle choose() {
    std::vector<StreamHandle> ready;
    for (ContextHandle context : contexts) {
      if (is_ready(context->legacy)) ready.push_back(&context->legacy);
      for (StreamHandle stream : context->streams)
        if (is_ready(*stream)) ready.push_back(stream);
    }
    return ready.empty() ? nullptr : ready[random() % ready.size()];
  }
  void work() {
    const FloatEnvironment environment;
    std::unique_lock lock(mutex);
    for (;;) {
      StreamHandle stream = nullptr;
      changed.wait(lock, [&] { return !paused && (stream = choose()); });
      if (const uint64_t dice = random(); longest_delay > 0 && dice % 8 == 0) {
        lock.unlock();  // more may be queued meanwhile
        std::this_thread::sleep_for(std::chrono::microseconds(dice / 8 % (longest_delay + 1)));
        lock.lock();
        if (paused || !(stream = choose())) continue;
      }
      const std::shared_ptr<Work> first = stream->queue.front();
      if (first->run) {
        lock.unlock();
        first->run();
        lock.lock();
      }
      first->run = nullptr;
      first->after.clear();
      first->done = true;
      stream->queue.pop_front();
      changed.notify_all();
    }
  }

  // -- the queues

  std::shared_ptr<Work> enqueue(CUstream_st& stream, const char* what, std::function<void()> run,
                                std::vector<Range> uses, std::shared_ptr<Work> other = nullptr) {
    auto added = std::make_shared<Work>();
    added->what = what;
    added->run = std::move(run);
    added->uses = std::move(uses);
    if (stream.capture) {
      added->capture = stream.capture;
      return added;
    }
    const auto comes_after = [&](const std::shared_ptr<Work>& work) {
      if (work && !work->done) added->after.push_back(work);
    };
    comes_after(stream.last);
    comes_after(other);
    if (&stream == &stream.context->legacy) {
      if (captures_a_blocking_stream(stream.context))
        misuse(std::string(what) + " on the legacy stream while a blocking stream is being captured");
      for (StreamHandle each : stream.context->streams)
        if (each->blocking) comes_after(each->last);
    } else if (stream.blocking) {
      comes_after(stream.context->legacy.last);
    }
    stream.last = added;
    stream.queue.push_back(added);
    changed.notify_all();
    return added;
  }

  static bool captures_a_blocking_stream(ContextHandle context) {
    return std::any_of(context->streams.begin(), context->streams.end(),
                       [](StreamHandle each) { return each->blocking && each->capture; });
  }

  template <class Visit>
  void for_each_stream(const Visit& visit) const {
    for (ContextHandle context : contexts) {
      visit(context->legacy);
      for (StreamHandle stream : context->streams) visit(*stream);
    }
  }

  /// Queued work must not use the memory.
  void expect_unused(uintptr_t begin, size_t bytes, const char* function) const {
    for_each_stream([&](const CUstream_st& stream) {
      for (const auto& work : stream.queue)
        for (const Range& use : work->uses)
          if (use.begin < begin + bytes && begin < use.begin + use.bytes)
            misuse(std::string(function) + " of memory that " + work->what + " in a queue still uses");
    });
  }

  // -- memory

  const Gpu* gpu_of(DevicePointer address, size_t bytes) const {
    for (const auto& gpu : gpus)
      if (gpu->arena.find(address, bytes).start) return gpu.get();
    return nullptr;
  }
  char* host(DevicePointer address, size_t bytes, const char* function) const {
    const Gpu* gpu = gpu_of(address, bytes);
    if (!gpu)
      misuse(std::string(function) + ": " + std::to_string(bytes) + " bytes at " + hexadecimal(address) +
             " are not within an allocation");
    return gpu->arena.host(address);
  }
  bool is_pinned(const void* address, size_t bytes) const {
    const auto at = reinterpret_cast<uintptr_t>(address);
    auto found = pinned.upper_bound(at);
    if (found == pinned.begin()) return false;
    --found;
    return at + bytes <= found->first + found->second;
  }

  unsigned long long count(const std::string& name) const {
    unsigned long long sum = 0;
    if (name == "bytes" || name == "allocations") {
      for (const auto& gpu : gpus) sum += name == "bytes" ? gpu->arena.used() : gpu->arena.count();
      return sum;
    }
    if (name == "pinned") return pinned.size();
    if (name == "events") return events.size();
    if (name == "pending") {
      for_each_stream([&](const CUstream_st& stream) { sum += stream.queue.size(); });
      return sum;
    }
    const auto found = calls.find(name);
    return found == calls.end() ? 0 : found->second;
  }
};

State& state() {
  static State& instance = *new State;
  return instance;
}

thread_local std::vector<ContextHandle> current;  // the last is on top
thread_local bool in_host_function = false;
thread_local int capture_mode = kGlobalCapture;

/// Null or CU_STREAM_LEGACY: the legacy stream of the current context.
bool is_legacy(StreamHandle stream) { return !stream || stream == reinterpret_cast<StreamHandle>(1); }

/// A call of the driver, which holds the lock until it returns.
class Call {
 public:
  explicit Call(const char* function) : function_(function), lock_(state().mutex) {
    if (in_host_function) misuse(std::string(function) + " was called in a host function");
    ++state().calls[function];
    Failure& failure = state().failure;
    if (failure.function != function) return;
    if (failure.after > 0) {
      --failure.after;
      return;
    }
    status_ = failure.status;
    if (!failure.forever) failure = {};
  }

  /// If not success, the call returns it at once.
  Status status() const { return status_; }
  std::unique_lock<std::mutex>& lock() { return lock_; }

  ContextHandle context() const {
    if (current.empty() || !current.back()) misuse(std::string(function_) + " without a current context");
    return current.back();
  }
  CUstream_st& stream(StreamHandle handle) const {
    if (is_legacy(handle)) return context()->legacy;
    const auto found = state().streams.find(handle);
    if (found == state().streams.end()) misuse(std::string(function_) + " on a stream that is not there");
    if (found->second->context != context())
      misuse(std::string(function_) + " on a stream of another context than the current one");
    return *found->second;
  }
  CUevent_st& event(EventHandle handle) const {
    context();
    if (!state().events.count(handle)) misuse(std::string(function_) + " of an event that is not there");
    return *handle;
  }
  void wait(const std::shared_ptr<Work>& work) {
    if (work) state().changed.wait(lock_, [&] { return work->done; });
  }
  const char* function() const { return function_; }

  /// Of a function that the driver counts as potentially unsafe during a capture.
  void expect_permitted() const {
    if (capture_mode == kRelaxedCapture) return;
    state().for_each_stream([&](const CUstream_st& stream) {
      if (!stream.capture || stream.capture->mode == kRelaxedCapture) return;
      if (stream.capture->thread == std::this_thread::get_id() ||
          (capture_mode == kGlobalCapture && stream.capture->mode == kGlobalCapture))
        misuse(std::string(function_) + " invalidates the capture of a stream");
    });
  }

 private:
  const char* function_;
  std::unique_lock<std::mutex> lock_;
  Status status_ = kSuccess;
};

#define CALL(name)                                     \
  Call call(#name);                                    \
  if (call.status() != kSuccess) return call.status(); \
  if (!state().initialised) return kNotInitialized;    \
  static_cast<void>(0)

/// Everything a launch accesses must be in allocations of its device, each array in one.
class Accesses {
 public:
  explicit Accesses(const Arena& arena) : arena_(arena) {}

  /// Where the stand-in reads what lies at an address that a kernel uses.
  template <typename T>
  const T* expect(const T* address, uint64_t count, const char* what) const {
    const auto pointer = reinterpret_cast<uintptr_t>(address);
    if (pointer % alignof(T) != 0) misuse(std::string(what) + " is misaligned");
    if (!arena_.find(pointer, count * sizeof(T)).start)
      misuse(std::string(what) + " at " + hexadecimal(pointer) + " is not within an allocation of its device");
    return reinterpret_cast<const T*>(arena_.host(pointer));
  }
  void expect_array(const void* address, uint64_t first, uint64_t count, size_t bytes, const std::string& what) const {
    if (reinterpret_cast<uintptr_t>(address) % bytes != 0) misuse(what + " is misaligned");
    expect(static_cast<const char*>(address) + first * bytes, count * bytes, what.c_str());
  }

 private:
  const Arena& arena_;
};

void check_step(const Accesses& accesses, const HostStepKernel& kernel, const StepTables& tables) {
  const auto check_items = [&](const WorkItem* items, uint32_t count) {
    if (count == 0) return;
    const WorkItem* table = accesses.expect(items, count, "a kernel's work items");
    for (uint32_t i = 0; i < count; ++i) {
      const WorkItem& item = table[i];
      const DeviceTensor tensor = *accesses.expect(tables.tensors + item.tensor, 1, "a kernel's tensors");
      const void* grad = *accesses.expect(tables.grads + item.tensor, 1, "a kernel's gradients");
      const uint32_t group = *accesses.expect(tables.group_of + item.tensor, 1, "a kernel's groups");
      if (tables.groups)
        accesses.expect(static_cast<const char*>(tables.groups) + group * kernel.group_bytes, kernel.group_bytes,
                        "a kernel's scalars");
      else if (sizeof tables + (group + 1) * kernel.group_bytes > kernel.parameter_bytes)
        misuse("a kernel's group is not among its parameters");
      for (const Role role : kEveryRole)
        if (const size_t bytes = role_bytes(kernel.config, role); bytes > 0)
          accesses.expect_array(role == Role::grad ? grad : tensor.arrays[role], item.start, item.length, bytes,
                                std::string("a kernel's ") + kRoleNames[static_cast<int>(role)]);
    }
  };
  check_items(tables.block_items, tables.block_item_count);
  check_items(tables.warp_items, tables.warp_item_count);
}

void check_norm(const Accesses& accesses, const NormParameters& parameters) {
  const uint32_t tensors = parameters.tensor_count;
  const uint32_t items = accesses.expect(parameters.starts, tensors + 1, "a norm's starts")[tensors];
  accesses.expect(parameters.of_items, items, "a norm's sums of items");
  accesses.expect(parameters.of_tensors, tensors, "a norm's sums of tensors");
  const NormItem* table = items > 0 ? accesses.expect(parameters.items, items, "a norm's items") : nullptr;
  for (uint32_t i = 0; i < items; ++i) {
    constexpr size_t kBytes[] = {sizeof(float), sizeof(double), sizeof(Float16), sizeof(BFloat16)};  // by GradType
    accesses.expect_array(*accesses.expect(parameters.grads + table[i].tensor, 1, "a norm's gradients"), table[i].start,
                          table[i].length, kBytes[static_cast<int>(table[i].type)], "a norm's gradient");
  }
}

void check_decision(const Accesses& accesses, const DecisionParameters& parameters) {
  accesses.expect(parameters.of_tensors, parameters.tensor_count, "a decision's sums");
  accesses.expect(parameters.decision, 1, "a decision");
  if (parameters.scale) accesses.expect(parameters.scale, 1, "a decision's scale");
  const auto check_groups = [&](const auto* candidates, const auto* chosen) {
    if (!candidates) return;
    accesses.expect(candidates, kMostCandidates * parameters.group_count, "a decision's candidates");
    accesses.expect(chosen, parameters.group_count, "a decision's scalars");
  };
  check_groups(parameters.candidates_f32, parameters.chosen_f32);
  check_groups(parameters.candidates_f64, parameters.chosen_f64);
}

void check_accumulate(const Accesses& accesses, const AccumulateParameters& parameters, unsigned blocks) {
  const AccumulateItem* items = accesses.expect(parameters.items, blocks, "the items of sums");
  for (unsigned i = 0; i < blocks; ++i) {
    const AccumulateItem& item = items[i];
    const ArrayPair arrays = *accesses.expect(parameters.arrays + item.tensor, 1, "the arrays of sums");
    accesses.expect_array(arrays.into, item.start, item.length, kAccumulationBytes[item.dtypes].into, "a sum");
    accesses.expect_array(arrays.grad, item.start, item.length, kAccumulationBytes[item.dtypes].grad,
                          "what a sum adds");
  }
}

template <typename T>
T read_parameters(const std::string& parameters) {
  T value;
  std::memcpy(&value, parameters.data(), sizeof value);
  return value;
}

void check_launch(const Arena& arena, const CUfunc_st& function, const std::string& parameters, unsigned blocks) {
  const std::lock_guard lock(state().mutex);
  const Accesses accesses(arena);
  if (function.step) return check_step(accesses, *function.step, read_parameters<StepTables>(parameters));
  switch (function.gradient->kernel) {
    case GradientKernel::sum_items:
    case GradientKernel::sum_tensors:
      return check_norm(accesses, read_parameters<NormParameters>(parameters));
    case GradientKernel::decide:
    case GradientKernel::choose_scalars:
      return check_decision(accesses, read_parameters<DecisionParameters>(parameters));
    case GradientKernel::accumulate:
      return check_accumulate(accesses, read_parameters<AccumulateParameters>(parameters), blocks);
  }
}

/// The tables of a launch; the arrays are checked when it runs.
std::vector<Range> tables_of(const CUfunc_st& function, const std::string& parameters) {
  std::vector<Range> uses;
  const auto add = [&](std::initializer_list<const void*> tables) {
    for (const void* table : tables)
      if (table) uses.push_back({reinterpret_cast<uintptr_t>(table), 1});
  };
  if (function.step) {
    const auto tables = read_parameters<StepTables>(parameters);
    add({tables.tensors, tables.grads, tables.group_of, tables.groups, tables.decision});
    return uses;
  }
  switch (function.gradient->kernel) {
    case GradientKernel::sum_items:
    case GradientKernel::sum_tensors: {
      const auto norm = read_parameters<NormParameters>(parameters);
      add({norm.grads, norm.items, norm.of_items});
      break;
    }
    case GradientKernel::decide:
    case GradientKernel::choose_scalars: {
      const auto decision = read_parameters<DecisionParameters>(parameters);
      add({decision.of_tensors, decision.decision, decision.scale, decision.candidates_f32, decision.candidates_f64});
      break;
    }
    case GradientKernel::accumulate: {
      const auto sums = read_parameters<AccumulateParameters>(parameters);
      add({sums.arrays, sums.items});
      break;
    }
  }
  return uses;
}

TranslatedThread* find_translated(const char* name) {
  const char* path = setting("KERNELS");
  if (!path) return nullptr;
  static void* const library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
  if (!library) misuse(std::string("there are no kernels: ") + dlerror());
  void* const found = dlsym(library, name);
  if (!found) misuse(std::string(path) + " has no " + name);
  return reinterpret_cast<TranslatedThread*>(found);
}

void run_kernel(const Arena& arena, const CUfunc_st& function, const std::string& parameters, unsigned blocks) {
  check_launch(arena, function, parameters, blocks);
  alignas(16) char aligned[kParameterBytes];
  std::memcpy(aligned, parameters.data(), parameters.size());
  arena.open();
  const unsigned first = blocks / 3;  // no block may rely on another being done
  for (unsigned i = 0; i < blocks; ++i) {
    const unsigned block = (first + i) % blocks;
    if (!function.translated) {
      function.kernel->run_block(aligned, block);
      continue;
    }
    for (unsigned first_thread = 0; first_thread < kBlock; first_thread += kWarp) {
      ptx::Warp warp;
      warp.run([&](unsigned lane) { function.translated(aligned, block, blocks, first_thread + lane, warp); });
    }
  }
  arena.shut();
}

}  // namespace

// ---- The driver's functions ----

EXPORT Status cuInit(unsigned) {
  Call call("cuInit");
  if (call.status() != kSuccess) return call.status();
  const auto status = static_cast<Status>(number("INIT", state().gpus.empty() ? kNoDevice : kSuccess));
  state().initialised = status == kSuccess;
  return status;
}

EXPORT Status cuDriverGetVersion(int* version) {
  Call call("cuDriverGetVersion");
  *version = static_cast<int>(number("DRIVER_VERSION", 13000));
  return call.status();
}

EXPORT Status cuGetErrorName(Status status, const char** name) {
  *name = nullptr;
  for (const StatusText& each : kStatusTexts)
    if (each.status == status) *name = each.name;
  return *name ? kSuccess : kInvalidValue;
}

EXPORT Status cuGetErrorString(Status status, const char** text) {
  *text = nullptr;
  for (const StatusText& each : kStatusTexts)
    if (each.status == status) *text = each.text;
  return *text ? kSuccess : kInvalidValue;
}

EXPORT Status cuDeviceGetCount(int* count) {
  CALL(cuDeviceGetCount);
  *count = static_cast<int>(state().gpus.size());
  return kSuccess;
}

EXPORT Status cuDeviceGet(DeviceHandle* device, int ordinal) {
  CALL(cuDeviceGet);
  if (ordinal < 0 || static_cast<size_t>(ordinal) >= state().gpus.size()) return kInvalidDevice;
  *device = ordinal;
  return kSuccess;
}

EXPORT Status cuDeviceGetName(char* name, int length, DeviceHandle device) {
  CALL(cuDeviceGetName);
  std::snprintf(name, static_cast<size_t>(length), "Stand-in %d", device);
  return kSuccess;
}

EXPORT Status cuDeviceGetAttribute(int* value, int attribute, DeviceHandle device) {
  CALL(cuDeviceGetAttribute);
  switch (attribute) {
    case kComputeCapabilityMajor:
      *value = device == 0 ? 9 : 7;
      return kSuccess;
    case kComputeCapabilityMinor:
      *value = device == 0 ? 0 : 5;
      return kSuccess;
    default:
      return kInvalidValue;
  }
}

EXPORT Status cuDeviceTotalMem_v2(size_t* bytes, DeviceHandle) {
  CALL(cuDeviceTotalMem_v2);
  *bytes = number("MEMORY", size_t{256} << 20);
  return kSuccess;
}

EXPORT Status cuDeviceCanAccessPeer(int* can_access, DeviceHandle device, DeviceHandle peer) {
  CALL(cuDeviceCanAccessPeer);
  *can_access = device != peer && number("P2P", 1) != 0;
  return kSuccess;
}

EXPORT Status cuCtxEnablePeerAccess(ContextHandle peer, unsigned) {
  CALL(cuCtxEnablePeerAccess);
  if (number("P2P", 1) == 0) return kPeerAccessUnsupported;
  return call.context()->peers.insert(peer).second ? kSuccess : kPeerAccessAlreadyEnabled;
}

EXPORT Status cuDevicePrimaryCtxRetain(ContextHandle* context, DeviceHandle device) {
  CALL(cuDevicePrimaryCtxRetain);
  call.expect_permitted();
  *context = &state().gpus[static_cast<size_t>(device)]->primary;
  return kSuccess;
}

EXPORT Status cuDevicePrimaryCtxRelease_v2(DeviceHandle device) {
  CALL(cuDevicePrimaryCtxRelease_v2);
  if (state().calls["cuDevicePrimaryCtxRetain"] < state().calls["cuDevicePrimaryCtxRelease_v2"])
    misuse("cuDevicePrimaryCtxRelease of a context that is not retained, device " + std::to_string(device));
  return kSuccess;
}

EXPORT Status cuCtxPushCurrent_v2(ContextHandle context) {
  CALL(cuCtxPushCurrent_v2);
  if (!state().contexts.count(context)) misuse("cuCtxPushCurrent of a context that is not there");
  current.push_back(context);
  return kSuccess;
}

EXPORT Status cuCtxPopCurrent_v2(ContextHandle* context) {
  CALL(cuCtxPopCurrent_v2);
  *context = call.context();
  current.pop_back();
  return kSuccess;
}

EXPORT Status cuModuleLoadData(CUmod_st** module, const void* image) {
  CALL(cuModuleLoadData);
  call.expect_permitted();
  constexpr uint32_t kMagic = 0xba55ed50;
  struct {
    uint32_t magic;
    uint16_t version, header_bytes;
    uint64_t bytes;
  } header;
  if (const auto status = static_cast<Status>(number("MODULE", kSuccess))) return status;
  std::memcpy(&header, image, sizeof header);
  if (header.magic != kMagic) return kInvalidImage;
  const std::string content(static_cast<const char*>(image), header.header_bytes + header.bytes);
  if (content.find("fused-adamw device code") == std::string::npos) return kInvalidImage;
  *module = new CUmod_st{call.context()};
  state().modules.insert(*module);
  return kSuccess;
}

EXPORT Status cuModuleGetFunction(FunctionHandle* function, CUmod_st* module, const char* name) {
  CALL(cuModuleGetFunction);
  if (!state().modules.count(module)) misuse("cuModuleGetFunction of a module that is not there");
  const auto found = [&](const HostKernel& kernel, const HostStepKernel* step, const HostGradientKernel* gradient) {
    if (kernel.name != name) return false;
    *function = new CUfunc_st{module->context, &kernel, step, gradient, find_translated(name)};
    state().functions.insert(*function);
    return true;
  };
  for (const HostStepKernel& kernel : kHostKernels)
    if (found(kernel, &kernel, nullptr)) return kSuccess;
  for (const HostGradientKernel& kernel : kHostGradientKernels)
    if (found(kernel, nullptr, &kernel)) return kSuccess;
  return kNotFound;
}

EXPORT Status cuModuleGetGlobal_v2(DevicePointer*, size_t*, CUmod_st*, const char*) {
  CALL(cuModuleGetGlobal_v2);
  return kNotFound;
}

EXPORT Status cuMemAlloc_v2(DevicePointer* pointer, size_t bytes) {
  CALL(cuMemAlloc_v2);
  call.expect_permitted();
  ContextHandle context = call.context();
  if (bytes == 0) return kInvalidValue;
  *pointer = state().gpus[static_cast<size_t>(context->device)]->arena.allocate(bytes, context);
  return *pointer ? kSuccess : kOutOfMemory;
}

EXPORT Status cuMemFree_v2(DevicePointer pointer) {
  CALL(cuMemFree_v2);
  call.expect_permitted();
  Arena& arena = state().gpus[static_cast<size_t>(call.context()->device)]->arena;
  const Arena::Allocation allocation = arena.find(pointer, 1);
  if (!pointer || allocation.start != pointer) misuse("cuMemFree of what is no allocation of the current device");
  if (allocation.context != call.context()) misuse("cuMemFree in another context than the allocation's");
  state().expect_unused(pointer, allocation.bytes, "cuMemFree");
  arena.free(pointer);
  return kSuccess;
}

EXPORT Status cuMemHostAlloc(void** pointer, size_t bytes, unsigned) {
  CALL(cuMemHostAlloc);
  call.expect_permitted();
  call.context();
  if (bytes == 0) return kInvalidValue;
  *pointer = std::aligned_alloc(4096, (bytes + 4095) / 4096 * 4096);
  if (!*pointer) return kOutOfMemory;
  ASAN_POISON_MEMORY_REGION(static_cast<char*>(*pointer) + bytes, (4096 - bytes % 4096) % 4096);
  state().pinned[reinterpret_cast<uintptr_t>(*pointer)] = bytes;
  return kSuccess;
}

EXPORT Status cuMemFreeHost(void* pointer) {
  CALL(cuMemFreeHost);
  call.expect_permitted();
  call.context();
  const auto found = state().pinned.find(reinterpret_cast<uintptr_t>(pointer));
  if (found == state().pinned.end()) misuse("cuMemFreeHost of what cuMemHostAlloc did not give");
  state().expect_unused(found->first, found->second, "cuMemFreeHost");
  ASAN_UNPOISON_MEMORY_REGION(pointer, (found->second + 4095) / 4096 * 4096);
  state().pinned.erase(found);
  std::free(pointer);
  return kSuccess;
}

EXPORT Status cuMemsetD8Async(DevicePointer pointer, unsigned char value, size_t bytes, StreamHandle stream) {
  CALL(cuMemsetD8Async);
  char* to = state().host(pointer, bytes, call.function());
  state().enqueue(call.stream(stream), call.function(), [=] { std::memset(to, value, bytes); }, {{pointer, bytes}});
  return kSuccess;
}

EXPORT Status cuMemcpyHtoDAsync_v2(DevicePointer to, const void* from, size_t bytes, StreamHandle stream) {
  CALL(cuMemcpyHtoDAsync_v2);
  char* target = state().host(to, bytes, call.function());
  CUstream_st& queue = call.stream(stream);
  if (state().is_pinned(from, bytes)) {
    state().enqueue(queue, call.function(), [=] { std::memcpy(target, from, bytes); },
                    {{to, bytes}, {reinterpret_cast<uintptr_t>(from), bytes}});
  } else {  // the driver reads it before the call returns
    auto staged = std::make_shared<std::string>(static_cast<const char*>(from), bytes);
    state().enqueue(queue, call.function(), [=] { std::memcpy(target, staged->data(), bytes); }, {{to, bytes}});
  }
  return kSuccess;
}

EXPORT Status cuMemcpyDtoHAsync_v2(void* to, DevicePointer from, size_t bytes, StreamHandle stream) {
  CALL(cuMemcpyDtoHAsync_v2);
  const char* source = state().host(from, bytes, call.function());
  const auto work = state().enqueue(call.stream(stream), call.function(), [=] { std::memcpy(to, source, bytes); },
                                    {{from, bytes}, {reinterpret_cast<uintptr_t>(to), bytes}});
  if (!state().is_pinned(to, bytes)) call.wait(work);
  return kSuccess;
}

EXPORT Status cuMemcpyDtoDAsync_v2(DevicePointer to, DevicePointer from, size_t bytes, StreamHandle stream) {
  CALL(cuMemcpyDtoDAsync_v2);
  char* target = state().host(to, bytes, call.function());
  const char* source = state().host(from, bytes, call.function());
  state().enqueue(call.stream(stream), call.function(), [=] { std::memmove(target, source, bytes); },
                  {{to, bytes}, {from, bytes}});
  return kSuccess;
}

EXPORT Status cuMemcpyPeerAsync(DevicePointer to, ContextHandle to_context, DevicePointer from,
                                ContextHandle from_context, size_t bytes, StreamHandle stream) {
  CALL(cuMemcpyPeerAsync);
  char* target = state().host(to, bytes, call.function());
  const char* source = state().host(from, bytes, call.function());
  const auto of = [&](ContextHandle context, DevicePointer pointer) {
    return state().gpus[static_cast<size_t>(context->device)].get() == state().gpu_of(pointer, bytes);
  };
  if (!of(to_context, to) || !of(from_context, from)) misuse("cuMemcpyPeerAsync: memory of another device");
  ++state().calls[to_context->peers.count(from_context) ? "direct copies" : "copies through the host"];
  state().enqueue(call.stream(stream), call.function(), [=] { std::memcpy(target, source, bytes); },
                  {{to, bytes}, {from, bytes}});
  return kSuccess;
}

EXPORT Status cuPointerGetAttributes(unsigned count, int* attributes, void** values, DevicePointer pointer) {
  CALL(cuPointerGetAttributes);
  const State::Gpu* gpu = state().gpu_of(pointer, 0);
  const Arena::Allocation allocation = gpu ? gpu->arena.find(pointer, 0) : Arena::Allocation{};
  const bool is_pinned = state().is_pinned(reinterpret_cast<void*>(pointer), 1);
  for (unsigned i = 0; i < count; ++i) switch (attributes[i]) {
      case kPointerContext:
        *static_cast<ContextHandle*>(values[i]) = allocation.context;
        break;
      case kPointerMemoryType:
        *static_cast<unsigned*>(values[i]) = gpu && !allocation.is_managed ? kDeviceMemory : gpu || is_pinned ? 1 : 0;
        break;
      case kPointerIsManaged:
        *static_cast<unsigned*>(values[i]) = allocation.is_managed;
        break;
      case kPointerDeviceOrdinal:
        *static_cast<int*>(values[i]) = gpu ? gpu->primary.device : is_pinned ? 0 : -2;
        break;
      case kPointerRangeStart:
        *static_cast<DevicePointer*>(values[i]) = allocation.start;
        break;
      case kPointerRangeSize:
        *static_cast<size_t*>(values[i]) = allocation.bytes;
        break;
      case kPointerMapped:
        *static_cast<unsigned*>(values[i]) = gpu && gpu->arena.find_mapped(pointer).bytes > 0;
        break;
      default:
        return kInvalidValue;
    }
  return kSuccess;
}

EXPORT Status cuMemGetAddressRange_v2(DevicePointer* start, size_t* bytes, DevicePointer pointer) {
  CALL(cuMemGetAddressRange_v2);
  call.context();
  const State::Gpu* gpu = state().gpu_of(pointer, 1);
  if (!gpu) return kNotFound;
  const Arena::Allocation mapped = gpu->arena.find_mapped(pointer);
  *start = mapped.start;
  *bytes = mapped.bytes;
  return kSuccess;
}

EXPORT Status cuStreamGetCtx(StreamHandle stream, ContextHandle* context) {
  CALL(cuStreamGetCtx);
  *context = call.context();
  if (is_legacy(stream)) return kSuccess;
  const auto found = state().streams.find(stream);
  if (found == state().streams.end()) return kInvalidHandle;
  *context = found->second->context;
  return kSuccess;
}

EXPORT Status cuStreamGetId(StreamHandle stream, unsigned long long* id) {
  CALL(cuStreamGetId);
  *id = call.stream(stream).id;
  return kSuccess;
}

EXPORT Status cuStreamIsCapturing(StreamHandle stream, int* status) {
  CALL(cuStreamIsCapturing);
  const CUstream_st& of = call.stream(stream);
  if (is_legacy(stream) && State::captures_a_blocking_stream(of.context)) return kCaptureImplicit;
  *status = of.capture ? 1 : kNotCapturing;
  return kSuccess;
}

EXPORT Status cuThreadExchangeStreamCaptureMode(int* mode) {
  CALL(cuThreadExchangeStreamCaptureMode);
  std::swap(capture_mode, *mode);
  return kSuccess;
}

EXPORT Status cuStreamWaitEvent(StreamHandle stream, EventHandle event, unsigned) {
  CALL(cuStreamWaitEvent);
  const auto recorded = call.event(event).recorded;
  CUstream_st& of = call.stream(stream);
  if (recorded && recorded->capture != of.capture) {
    if (of.capture || is_legacy(stream)) misuse("cuStreamWaitEvent invalidates the capture of a stream");
    of.capture = recorded->capture;  // the stream joins the capture
  }
  if (recorded) state().enqueue(call.stream(stream), call.function(), nullptr, {}, recorded);
  return kSuccess;
}

EXPORT Status cuEventCreate(EventHandle* event, unsigned) {
  CALL(cuEventCreate);
  *event = new CUevent_st{call.context(), nullptr};
  state().events.insert(*event);
  return kSuccess;
}

EXPORT Status cuEventRecord(EventHandle event, StreamHandle stream) {
  CALL(cuEventRecord);
  CUevent_st& to = call.event(event);
  CUstream_st& of = call.stream(stream);
  if (to.context != of.context) misuse("cuEventRecord of an event in a stream of another context");
  to.recorded = state().enqueue(of, call.function(), nullptr, {});
  return kSuccess;
}

EXPORT Status cuEventQuery(EventHandle event) {
  CALL(cuEventQuery);
  call.expect_permitted();
  const auto recorded = call.event(event).recorded;
  if (recorded && recorded->capture) return kCapturedEvent;
  return !recorded || recorded->done ? kSuccess : kNotReady;
}

EXPORT Status cuEventSynchronize(EventHandle event) {
  CALL(cuEventSynchronize);
  call.expect_permitted();
  const auto recorded = call.event(event).recorded;
  if (recorded && recorded->capture) return kCapturedEvent;
  call.wait(recorded);
  return kSuccess;
}

EXPORT Status cuEventDestroy_v2(EventHandle event) {
  CALL(cuEventDestroy_v2);
  call.event(event);
  state().events.erase(event);
  delete event;
  return kSuccess;
}

EXPORT Status cuStreamAddCallback(StreamHandle stream, StreamCallback callback, void* context, unsigned) {
  CALL(cuStreamAddCallback);
  Status told = kSuccess;
  if (Failure& failure = state().failure; failure.function == "callback") {
    told = failure.status;
    failure = {};
  }
  const auto run = [=] {
    in_host_function = true;
    callback(stream, told, context);
    in_host_function = false;
  };
  state().enqueue(call.stream(stream), call.function(), run, {});
  return kSuccess;
}

EXPORT Status cuLaunchKernel(FunctionHandle function, unsigned grid_x, unsigned grid_y, unsigned grid_z,
                             unsigned block_x, unsigned block_y, unsigned block_z, unsigned dynamic_memory,
                             StreamHandle stream, void** parameters, void**) {
  CALL(cuLaunchKernel);
  if (!state().functions.count(function)) misuse("cuLaunchKernel of a function that is not there");
  if (function->context != call.context()) misuse("cuLaunchKernel of another context's function");
  if (grid_x == 0 || grid_y != 1 || grid_z != 1 || block_x != kBlock || block_y != 1 || block_z != 1 || dynamic_memory)
    misuse("cuLaunchKernel of another shape than the kernels are made for");
  const std::string copy(static_cast<const char*>(parameters[0]), function->kernel->parameter_bytes);
  const Arena& arena = state().gpus[static_cast<size_t>(function->context->device)]->arena;
  const auto run = [=, &arena] { run_kernel(arena, *function, copy, grid_x); };
  state().enqueue(call.stream(stream), call.function(), run, tables_of(*function, copy));
  return kSuccess;
}

// ---- Functions for tests that act as another library in the process ----

EXPORT Status cuCtxCreate_v2(ContextHandle* context, unsigned, DeviceHandle device) {
  CALL(cuCtxCreate_v2);
  *context = new CUctx_st{device};
  state().contexts.insert(*context);
  current.push_back(*context);
  return kSuccess;
}

EXPORT Status cuCtxGetCurrent(ContextHandle* context) {
  CALL(cuCtxGetCurrent);
  *context = current.empty() ? nullptr : current.back();
  return kSuccess;
}

EXPORT Status cuMemGetInfo_v2(size_t* free, size_t* total) {
  CALL(cuMemGetInfo_v2);
  *total = number("MEMORY", size_t{256} << 20);
  *free = *total - state().gpus[static_cast<size_t>(call.context()->device)]->arena.used();
  return kSuccess;
}

/// Not as on a GPU, the host cannot access it.
EXPORT Status cuMemAllocManaged(DevicePointer* pointer, size_t bytes, unsigned) {
  CALL(cuMemAllocManaged);
  ContextHandle context = call.context();
  *pointer = state().gpus[static_cast<size_t>(context->device)]->arena.allocate(bytes, context, true);
  return *pointer ? kSuccess : kOutOfMemory;
}

/// On the first device, whatever the handles and properties say.
EXPORT Status cuMemAddressReserve(DevicePointer* pointer, size_t bytes, size_t, DevicePointer, unsigned long long) {
  CALL(cuMemAddressReserve);
  *pointer = state().gpus[0]->arena.reserve(bytes);
  return *pointer ? kSuccess : kOutOfMemory;
}
EXPORT Status cuMemAddressFree(DevicePointer pointer, size_t) {
  CALL(cuMemAddressFree);
  state().gpus[0]->arena.unreserve(pointer);
  return kSuccess;
}
EXPORT Status cuMemCreate(unsigned long long* handle, size_t, const void*, unsigned long long) {
  CALL(cuMemCreate);
  *handle = 1;
  return kSuccess;
}
EXPORT Status cuMemRelease(unsigned long long) { return kSuccess; }
EXPORT Status cuMemMap(DevicePointer pointer, size_t bytes, size_t, unsigned long long, unsigned long long) {
  CALL(cuMemMap);
  state().gpus[0]->arena.map(pointer, bytes);
  return kSuccess;
}
EXPORT Status cuMemUnmap(DevicePointer pointer, size_t) {
  CALL(cuMemUnmap);
  state().gpus[0]->arena.unmap(pointer);
  return kSuccess;
}
EXPORT Status cuMemSetAccess(DevicePointer, size_t, const void*, size_t) { return kSuccess; }

EXPORT Status cuStreamCreate(StreamHandle* stream, unsigned flags) {
  CALL(cuStreamCreate);
  auto* created = new CUstream_st{call.context(), (flags & 1) == 0, {}, nullptr, ++state().last_stream_id};
  created->context->streams.insert(created);
  *stream = created;
  if (auto& handles = state().free_handles; !handles.empty()) {
    *stream = handles.back();
    handles.pop_back();
  }
  state().streams[*stream] = created;
  return kSuccess;
}

/// The stream's work is still done.
EXPORT Status cuStreamDestroy_v2(StreamHandle stream) {
  CALL(cuStreamDestroy_v2);
  call.stream(stream);
  state().streams.erase(stream);
  state().free_handles.push_back(stream);
  return kSuccess;
}

EXPORT Status cuStreamBeginCapture_v2(StreamHandle stream, int mode) {
  CALL(cuStreamBeginCapture_v2);
  CUstream_st& of = call.stream(stream);
  if (is_legacy(stream) || of.capture) return kCaptureUnsupported;
  of.capture = std::make_shared<Capture>(Capture{mode, std::this_thread::get_id()});
  return kSuccess;
}

EXPORT Status cuStreamEndCapture(StreamHandle stream, void** graph) {
  CALL(cuStreamEndCapture);
  *graph = nullptr;
  const auto capture = call.stream(stream).capture;
  if (!capture) return kCaptureUnmatched;
  for (StreamHandle each : call.context()->streams)
    if (each->capture == capture) each->capture = nullptr;
  return kSuccess;
}

EXPORT Status cuStreamSynchronize(StreamHandle stream) {
  CALL(cuStreamSynchronize);
  call.expect_permitted();
  call.wait(call.stream(stream).last);
  return kSuccess;
}

EXPORT Status cuCtxSynchronize() {
  CALL(cuCtxSynchronize);
  call.expect_permitted();
  std::vector<std::shared_ptr<Work>> last{call.context()->legacy.last};
  for (StreamHandle stream : call.context()->streams) last.push_back(stream->last);
  for (const auto& work : last) call.wait(work);
  return kSuccess;
}

// ---- The stand-in's own functions, stand-in-driver.h ----

EXPORT unsigned long long stand_in_count(const char* name) {
  const std::lock_guard lock(state().mutex);
  return state().count(name);
}

EXPORT void stand_in_fail(const char* function, unsigned after, int status, int forever) {
  const std::lock_guard lock(state().mutex);
  state().failure = function ? Failure{function, after, status, forever != 0} : Failure{};
}

EXPORT void stand_in_pause(int paused) {
  const std::lock_guard lock(state().mutex);
  state().paused = paused != 0;
  state().changed.notify_all();
}

#define IS_DECLARED(name, ...) static_assert(std::is_same_v<decltype(name), __VA_ARGS__>, #name);
FUSED_ADAMW_DRIVER_FUNCTIONS(IS_DECLARED)
IS_DECLARED(stand_in_count, StandInCount)
IS_DECLARED(stand_in_fail, StandInFail)
IS_DECLARED(stand_in_pause, StandInPause)
