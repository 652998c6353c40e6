#define WIN32_LEAN_AND_MEAN
#define NOMINMAX
#include <windows.h>

#include "platform.h"

namespace fused_adamw::platform {
namespace {

std::wstring to_wide(const std::string& utf8) {
  const int bytes = static_cast<int>(utf8.size());
  std::wstring wide(MultiByteToWideChar(CP_UTF8, 0, utf8.data(), bytes, nullptr, 0), L'\0');
  MultiByteToWideChar(CP_UTF8, 0, utf8.data(), bytes, wide.data(), static_cast<int>(wide.size()));
  return wide;
}

std::string to_utf8(const std::wstring& wide) {
  const int length = static_cast<int>(wide.size());
  std::string utf8(WideCharToMultiByte(CP_UTF8, 0, wide.data(), length, nullptr, 0, nullptr, nullptr), '\0');
  WideCharToMultiByte(CP_UTF8, 0, wide.data(), length, utf8.data(), static_cast<int>(utf8.size()), nullptr, nullptr);
  return utf8;
}

HMODULE module_of(const void* address, DWORD flags) {
  HMODULE module = nullptr;
  GetModuleHandleExW(GET_MODULE_HANDLE_EX_FLAG_FROM_ADDRESS | flags, static_cast<LPCWSTR>(address), &module);
  return module;
}

}  // namespace

// From the program's folder and the system's, never from the current one.
void* open_library(const char* name, std::string* reason) {
  HMODULE library = LoadLibraryExA(name, nullptr, LOAD_LIBRARY_SEARCH_DEFAULT_DIRS);
  if (!library) *reason = std::string(name) + " does not open (error " + std::to_string(GetLastError()) + ")";
  return library;
}

void* loaded_library(const char* name) { return GetModuleHandleA(name); }

void* symbol_of(void* library, const char* name) {
  return reinterpret_cast<void*>(GetProcAddress(static_cast<HMODULE>(library), name));
}

std::string file_of(const void* address) {
  wchar_t path[MAX_PATH];
  const HMODULE module = module_of(address, GET_MODULE_HANDLE_EX_FLAG_UNCHANGED_REFCOUNT);
  return module ? to_utf8({path, GetModuleFileNameW(module, path, MAX_PATH)}) : "";
}

void stay_loaded() { module_of(reinterpret_cast<const void*>(&stay_loaded), GET_MODULE_HANDLE_EX_FLAG_PIN); }

FILE* open_file(const std::string& path) { return _wfopen(to_wide(path).c_str(), L"rb"); }

// Windows has neither forks nor signals of threads.

void on_fork(void (*)()) {}

SignalsBlocked::SignalsBlocked() {}
SignalsBlocked::~SignalsBlocked() {}

}  // namespace fused_adamw::platform
