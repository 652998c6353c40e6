// OpenMP: a parallel region of a library that is opened at run time.
#pragma once

#include <string>

namespace fused_adamw::cpu::openmp {

/// The library that was opened; empty where there is none.
const std::string& library();

/// Whether regions can be used, and why not; that is empty where they can.
bool is_usable();
std::string unusable();

/// Threads that OMP_THREAD_LIMIT leaves to a region.
int thread_limit();

/// Calls body(context, t) on each thread t of a region of at most `threads`
/// threads, the calling one included. One call at a time.
void run(int threads, void (*body)(const void* context, int thread), const void* context);

/// In the child of a fork, where the library's threads are no more.
void forked();

}  // namespace fused_adamw::cpu::openmp
