/** Schedules of a user's own. */
import { LRScheduler } from '../../lib/index.js';

/** The base rate over the square root of the count. */
export class InverseRoot extends LRScheduler {
  protected override afterWarmup(numUpdate: number, baseLr: number): number {
    return baseLr / Math.sqrt(Math.max(1, numUpdate));
  }
}
