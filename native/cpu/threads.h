// How many threads a step uses, and what runs them.
#pragma once

#include <cstddef>
#include <memory>
#include <string>

namespace fused_adamw::cpu {

/// What runs the threads of a step.
enum class Runtime {
  openmp,  // openmp.h
  team,    // thread-pool.h: a team of our own
};

/// Why a runtime cannot be used here; empty where it can.
std::string unusable(Runtime runtime);

/// The runtime of the next large step: what was set, else the default, else OpenMP where it can be used.
Runtime runtime();

/// Sets runtime() for the whole process, to one that can be used; null returns to the default.
void set_runtime(const Runtime* runtime);

/// Sets what runtime() is when nothing was set.
void set_default_runtime(Runtime runtime);

/// Threads of a large step: what was set, else OMP_NUM_THREADS, else
/// available_processors().
int num_threads();

/// Sets num_threads() for the whole process; 0 returns to the default.
void set_num_threads(int count);

/// num_threads(), or fewer where the system refused some or OMP_THREAD_LIMIT leaves OpenMP fewer.
int obtainable_threads();

/// Calls work(context, chunk) once for every chunk below `chunks`, on the
/// calling thread and up to `threads` - 1 others, each in the floating-point
/// environment of the contract. Returns when all are done. A chunk begins with
/// the same thread at every call (chunk-shares.h). The others serve one call at
/// a time; one that finds them taken runs on its own thread, as does one that
/// no thread could be made for. `work` must not throw.
///
/// `threads` should not change from call to call: libgomp ends the threads that
/// a smaller team leaves over.
void for_each_chunk(size_t chunks, int threads, void (*work)(const void* context, size_t chunk), const void* context);

/// The same for a callable.
template <typename Work>
void for_each_chunk(size_t chunks, int threads, const Work& work) {
  for_each_chunk(
      chunks, threads, [](const void* context, size_t chunk) { (*static_cast<const Work*>(context))(chunk); },
      std::addressof(work));
}

/// Writes a zero to each page of zeros that nobody has written to yet, on the
/// threads that a step over this memory begins with: the system then puts the
/// page near the processor of that thread.
void first_touch(char* zeros, size_t bytes);

}  // namespace fused_adamw::cpu
