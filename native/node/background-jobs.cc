#include "background-jobs.h"

namespace fused_adamw {

void BackgroundJob::run(std::unique_ptr<Work> self) {
  compute();
  // The function is there: the thread does not end before this returns (BackgroundJobs::open).
  const napi_threadsafe_function settle_on_thread = settle_on_thread_;
  napi_call_threadsafe_function(settle_on_thread, self.release(), napi_tsfn_nonblocking);
}

void BackgroundJob::settle(napi_env env, napi_value, void* context, void* data) {
  const std::unique_ptr<BackgroundJob> job(static_cast<BackgroundJob*>(data));
  if (!env) {  // the thread is ending, and its references with it
    for (Napi::ObjectReference& reference : job->held_) reference.SuppressDestruct();
    return;
  }
  static_cast<BackgroundJobs*>(context)->settled(env);
  try {
    napi_resolve_deferred(env, job->promise_, job->result(env));
  } catch (const Napi::Error& error) {
    // On a thread that is being terminated this does nothing: it runs no JavaScript any more.
    napi_reject_deferred(env, job->promise_, error.Value());
  }
}

Napi::Value BackgroundJobs::start(Napi::Env env, std::unique_ptr<BackgroundJob> job) {
  if (!settle_on_thread_) open(env);
  napi_value promise;
  if (napi_create_promise(env, &job->promise_, &promise) != napi_ok) throw ExceptionPending();
  job->settle_on_thread_ = settle_on_thread_;
  cpu::background::start(this, std::move(job));
  if (pending_++ == 0) napi_ref_threadsafe_function(env, settle_on_thread_);  // it is settled in a later task
  return Napi::Value(env, promise);
}

void BackgroundJobs::open(Napi::Env env) {
  const Napi::String name = Napi::String::New(env, "fused-adamw step");
  if (napi_create_threadsafe_function(env, nullptr, nullptr, name, 0, 1, nullptr, nullptr, this, BackgroundJob::settle,
                                      &settle_on_thread_) != napi_ok)
    throw Napi::Error::New(env);
  napi_unref_threadsafe_function(env, settle_on_thread_);
  // Hooks run in reverse order: this one while the function can be called.
  napi_add_env_cleanup_hook(env, [](void* jobs) { cpu::background::end(jobs); }, this);
}

void BackgroundJobs::settled(napi_env env) {
  if (--pending_ == 0) napi_unref_threadsafe_function(env, settle_on_thread_);
}

}  // namespace fused_adamw
