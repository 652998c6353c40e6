// What each JavaScript thread has of ours.
#pragma once

#include <memory>
#include <mutex>
#include <vector>

#include "background-jobs.h"
#include "in-flight.h"

namespace fused_adamw {

class DeviceMemoryObject;

/// The DeviceMemoryObjects of the thread by a number that each has in JavaScript, too: a list of
/// numbers takes a tenth of the time to read that a list of objects does. Whatever number comes
/// from there, what is found is an object of the thread.
class DeviceMemorySlots {
 public:
  uint32_t add(DeviceMemoryObject* object) {
    if (free_.empty()) {
      objects_.push_back(object);
      return static_cast<uint32_t>(objects_.size() - 1);
    }
    const uint32_t slot = free_.back();
    free_.pop_back();
    objects_[slot] = object;
    return slot;
  }
  void remove(uint32_t slot) {
    objects_[slot] = nullptr;
    free_.push_back(slot);
  }
  /// Null where there is none.
  DeviceMemoryObject* find(uint32_t slot) const { return slot < objects_.size() ? objects_[slot] : nullptr; }

 private:
  std::vector<DeviceMemoryObject*> objects_;
  std::vector<uint32_t> free_;
};

/// References of the thread that others have no more use for. Only the thread may drop them.
class ReleasedReferences {
 public:
  /// From any thread.
  void add(Napi::ObjectReference reference) {
    if (reference.IsEmpty()) return;
    const std::lock_guard lock(mutex_);
    if (has_ended_)
      reference.SuppressDestruct();
    else
      references_.push_back(std::move(reference));
  }
  void sweep() {
    const std::lock_guard lock(mutex_);
    references_.clear();
  }
  /// The references of a thread that ended are gone with it.
  void end() {
    const std::lock_guard lock(mutex_);
    references_.clear();
    has_ended_ = true;
  }

 private:
  std::mutex mutex_;
  std::vector<Napi::ObjectReference> references_;
  bool has_ended_ = false;
};

struct Environment {
  std::shared_ptr<InFlight> in_flight = std::make_shared<InFlight>();
  Napi::FunctionReference hold;  // see held-list.h
  std::shared_ptr<ReleasedReferences> released = std::make_shared<ReleasedReferences>();
  std::shared_ptr<DeviceMemorySlots> device_memories = std::make_shared<DeviceMemorySlots>();

  BackgroundJobs background_jobs;

  ~Environment() { released->end(); }

  static Environment& of(Napi::Env env) {
    void* data = nullptr;  // not by Napi::Env, for which a failure is fatal to the process
    if (napi_get_instance_data(env, &data) != napi_ok) throw Napi::Error::New(env);
    return *static_cast<Environment*>(data);
  }
};

}  // namespace fused_adamw
