/** The tensors of an AdamW step, bound: what a step then costs does not grow with looking at them. */

import { COMMON_SCALARS, GROUP_SCALARS } from '../backend/abi.js';
import { warnOfFallback } from '../backend/index.js';
import { outOfRangeIn, wrongKind } from '../errors.js';
import type { TensorLike } from '../tensor/tensor.js';
import type { Multipliers } from './multipliers.js';
import type { Binding, NamedList } from './tensor-list.js';
import type { Counter, Index, UpdateCounts } from './update-counts.js';

/** What a step did. */
export type StepResult =
  | { readonly skipped: false }
  /** `rescaleGrad` was NaN, infinite or 0: weights, states and counts are as they were. */
  | { readonly skipped: true; readonly reason: 'rescaleGrad' };

/** The tensors that share their scalars: one counter and the same multipliers. */
export interface ScalarGroup {
  readonly counter: Counter;
  readonly lrMult: number;
  readonly wdMult: number;
}

/**
 * What an optimizer decides of a step.
 *
 * @internal
 */
export interface StepRules {
  readonly counts: UpdateCounts;
  readonly multipliers: Multipliers;
  /** Tensors of one native call. */
  readonly aggregateNum: number;
  /** Remembers that a device failed in the middle of a step: skips() throws that from then on. */
  fail(error: unknown): void;
  /** Whether a step is on its way: schedulers and parameters are the caller's code, which may call anything. */
  isStepping: boolean;
  /** Whether the step is skipped. Throws for scalars that the arithmetic type cannot hold. */
  skips(binding: Binding): boolean;
  /** Writes the scalars of the update that makes numUpdate what is given. */
  writeScalars(scalars: Float64Array, groups: readonly ScalarGroup[], numUpdate: number, binding: Binding): void;
}

/**
 * Made by `AdamW.bind()`. Holds its arrays until `dispose()`.
 *
 * The arrays are looked at once; each step then only sees that their memory is
 * still there.
 */
export class BoundStep {
  readonly #rules: StepRules;
  readonly #indices: readonly Index[];
  #binding: Binding | null;
  #groups: ScalarGroup[] = [];
  #counters: Counter[] = [];
  #scalars = new Float64Array(0);
  #countsVersion = -1;
  #multipliersVersion = -1;

  /** @internal */
  constructor(rules: StepRules, indices: readonly Index[], binding: Binding) {
    this.#rules = rules;
    this.#indices = indices;
    this.#binding = binding;
  }

  /**
   * Updates all weights and states in place by the gradients that are bound.
   *
   * @throws RangeError where memory is gone, or a scalar is not one that the
   *   arithmetic type can hold; then nothing has changed
   */
  step(): StepResult {
    return this.run(this.#rules.aggregateNum);
  }

  /**
   * Takes other gradients, one for each weight and like it.
   *
   * @throws as AdamW.bind(); then the last gradients stay
   */
  setGrads(grads: readonly TensorLike[]): void {
    const binding = this.#bound();
    if (!Array.isArray(grads)) throw wrongKind('a list', 'grads', grads);
    if (grads.length !== binding.size) {
      throw outOfRangeIn(`a list of length ${binding.size}`, 'grads', `one of length ${grads.length}`);
    }
    this.takeGrads({ name: 'grads', values: [...grads] });
  }

  /** Lets go of the arrays; every later use throws. A second call does nothing. */
  dispose(): void {
    this.#binding?.dispose();
    this.#binding = null;
  }

  /** @internal */
  takeGrads(grads: NamedList): void {
    this.#bound().setGrads(grads);
  }

  /**
   * A step with so many tensors in one native call.
   *
   * @internal
   */
  run(aggregateNum: number): StepResult {
    const rules = this.#rules;
    if (rules.isStepping) {
      throw outOfRangeIn('a step after the last one', 'this', 'one inside another of the same optimizer');
    }
    rules.isStepping = true;
    try {
      return this.#run(aggregateNum);
    } finally {
      rules.isStepping = false;
    }
  }

  #run(aggregateNum: number): StepResult {
    const binding = this.#bound();
    const rules = this.#rules;
    const skips = rules.skips(binding);
    if (!skips) {
      this.#regroup(binding);
      rules.writeScalars(this.#scalars, this.#groups, rules.counts.numUpdateAfter(this.#counters), binding);
    }
    warnOfFallback();
    // Last of all, since schedulers and parameters are the caller's code: none of it runs between this and the kernels.
    this.#bound().checkMemory();
    if (skips) return { skipped: true, reason: 'rescaleGrad' };
    binding.begin();
    rules.counts.advance(this.#counters);
    try {
      binding.step(aggregateNum);
    } catch (error) {
      rules.fail(error);
      throw error;
    }
    return { skipped: false };
  }

  /** Sorts the tensors into groups again where a counter or a multiplier may have changed. */
  #regroup(binding: Binding): void {
    const { counts, multipliers } = this.#rules;
    const multipliersVersion = multipliers.version;
    if (this.#countsVersion === counts.version && this.#multipliersVersion === multipliersVersion) return;
    const counterOf = new Array<Counter>(binding.size);
    for (const { device, places } of binding.parts) {
      const claimed = counts.claim(
        places.map((i) => this.#indices[i]),
        device,
      );
      places.forEach((i, k) => {
        counterOf[i] = claimed[k];
      });
    }
    const groupOf = new Uint32Array(binding.size);
    const groups: ScalarGroup[] = [];
    const known = new Map<Counter, Map<string, number>>();
    for (let i = 0; i < groupOf.length; i++) {
      const counter = counterOf[i];
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
    const scalars = new Float64Array(COMMON_SCALARS.length + groups.length * GROUP_SCALARS.length);
    this.#bound().setGroups(groupOf, scalars);
    this.#scalars = scalars;
    this.#groups = groups;
    this.#counters = [...known.keys()];
    this.#countsVersion = counts.version;
    this.#multipliersVersion = multipliersVersion;
  }

  #bound(): Binding {
    if (!this.#binding) throw outOfRangeIn('a live BoundStep', 'this', 'one that was disposed of');
    return this.#binding;
  }
}
