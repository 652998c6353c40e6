// What a JavaScript thread has running on the background thread, and the promises that it settles.
#pragma once

#include <memory>
#include <vector>

#include "../cpu/background.h"
#include "errors.h"

namespace fused_adamw {

class BackgroundJobs;

/// Work with memory of JavaScript.
class BackgroundJob : public cpu::background::Work {
 public:
  /// What holds the memory until the job is done.
  void hold(Napi::ObjectReference reference) { held_.push_back(std::move(reference)); }

 protected:
  /// On the background thread.
  virtual void compute() = 0;
  /// What the promise is resolved to, or by what it throws rejected; on the JavaScript thread.
  virtual Napi::Value result(Napi::Env env) { return env.Undefined(); }

 private:
  friend class BackgroundJobs;

  void run(std::unique_ptr<Work> self) final;
  static void settle(napi_env env, napi_value, void* jobs, void* job);

  std::vector<Napi::ObjectReference> held_;
  napi_deferred promise_ = nullptr;
  napi_threadsafe_function settle_on_thread_ = nullptr;
};

/// Those of one JavaScript thread. At the end of the thread they are waited for: its memory is freed then.
class BackgroundJobs {
 public:
  BackgroundJobs() = default;
  BackgroundJobs(const BackgroundJobs&) = delete;
  BackgroundJobs& operator=(const BackgroundJobs&) = delete;

  /// Returns the promise.
  Napi::Value start(Napi::Env env, std::unique_ptr<BackgroundJob> job);

 private:
  friend class BackgroundJob;

  void open(Napi::Env env);
  void settled(napi_env env);

  napi_threadsafe_function settle_on_thread_ = nullptr;  // keeps the event loop alive while something is pending
  size_t pending_ = 0;
};

}  // namespace fused_adamw
