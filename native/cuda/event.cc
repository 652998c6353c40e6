#include "event.h"

namespace fused_adamw::cuda {

Event::Event() { FUSED_ADAMW_CUDA(cuEventCreate, &handle_, kBlockingSync | kDisableTiming); }
Event::~Event() { driver().cuEventDestroy_v2(handle_); }

void Event::record(StreamHandle stream) { FUSED_ADAMW_CUDA(cuEventRecord, handle_, stream); }

bool Event::is_done() const {
  const Status status = driver().cuEventQuery(handle_);
  if (status == kNotReady) return false;
  check(status, "cuEventQuery");
  return true;
}

void Event::wait() const { FUSED_ADAMW_CUDA(cuEventSynchronize, handle_); }

void Event::make_stream_wait(StreamHandle stream) const { FUSED_ADAMW_CUDA(cuStreamWaitEvent, stream, handle_, 0); }

}  // namespace fused_adamw::cuda
