/** The interface of what is measured: this package, the machine's limits, other libraries. */
import type { Arrays } from '../arrays.js';
import type { Case } from '../cases.js';

/** A contender with the arrays of a case, ready to run. */
export interface Runner {
  /** Makes a number of steps and returns the mean nanoseconds of one. */
  run(steps: number): number | Promise<number>;
  /** SHA-256 of the weights after HASHED_STEPS steps, if they must equal those of this package. */
  readonly hash?: string;
  close?(): void | Promise<void>;
}

export const HASHED_STEPS = 2;

/** What the contenders of a case share. */
export interface CaseContext {
  readonly case: Case;
  readonly threads: number;
  /** Arrays in memory that this package allocates. */
  tensors(): Arrays;
  /** Arrays where the engine and malloc place them. */
  plain(): Arrays;
  /** SHA-256 of this package's weights after HASHED_STEPS steps. */
  hash(): string;
}

export interface Contender {
  readonly name: string;
  /** 'this': this package; 'roof': the machine's limits; 'peer': another library. */
  readonly kind: 'this' | 'roof' | 'peer';
  /** Whether it runs if no contenders are named. */
  readonly byDefault: boolean;
  /** @returns the reason as a string if it cannot run this case here */
  open(context: CaseContext): Promise<Runner | string>;
  /** Called at the end of the benchmark. */
  end?(): Promise<void>;
}

/** Mean nanoseconds of a number of calls. */
export function timed(steps: number, step: () => void): number {
  const start = process.hrtime.bigint();
  for (let i = 0; i < steps; i++) step();
  return Number(process.hrtime.bigint() - start) / steps;
}
