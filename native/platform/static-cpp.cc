// Only for builds that have the C++ library inside (scripts/prebuild.mjs).
#include <cstddef>

/// The library's own, which makes a name readable when an exception ends the process, is a tenth of the binary.
extern "C" char* __cxa_demangle(const char*, char*, size_t*, int* status) {
  *status = -2;  // not a mangled name: the message has the name as it is
  return nullptr;
}
