// How many threads a step uses, and the team that runs it.
#pragma once

#include <cstddef>
#include <memory>

namespace fused_adamw::cpu {

/// Processors that this process may use: by affinity and by cgroup quota.
int available_processors();

/// Threads of a large step: what was set, else OMP_NUM_THREADS, else
/// available_processors(); 1 without OpenMP.
int num_threads();

/// Sets num_threads() for the whole process; 0 returns to the default.
void set_num_threads(int count);

bool has_openmp();

/// Calls work(context, chunk) once for every chunk below `chunks`, on up to
/// `threads` threads, each in the floating-point environment of the contract.
/// One parallel call runs at a time in a process; one on a single thread does
/// not wait. `work` must not throw.
void for_each_chunk(size_t chunks, int threads, void (*work)(const void* context, size_t chunk), const void* context);

/// The same for a callable.
template <typename Work>
void for_each_chunk(size_t chunks, int threads, const Work& work) {
  for_each_chunk(
      chunks, threads, [](const void* context, size_t chunk) { (*static_cast<const Work*>(context))(chunk); },
      std::addressof(work));
}

}  // namespace fused_adamw::cpu
