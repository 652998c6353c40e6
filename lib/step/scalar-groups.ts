/**
 * The tensors of a step in groups that share their scalars: those with the same
 * update count and the same multipliers.
 */
import { ScalarTable } from '../backend/scalar-table.js';
import type { Counter } from './counter.js';
import type { Index } from './indices.js';
import type { Multipliers } from './multipliers.js';
import type { TensorList } from './tensor-list.js';
import type { UpdateCounts } from './update-counts.js';

export interface ScalarGroup {
  readonly counter: Counter;
  readonly lrMult: number;
  readonly wdMult: number;
}

export class ScalarGroups {
  readonly #indices: readonly Index[];
  #groups: readonly ScalarGroup[] = [];
  /** The group of each tensor. */
  #groupOf = new Uint32Array(0);
  #counters: readonly Counter[] = [];
  #table = new ScalarTable(0);
  #candidates: ScalarTable | null = null;
  #countsVersion = -1;
  #multipliersVersion = -1;

  /** @param indices of the tensors */
  constructor(indices: readonly Index[]) {
    this.#indices = indices;
  }

  get groups(): readonly ScalarGroup[] {
    return this.#groups;
  }

  /** The counters of all tensors, each once. */
  get counters(): readonly Counter[] {
    return this.#counters;
  }

  /** The scalars of all groups, which the tensors read at each step. */
  get table(): ScalarTable {
    return this.#table;
  }

  /** The scalars of all groups so many times, for steps of which a GPU chooses one. */
  candidates(most: number): ScalarTable {
    this.#candidates ??= new ScalarTable(most * this.#groups.length);
    return this.#candidates;
  }

  /** Groups the tensors again where a counter or a multiplier may have changed. */
  update(tensors: TensorList, counts: UpdateCounts, multipliers: Multipliers): void {
    const multipliersVersion = multipliers.version;
    if (this.#countsVersion === counts.version) {
      if (this.#multipliersVersion === multipliersVersion) return;
      if (this.#hasMultipliersOf(multipliers)) {
        this.#multipliersVersion = multipliersVersion;
        return;
      }
    }
    const counterOf = this.#claimCounters(tensors, counts);
    const groupOf = new Uint32Array(tensors.size);
    const groups: ScalarGroup[] = [];
    const known = new Map<Counter, Map<string, number>>();
    for (let i = 0; i < groupOf.length; i++) {
      const counter = counterOf[i];
      multipliers.meet(this.#indices[i]);
      const lrMult = multipliers.lr(this.#indices[i]);
      const wdMult = multipliers.wd(this.#indices[i]);
      let ofCounter = known.get(counter);
      if (!ofCounter) {
        ofCounter = new Map();
        known.set(counter, ofCounter);
      }
      const key = `${lrMult} ${wdMult}`;
      let group = ofCounter.get(key);
      if (group === undefined) {
        group = groups.push({ counter, lrMult, wdMult }) - 1;
        ofCounter.set(key, group);
      }
      groupOf[i] = group;
    }
    const table = new ScalarTable(groups.length);
    tensors.setGroups(groupOf, table.values);
    this.#groupOf = groupOf;
    this.#table = table;
    this.#candidates = null;
    this.#groups = groups;
    this.#counters = [...known.keys()];
    this.#countsVersion = counts.version;
    this.#multipliersVersion = multipliersVersion;
  }

  /** Whether every tensor is in a group of its multipliers, which may have been set again to what they were. */
  #hasMultipliersOf(multipliers: Multipliers): boolean {
    return this.#indices.every((index, i) => {
      multipliers.meet(index);
      const { lrMult, wdMult } = this.#groups[this.#groupOf[i]];
      return multipliers.lr(index) === lrMult && multipliers.wd(index) === wdMult;
    });
  }

  #claimCounters(tensors: TensorList, counts: UpdateCounts): Counter[] {
    const counterOf = new Array<Counter>(tensors.size);
    for (const { device, positions } of tensors.partitions) {
      const claimed = counts.claim(
        positions.map((i) => this.#indices[i]),
        device,
      );
      positions.forEach((i, k) => {
        counterOf[i] = claimed[k];
      });
    }
    return counterOf;
  }
}
