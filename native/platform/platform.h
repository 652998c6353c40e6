// What differs between operating systems: posix.cc for Linux and macOS, windows.cc for Windows.
#pragma once

#include <cstdio>
#include <optional>
#include <string>

#if !defined(_WIN32)
#include <signal.h>
#endif

namespace fused_adamw::platform {

/// A shared library, by its name in the system's search path or by its path.
/// Null, with the reason, where it does not open. None is ever closed.
void* open_library(const char* name, std::string* reason);

/// One that the process has loaded already; null otherwise.
void* loaded_library(const char* name);

/// The address of a symbol of a library, or null.
void* symbol_of(void* library, const char* name);

/// The file that was loaded for an address in it; empty where nothing tells.
std::string file_of(const void* address);

/// Keeps this binary loaded to the end of the process: its threads outlive the worker that opened it.
void stay_loaded();

/// Opens a file to read it, by a path that is UTF-8; null where it does not open.
FILE* open_file(const std::string& path);

/// The bytes of a file (files.cc). Not by an ifstream, which brings all
/// of a C++ library's locales where that is linked statically.
std::optional<std::string> read_file(const std::string& path);

/// Calls `handler` in the children of later forks.
void on_fork(void (*handler)());

/// Blocks all signals on this thread while it lives. New threads inherit the
/// mask: the process's signals are Node's to handle.
class SignalsBlocked {
 public:
  SignalsBlocked();
  ~SignalsBlocked();
  SignalsBlocked(const SignalsBlocked&) = delete;
  SignalsBlocked& operator=(const SignalsBlocked&) = delete;

#if !defined(_WIN32)
 private:
  sigset_t saved_;
#endif
};

}  // namespace fused_adamw::platform
