/**
 * How often each index was updated, per device.
 *
 * Indices that are always updated together share one counter, so that a step
 * over ten thousand of them advances one number. Where only some of a counter's
 * indices are claimed for a step, they move to a counter of their own.
 */

export type Index = number | string;

export interface Counter {
  count: number;
  /** Indices that share it. */
  members: number;
}

export class UpdateCounts {
  readonly #begin: number;
  readonly #devices = new Map<string, Map<Index, Counter>>();
  #numUpdate: number;
  #version = 0;

  /** @param begin the count of an index that was never updated */
  constructor(begin: number) {
    this.#begin = begin;
    this.#numUpdate = begin;
  }

  /** The largest count of all. */
  get numUpdate(): number {
    return this.#numUpdate;
  }

  /** Moves whenever an index gets another counter: what claim() returned before may be stale. */
  get version(): number {
    return this.#version;
  }

  get(index: Index, device: string): number {
    return this.#devices.get(device)?.get(index)?.count ?? this.#begin;
  }

  /**
   * Counters that belong to these indices of a device and to no others, one
   * for each distinct count.
   *
   * @returns the counter of each index
   */
  claim(indices: readonly Index[], device: string): Counter[] {
    let counters = this.#devices.get(device);
    if (!counters) {
      counters = new Map();
      this.#devices.set(device, counters);
    }
    const claimed = new Map<number, { counter: Counter | undefined; indices: Index[]; mixed: boolean }>();
    for (const index of indices) {
      const counter = counters.get(index);
      const count = counter?.count ?? this.#begin;
      const group = claimed.get(count);
      if (!group) {
        claimed.set(count, { counter, indices: [index], mixed: false });
      } else {
        group.indices.push(index);
        group.mixed ||= counter !== group.counter;
      }
    }
    for (const [count, group] of claimed) {
      if (group.counter && !group.mixed && group.counter.members === group.indices.length) continue;
      const fresh: Counter = { count, members: group.indices.length };
      for (const index of group.indices) {
        const old = counters.get(index);
        if (old) old.members--;
        counters.set(index, fresh);
      }
      this.#version++;
    }
    return indices.map((index) => counters.get(index) as Counter);
  }

  /** What numUpdate will be once these counters are advanced. */
  numUpdateAfter(counters: readonly Counter[]): number {
    let most = this.#numUpdate;
    for (const { count } of counters) most = Math.max(most, count + 1);
    return most;
  }

  advance(counters: readonly Counter[]): void {
    this.#numUpdate = this.numUpdateAfter(counters);
    for (const counter of counters) counter.count++;
  }
}
