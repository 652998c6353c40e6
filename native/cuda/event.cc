#include "event.h"

#include <chrono>

namespace fused_adamw::cuda {

Event::Event() { FUSED_ADAMW_CUDA(cuEventCreate, &handle_, kBlockingSync | kDisableTiming); }
Event::~Event() { driver().cuEventDestroy_v2(handle_); }

void Event::record(StreamHandle stream) { FUSED_ADAMW_CUDA(cuEventRecord, handle_, stream); }

Event::State Event::state() const {
  const Status status = driver().cuEventQuery(handle_);
  if (status == kNotReady) return State::pending;
  if (status == kCapturedEvent) return State::captured;
  check(status, "cuEventQuery");
  return State::done;
}

void Event::wait() const {
  // To be woken takes longer than most small copies.
  constexpr auto kSpin = std::chrono::microseconds(50);
  const auto start = std::chrono::steady_clock::now();
  do {
    if (state() != State::pending) return;
  } while (std::chrono::steady_clock::now() - start < kSpin);
  const Status status = driver().cuEventSynchronize(handle_);
  if (status != kCapturedEvent) check(status, "cuEventSynchronize");
}

void Event::make_stream_wait(StreamHandle stream) const { FUSED_ADAMW_CUDA(cuStreamWaitEvent, stream, handle_, 0); }

}  // namespace fused_adamw::cuda
