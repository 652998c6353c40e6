/** Calls that must not be made inside one another, or while the caller's code is asked for something. */
import { busy, outOfRangeIn } from '../errors.js';

export class Exclusive {
  #isRunning = false;
  /** The frame that is on the stack during a call; its identity tells it from those of other objects. */
  readonly #frame = <T>(body: () => T): T => body();
  /** Asynchronous steps that are not settled, and the last of them. */
  #pending = 0;
  #last: Promise<unknown> | null = null;

  /**
   * Runs a call.
   *
   * @throws RangeError inside another one, and while asynchronous steps are pending
   */
  run<T>(body: () => T): T {
    this.check();
    return this.runInTurn(body);
  }

  /**
   * Runs an asynchronous step once those before it are settled: at once where there are none.
   *
   * @throws RangeError inside a call
   */
  queue<T>(step: () => Promise<T>): Promise<T> {
    this.#checkOutside();
    const result = this.#inTurn(this.#pending === 0 ? null : this.#last, step);
    this.#last = result;
    return result;
  }

  async #inTurn<T>(before: Promise<unknown> | null, step: () => Promise<T>): Promise<T> {
    const first = before === null ? step() : null;
    // Only now: a first part that was terminated leaves nothing pending. From here on nothing is called before `finally`.
    this.#pending++;
    try {
      if (first !== null) return await first;
      try {
        await before;
      } catch {
        // Whoever called it is told.
      }
      return await step();
    } finally {
      this.#pending--;
    }
  }

  /**
   * Runs a part of an asynchronous step, or a call that may be made while some are pending.
   *
   * @throws RangeError inside another one
   */
  runInTurn<T>(body: () => T): T {
    this.#checkOutside();
    this.#isRunning = true;
    try {
      return this.#frame(body);
    } finally {
      this.#isRunning = false;
    }
  }

  /** @throws RangeError inside a call, and while asynchronous steps are pending */
  check(): void {
    this.#checkOutside();
    if (this.#pending > 0) {
      throw busy('an idle optimizer', 'this', 'one that is busy with an asynchronous step');
    }
  }

  #checkOutside(): void {
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
