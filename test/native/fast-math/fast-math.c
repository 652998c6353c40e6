// What linking with -ffast-math does to a library: whoever loads it flushes
// subnormals to zero from then on, and so do the threads it makes later.
// Written out, since newer compilers leave it out of shared libraries.
#include <stdint.h>

__attribute__((constructor)) static void flush_subnormals(void) {
#if defined(__x86_64__)
  __builtin_ia32_ldmxcsr(__builtin_ia32_stmxcsr() | 0x8040);  // FTZ and DAZ
#elif defined(__aarch64__)
  uint64_t fpcr;
  asm volatile("mrs %0, fpcr" : "=r"(fpcr));
  asm volatile("msr fpcr, %0" : : "r"(fpcr | (UINT64_C(1) << 24)));  // FZ
#endif
}
