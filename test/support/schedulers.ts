/** Custom learning rate schedules. */
import { LRScheduler } from '../../lib/index.js';

/** The base rate over the square root of the count. */
export class InverseRoot extends LRScheduler {
  protected override afterWarmup(numUpdate: number, baseLr: number): number {
    return baseLr / Math.sqrt(Math.max(1, numUpdate));
  }
}

/** A schedule that calls a function. */
export class Schedule extends LRScheduler {
  readonly #rate: (numUpdate: number) => number;

  constructor(rate: (numUpdate: number) => number) {
    super({ baseLr: 0.1 });
    this.#rate = rate;
  }

  protected override afterWarmup(numUpdate: number): number {
    return this.#rate(numUpdate);
  }
}
