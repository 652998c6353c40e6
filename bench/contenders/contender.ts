/** What is measured against what. */
import type { Arrays } from '../arrays.js';
import type { Case } from '../cases.js';

/** A contender with the arrays of a case, ready to run. */
export interface Runner {
  /** Makes so many steps and returns the nanoseconds of one, on average. */
  run(steps: number): number | Promise<number>;
  /** SHA-256 of the weights after HASHED_STEPS steps, where they must be those of this package. */
  readonly hash?: string;
  close?(): void | Promise<void>;
}

export const HASHED_STEPS = 2;

/** What the contenders of a case share. */
export interface CaseContext {
  readonly case: Case;
  readonly threads: number;
  /** Arrays in memory of this package. */
  tensors(): Arrays;
  /** Arrays as the engine and malloc place them. */
  plain(): Arrays;
  /** SHA-256 of this package's weights after HASHED_STEPS steps. */
  hash(): string;
}

export interface Contender {
  readonly name: string;
  /** 'this': this package; 'roof': what limits it; 'peer': another library. */
  readonly kind: 'this' | 'roof' | 'peer';
  /** Whether it runs when no contenders are named. */
  readonly byDefault: boolean;
  /** @returns a string, the reason, where it cannot run this case here */
  open(context: CaseContext): Promise<Runner | string>;
  /** At the end of the benchmark. */
  end?(): Promise<void>;
}

/** Nanoseconds of one of so many calls, on average. */
export function timed(steps: number, step: () => void): number {
  const start = process.hrtime.bigint();
  for (let i = 0; i < steps; i++) step();
  return Number(process.hrtime.bigint() - start) / steps;
}
