#include <dlfcn.h>
#include <pthread.h>

#include "platform.h"

namespace fused_adamw::platform {

void* open_library(const char* name, std::string* reason) {
  void* library = dlopen(name, RTLD_NOW | RTLD_LOCAL);
  if (!library) {
    const char* error = dlerror();
    *reason = error ? error : name;
  }
  return library;
}

void* loaded_library(const char* name) { return dlopen(name, RTLD_NOW | RTLD_LOCAL | RTLD_NOLOAD); }

void* symbol_of(void* library, const char* name) { return dlsym(library, name); }

std::string file_of(const void* address) {
  Dl_info info;
  return dladdr(address, &info) && info.dli_fname ? info.dli_fname : "";
}

void stay_loaded() {
  const std::string file = file_of(reinterpret_cast<const void*>(&stay_loaded));
  dlopen(file.c_str(), RTLD_NOW | RTLD_LOCAL | RTLD_NOLOAD | RTLD_NODELETE);
}

FILE* open_file(const std::string& path) { return std::fopen(path.c_str(), "rbe"); }

void on_fork(void (*handler)()) { pthread_atfork(nullptr, nullptr, handler); }

SignalsBlocked::SignalsBlocked() {
  sigset_t all;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &saved_);
}

SignalsBlocked::~SignalsBlocked() { pthread_sigmask(SIG_SETMASK, &saved_, nullptr); }

}  // namespace fused_adamw::platform
