// What the stand-in for the CUDA driver offers to tests beyond the driver's own
// functions. Look the functions up with dlsym: the real driver has none of them.
#pragma once

extern "C" {

/// Calls so far of a function of the driver, by its symbol: "cuLaunchKernel".
/// Or how many there are now of: "bytes" (of device memory, all devices), "allocations"
/// (of device memory), "pinned" (allocations of host memory), "events", "pending" (work that has not run).
using StandInCount = unsigned long long(const char* name);  // stand_in_count

/// Lets the call `after` calls from now (0: the next) of a function return a status and do
/// nothing else; `forever`: and every later one. Null: none fails any more.
using StandInFail = void(const char* function, unsigned after, int status, int forever);  // stand_in_fail

/// While held, no work runs: what waits for it would wait forever.
using StandInHold = void(int held);  // stand_in_hold
}
