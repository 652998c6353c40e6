// Objects that are used again rather than destroyed.
#pragma once

#include <map>
#include <memory>
#include <mutex>

namespace fused_adamw::cuda {

/// Keeps what was taken from it, once nobody uses it, for the next who takes one
/// of the same size. To allocate from the driver takes long, and to free may wait for
/// all work of the device. It must outlive what was taken.
template <class T>
class Pool {
 public:
  /// An object of that size, made by make() where there is none left. Giving it back
  /// calls no function of the driver.
  template <class Make>
  std::shared_ptr<T> take(size_t size, const Make& make) {
    std::unique_ptr<T> object = find(size);
    if (!object) object = make();
    return {object.release(), [this, size](T* unused) {
              const std::lock_guard lock(mutex_);
              unused_.emplace(size, unused);
            }};
  }

  /// Destroys what nobody uses.
  void clear() {
    Unused unused;
    const std::lock_guard lock(mutex_);
    unused.swap(unused_);
  }

 private:
  using Unused = std::multimap<size_t, std::unique_ptr<T>>;

  std::unique_ptr<T> find(size_t size) {
    const std::lock_guard lock(mutex_);
    const auto found = unused_.find(size);
    return found == unused_.end() ? nullptr : std::move(unused_.extract(found).mapped());
  }

  std::mutex mutex_;
  Unused unused_;
};

}  // namespace fused_adamw::cuda
