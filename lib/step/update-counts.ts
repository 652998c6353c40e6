/**
 * How often each index was updated, per device.
 *
 * Indices that are always updated together share one counter, so that a step
 * over ten thousand of them advances one number. Where only some of a counter's
 * indices are claimed for a step, they move to a counter of their own.
 */
import { checkInteger, outOfRangeIn, wrongKind } from '../errors.js';
import type { CountedStep, Counter } from './counter.js';
import { type Index, indexOfKey } from './indices.js';
import { UnresolvedSteps } from './unresolved-steps.js';

/** The counts of each device, by index. */
export type DeviceCounts = Readonly<Record<string, Readonly<Record<string, number>>>>;

/** A step that was announced. */
interface PendingStep extends CountedStep {
  readonly tensors: number;
  /** How many of the tensors are updated, as of ScalarTable. */
  readonly table: { readonly progress: number };
}

export class UpdateCounts {
  /** The count of an index that was never updated. */
  readonly begin: number;
  #devices = new Map<string, Map<Index, Counter>>();
  #numUpdate: number;
  /** Steps that may count: everything that asks for counts waits for them. */
  readonly unresolved = new UnresolvedSteps((step) => this.#advanceBy(step));
  #version = 0;
  #pending: PendingStep | null = null;
  #isBroken = false;

  /** @param begin the count of an index that was never updated */
  constructor(begin: number) {
    this.begin = begin;
    this.#numUpdate = begin;
  }

  /** The largest count of all. */
  get numUpdate(): number {
    this.settle();
    return this.#numUpdate;
  }

  /** Changes whenever an index gets another counter: what claim() returned before may be stale. */
  get version(): number {
    return this.#version;
  }

  /** Whether a step was interrupted after it had updated some of its tensors, and others not. */
  get isBroken(): boolean {
    this.settleAnnounced();
    return this.#isBroken;
  }

  get(index: Index, device: string): number {
    this.settle();
    return this.#devices.get(device)?.get(index)?.count ?? this.begin;
  }

  /**
   * Counters that belong to these indices of a device and to no others, one
   * for each distinct count.
   *
   * @returns the counter of each index
   */
  claim(indices: readonly Index[], device: string): Counter[] {
    this.settle();
    let counters = this.#devices.get(device);
    if (!counters) {
      counters = new Map();
      this.#devices.set(device, counters);
    }
    const claimed = new Map<number, { counter: Counter | undefined; indices: Index[]; mixed: boolean }>();
    for (const index of indices) {
      const counter = counters.get(index);
      const count = counter?.count ?? this.begin;
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
      this.#version++; // before any index moves: an interrupt may leave some of them where they were
      for (const index of group.indices) {
        const old = counters.get(index);
        if (old) old.members--;
        counters.set(index, fresh);
      }
    }
    return indices.map((index) => counters.get(index) as Counter);
  }

  /**
   * What numUpdate will be once these counters are advanced.
   *
   * @param updates how often, steps that are not resolved included
   */
  numUpdateAfter(counters: readonly Counter[], updates: number): number {
    let most = this.#numUpdate;
    for (const { count } of counters) most = Math.max(most, count + updates);
    return most;
  }

  advance(counters: readonly Counter[]): void {
    this.settle();
    for (const counter of counters) this.#numUpdate = Math.max(this.#numUpdate, ++counter.count);
  }

  /**
   * Announces a step, before its first tensor is updated. JavaScript can be
   * interrupted between any two operations (worker.terminate(), a timeout of vm, an
   * overflow of the stack), and then no `finally` runs. So counts advance by what
   * the step has done, which settle() looks at now or whenever somebody asks.
   */
  announce(counters: readonly Counter[], tensors: number, table: { readonly progress: number }): void {
    this.#pending = { counters, tensors, table, advanced: 0 };
  }

  /** Has every step counted that is to be counted. Waits for those that a GPU decides about. */
  readonly settle = (): void => {
    this.settleAnnounced();
    this.unresolved.settle();
  };

  /** Advances the counters of a step that is complete, drops one that never began, and notes one that broke off. */
  settleAnnounced(): void {
    const pending = this.#pending;
    if (pending === null) return;
    const { progress } = pending.table;
    if (progress > 0) {
      if (progress < pending.tensors) this.#isBroken = true;
      this.#advanceBy(pending);
    }
    this.#pending = null;
  }

  #advanceBy(step: CountedStep): void {
    // Between advancing a counter and noting it nothing can interrupt.
    while (step.advanced < step.counters.length) {
      const count = ++step.counters[step.advanced++].count;
      if (count > this.#numUpdate) this.#numUpdate = count;
    }
  }

  /** Goes on after a step that broke off, which then counts. */
  recover(): void {
    this.settle();
    this.#isBroken = false;
  }

  /** All counts, as plain data. */
  toJSON(): { numUpdate: number; counts: DeviceCounts } {
    this.settle();
    const counts = Object.fromEntries(
      Array.from(this.#devices, ([device, counters]) => [
        device,
        Object.fromEntries(Array.from(counters, ([index, { count }]) => [String(index), count])),
      ]),
    );
    return { numUpdate: this.numUpdate, counts };
  }

  /**
   * Replaces all counts by what toJSON() gave; then nothing of before counts.
   *
   * @throws TypeError or RangeError for anything else; then nothing has changed
   */
  load(numUpdate: unknown, counts: unknown, name: string): void {
    const checkedNumUpdate = checkInteger(numUpdate, `${name}.numUpdate`);
    const devices = new Map<string, Map<Index, Counter>>();
    for (const [device, ofDevice] of entriesOf(counts, `${name}.counts`)) {
      if (!/^(cpu|cuda:\d+)$/.test(device)) {
        throw outOfRangeIn("'cpu' or 'cuda:N'", `a device of ${name}.counts`, JSON.stringify(device));
      }
      const counters = new Map<Index, Counter>();
      // Equal counts share a counter again, as after the steps that led to them.
      const byCount = new Map<number, Counter>();
      for (const [key, value] of entriesOf(ofDevice, `${name}.counts.${device}`)) {
        const count = checkInteger(value, `${name}.counts.${device}[${JSON.stringify(key)}]`);
        if (count > checkedNumUpdate) {
          const of = `${name}.counts.${device}[${JSON.stringify(key)}]`;
          throw outOfRangeIn(`at most numUpdate (${checkedNumUpdate})`, of, `${count}`);
        }
        const counter = byCount.get(count) ?? { count, members: 0 };
        byCount.set(count, counter);
        counter.members++;
        counters.set(indexOfKey(key), counter);
      }
      devices.set(device, counters);
    }
    this.settle(); // else a step of before would count later
    this.#devices = devices;
    this.#numUpdate = checkedNumUpdate;
    this.#version++;
    this.#pending = null;
    this.#isBroken = false;
  }
}

function entriesOf(value: unknown, name: string): [string, unknown][] {
  if (typeof value !== 'object' || value === null || Array.isArray(value)) throw wrongKind('an object', name, value);
  return Object.entries(value);
}
