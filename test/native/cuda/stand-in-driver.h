// Functions of the stand-in driver for tests. Look them up with dlsym, since the
// real driver has none of them.
#pragma once

extern "C" {

/// The number of calls so far of a function, as "cuLaunchKernel"; or the present
/// number of "bytes" and "allocations" (device memory of all devices), "pinned"
/// (allocations of host memory), "events", "pending" (queued work).
using StandInCount = unsigned long long(const char* name);  // stand_in_count

/// Makes the call `after` calls from now (0: the next) of a function return a status and do
/// nothing else; with `forever` every later one too. Null ends that.
using StandInFail = void(const char* function, unsigned after, int status, int forever);  // stand_in_fail

/// While paused, no queued work runs, so that waiting for it would never end.
using StandInPause = void(int paused);  // stand_in_pause
}
