// Work that is done beside the threads of JavaScript, on one thread of the process.
#pragma once

#include <memory>

namespace fused_adamw::cpu::background {

/// Something to do once; it must not throw.
class Work {
 public:
  virtual ~Work() = default;
  /// @param self this, for whoever is to have it afterwards
  virtual void run(std::unique_ptr<Work> self) = 0;
};

/// Runs the work after all that was started before it, whoever started that. Where no thread can be had it runs here,
/// before this returns.
///
/// @param owner whose work it is
void start(const void* owner, std::unique_ptr<Work> work);

/// Drops the work of an owner that has not begun, and waits for the end of what has.
void end(const void* owner);

}  // namespace fused_adamw::cpu::background
