/** Calls that must not be made inside one another, or while the caller's code is asked for something. */
import { outOfRangeIn } from '../errors.js';

export class Exclusive {
  #isRunning = false;
  /** The frame that is on the stack during a call; its identity tells it from those of other objects. */
  readonly #frame = <T>(body: () => T): T => body();

  /**
   * Runs a call.
   *
   * @throws RangeError inside another one
   */
  run<T>(body: () => T): T {
    this.check();
    this.#isRunning = true;
    try {
      return this.#frame(body);
    } finally {
      this.#isRunning = false;
    }
  }

  /** @throws RangeError inside a call */
  check(): void {
    if (!this.#isRunning) return;
    // A call that was terminated (worker.terminate(), a timeout of vm) has not come to its `finally`.
    if (!isOnStack(this.#frame)) this.#isRunning = false;
    else throw outOfRangeIn('a call outside of its steps', 'this', 'one inside a step of this optimizer');
  }
}

/** Whether a function is being called. */
function isOnStack(target: (...args: never[]) => unknown): boolean {
  const { stackTraceLimit, prepareStackTrace } = Error;
  try {
    Error.stackTraceLimit = 1;
    Error.prepareStackTrace = (_, callSites) => callSites.length;
    const holder: { stack?: unknown } = {};
    Error.captureStackTrace(holder, target); // begins below the target: nothing where that is not on the stack
    return holder.stack !== 0;
  } finally {
    Error.stackTraceLimit = stackTraceLimit;
    Error.prepareStackTrace = prepareStackTrace;
  }
}
