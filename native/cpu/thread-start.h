// What both runtimes run, and what they need to start threads.
#pragma once

namespace fused_adamw::cpu {

/// What each thread of a call does, 0 being the calling one; returns whether there was work for it.
using ThreadBody = bool (*)(const void* context, int thread);

/// What the system last said to new threads. A refusal (EAGAIN) is often a
/// matter of the moment, but asking again at every step would cost too much: the
/// next attempt is 10 ms later, and each further refusal doubles that, up to 10 s.
namespace shortage {

/// Whether it is time to ask for threads.
bool may_ask();

/// No more than `threads` could be had, the calling one included.
void refused(int threads);

/// All that were asked for are there.
void granted();

/// The threads that a step can have, as far as is known; INT_MAX without a shortage.
int limit();

}  // namespace shortage

}  // namespace fused_adamw::cpu
