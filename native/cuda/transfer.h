// Copies between the host and devices.
//
// They run on the legacy default stream, after all steps on any stream that were
// launched before; those that are started run on a stream of their own, after the
// work that uses the same memory, and beside any other.
#pragma once

#include <memory>

#include "memory.h"

namespace fused_adamw::cuda {

/// Returns when the host's memory may be used again.
void copy_from_host(const std::shared_ptr<Memory>& to, size_t offset, const void* from, size_t bytes);
/// Returns when the values are there.
void copy_to_host(void* to, const std::shared_ptr<Memory>& from, size_t offset, size_t bytes);
/// From any device to any; within one it returns at once.
void copy_memory(const std::shared_ptr<Memory>& to, const std::shared_ptr<Memory>& from, size_t bytes,
                 size_t to_offset = 0, size_t from_offset = 0);

/// Starts a copy. The host's memory, page-locked or not, must stay until `done` is
/// called, once, with how it went, on a thread of the driver, where it must not call the
/// driver. If this throws, `done` is never called and the host's memory is free at once.
void start_copy_from_host(const std::shared_ptr<Memory>& to, const void* from, size_t bytes, StreamCallback done,
                          void* context, size_t offset = 0);
void start_copy_to_host(void* to, const std::shared_ptr<Memory>& from, size_t bytes, StreamCallback done, void* context,
                        size_t offset = 0);

}  // namespace fused_adamw::cuda
