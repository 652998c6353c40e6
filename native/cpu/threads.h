// How many threads a step uses, and the team that runs it.
#pragma once

#include <cstddef>
#include <memory>

namespace fused_adamw::cpu {

/// Processors that this process may use: by affinity and by cgroup quota.
int available_processors();

/// Threads of a large step: what was set, else OMP_NUM_THREADS, else
/// available_processors().
int num_threads();

/// Sets num_threads() for the whole process; 0 returns to the default.
void set_num_threads(int count);

/// Calls work(context, chunk) once for every chunk below `chunks`, on the
/// calling thread and up to `threads` - 1 others, each in the floating-point
/// environment of the contract. Returns when all are done. The others serve
/// one call at a time; one that finds them taken runs on its own thread, as
/// does one that no thread could be made for. `work` must not throw.
void for_each_chunk(size_t chunks, int threads, void (*work)(const void* context, size_t chunk), const void* context);

/// The same for a callable.
template <typename Work>
void for_each_chunk(size_t chunks, int threads, const Work& work) {
  for_each_chunk(
      chunks, threads, [](const void* context, size_t chunk) { (*static_cast<const Work*>(context))(chunk); },
      std::addressof(work));
}

}  // namespace fused_adamw::cpu
