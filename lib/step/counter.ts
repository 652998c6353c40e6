/** What counts the updates of some indices. */
export interface Counter {
  count: number;
  /** Indices that share it. */
  members: number;
}

/** A step whose counters advance. */
export interface CountedStep {
  readonly counters: readonly Counter[];
  /** How many of them have advanced. */
  advanced: number;
}
