// How many threads a step uses, and the team that runs it.
#pragma once

#include <cstddef>
#include <functional>

namespace fused_adamw::cpu {

/// Processors that this process may use: by affinity and by cgroup quota.
int available_processors();

/// Threads of a large step: what was set, else OMP_NUM_THREADS, else
/// available_processors(); 1 without OpenMP.
int num_threads();

/// Sets num_threads() for the whole process; 0 returns to the default.
void set_num_threads(int count);

bool has_openmp();

/// Calls work(chunk) once for every chunk below `chunks`, on up to `threads`
/// threads, each in the floating-point environment of the contract. One
/// parallel call runs at a time in a process; one on a single thread does not
/// wait. `work` must not throw.
void for_each_chunk(size_t chunks, int threads, const std::function<void(size_t)>& work);

}  // namespace fused_adamw::cpu
