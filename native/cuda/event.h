// Events: marks in a stream.
#pragma once

#include "driver.h"

namespace fused_adamw::cuda {

/// A mark in a stream that the host, or another stream, can wait for. Waiting
/// spins for a moment, and then blocks.
class Event {
 public:
  /// Needs a current context.
  Event();
  ~Event();
  Event(const Event&) = delete;
  Event& operator=(const Event&) = delete;

  void record(StreamHandle stream);
  enum class State { pending, done, captured };
  /// `captured`: it was recorded in a stream capture. No work of the stream is
  /// pending because of it, and a graph may run that work at any time.
  State state() const;
  /// Returns at once where the event was captured.
  void wait() const;
  /// Work that is put on the stream from now on comes after the event.
  void make_stream_wait(StreamHandle stream) const;

 private:
  EventHandle handle_ = nullptr;
};

}  // namespace fused_adamw::cuda
