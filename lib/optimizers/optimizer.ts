/**
 * Optimizer: what every optimizer shares, and the registry of their names.
 * The interface is that of MXNet's `mxnet.optimizer.Optimizer`.
 */

import {
  checkBoolean,
  checkInteger,
  checkNumber,
  checkObject,
  outOfRange,
  outOfRangeIn,
  wrongKind,
} from '../errors.js';
import { type ByParameter, checkIndex, Multipliers, type Parameter } from '../step/multipliers.js';
import type { StepResult } from '../step/run-step.js';
import { checkClipGradient, checkRescaleGrad } from '../step/scalar-checks.js';
import { type Index, UpdateCounts } from '../step/update-counts.js';
import type { TensorLike } from '../tensor/tensor-like.js';
import { LRScheduler } from './lr-scheduler.js';

/** One, or a list of as many as there are indices. */
export type OneOrMany<T> = T | readonly T[];

export interface OptimizerOptions {
  /** Multiplies the gradient before the update, often 1 / batch size. Default 1. */
  readonly rescaleGrad?: number;
  /** Names of the indices, for multipliers by name. */
  readonly paramIdx2name?: ByParameter<string> | null;
  /** Weight decay. Default 0. */
  readonly wd?: number;
  /** Gradients are clipped to [-clipGradient, clipGradient] after rescaling. Default: off. */
  readonly clipGradient?: number | null;
  /** Learning rate; null is the scheduler's own, or 0.01 without one. */
  readonly learningRate?: number | null;
  readonly lrScheduler?: LRScheduler | null;
  /** Update count of an index before its first update. Default 0. */
  readonly beginNumUpdate?: number;
  /** Keep float32 masters of half-precision weights. Default false. */
  readonly multiPrecision?: boolean;
  /** Multipliers by index, which win over setLrMult() and setWdMult(); read at each step. */
  readonly paramDict?: ByParameter<Parameter> | null;
  /** Tensors of one native call in fusedStep(); 0 and 1 are one. Default: all. */
  readonly aggregateNum?: number | null;
  /** Whether update() calls fusedStep() rather than step(). */
  readonly useFusedStep?: boolean;
}

type OptimizerClass = new (options: never) => Optimizer;

const registry = new Map<string, OptimizerClass>();

export abstract class Optimizer<State = unknown> {
  readonly lrScheduler: LRScheduler | null;
  readonly wd: number;
  readonly clipGradient: number | null;
  readonly multiPrecision: boolean;
  readonly aggregateNum: number;
  readonly useFusedStep: boolean;

  /** @internal */
  protected readonly counts: UpdateCounts;
  /** @internal */
  protected readonly multipliers: Multipliers;
  #rescaleGrad: number;
  /** Without a scheduler the rate; beside one what it takes for its base, or null for its own. */
  #learningRate: number | null;

  /** @throws TypeError for options of the wrong kind, RangeError for values out of range */
  constructor(options: OptimizerOptions = {}) {
    checkObject(options, 'options');
    const { lrScheduler, clipGradient, aggregateNum } = options;
    if (lrScheduler !== undefined && lrScheduler !== null && !(lrScheduler instanceof LRScheduler)) {
      throw wrongKind('an LRScheduler', 'lrScheduler', lrScheduler);
    }
    this.lrScheduler = lrScheduler ?? null;
    this.wd = checkNumber(options.wd ?? 0, 'wd');
    this.clipGradient = checkClipGradient(clipGradient);
    this.multiPrecision = checkBoolean(options.multiPrecision ?? false, 'multiPrecision');
    this.aggregateNum = checkAggregateNum(aggregateNum ?? Infinity);
    this.useFusedStep = checkBoolean(options.useFusedStep ?? false, 'useFusedStep');
    this.counts = new UpdateCounts(checkInteger(options.beginNumUpdate ?? 0, 'beginNumUpdate'));
    this.multipliers = new Multipliers(options.paramIdx2name, options.paramDict);
    this.#rescaleGrad = checkRescaleGrad(options.rescaleGrad ?? 1);
    this.#learningRate = this.#initialLearningRate(options.learningRate ?? null);
  }

  /** The state of a weight: what createState() of the optimizer makes, once for each weight. */
  abstract createState(index: Index, weight: TensorLike): State;

  /** Updates each weight in place on its own. */
  abstract step(
    indices: OneOrMany<Index>,
    weights: OneOrMany<TensorLike>,
    grads: OneOrMany<TensorLike>,
    states: OneOrMany<State>,
  ): StepResult;

  /** Updates all weights in place in one call; an optimizer without such a call makes single steps. */
  fusedStep(
    indices: OneOrMany<Index>,
    weights: OneOrMany<TensorLike>,
    grads: OneOrMany<TensorLike>,
    states: OneOrMany<State>,
  ): StepResult {
    return this.step(indices, weights, grads, states);
  }

  /** fusedStep() or step(), by `useFusedStep`. */
  update(
    indices: OneOrMany<Index>,
    weights: OneOrMany<TensorLike>,
    grads: OneOrMany<TensorLike>,
    states: OneOrMany<State>,
  ): StepResult {
    return this.useFusedStep
      ? this.fusedStep(indices, weights, grads, states)
      : this.step(indices, weights, grads, states);
  }

  /** The same as createState(), under MXNet's name for weights with masters. */
  createStateMultiPrecision(index: Index, weight: TensorLike): State {
    return this.createState(index, weight);
  }

  /** The same as update(), under MXNet's name for weights with masters. */
  updateMultiPrecision(
    indices: OneOrMany<Index>,
    weights: OneOrMany<TensorLike>,
    grads: OneOrMany<TensorLike>,
    states: OneOrMany<State>,
  ): StepResult {
    return this.update(indices, weights, grads, states);
  }

  /** The learning rate now, before multipliers: the scheduler's at numUpdate, where there is one. */
  get learningRate(): number {
    return this.learningRateAt(this.numUpdate);
  }

  /** @throws Error where there is a scheduler, RangeError for a rate that is negative or not finite */
  setLearningRate(learningRate: number): void {
    if (this.lrScheduler) {
      throw new Error('Expected no lrScheduler for setLearningRate but received one: the scheduler sets the rate');
    }
    this.#learningRate = checkNumber(learningRate, 'learningRate');
  }

  /** Multiplies the gradient before the update. A step with NaN, an infinity or 0 is skipped. */
  get rescaleGrad(): number {
    return this.#rescaleGrad;
  }

  set rescaleGrad(value: number) {
    this.#rescaleGrad = checkRescaleGrad(value);
  }

  /**
   * Sets the multipliers of the learning rate, by index or by name, in place of all that were set before.
   *
   * @throws TypeError or RangeError for anything but numbers of at least 0
   */
  setLrMult(lrMult: ByParameter<number>): void {
    this.multipliers.setLr(lrMult);
  }

  /** The same for the weight decay. */
  setWdMult(wdMult: ByParameter<number>): void {
    this.multipliers.setWd(wdMult);
  }

  /** The largest number of updates of any index on any device. */
  get numUpdate(): number {
    return this.counts.numUpdate;
  }

  /** How often an index was updated on a device, `beginNumUpdate` included. */
  updateCount(index: Index, device = 'cpu'): number {
    return this.counts.get(index, device);
  }

  /** For subclasses: counts one more update of each index; MXNet's `_update_count`. */
  protected advanceCounts(indices: readonly Index[], device = 'cpu'): void {
    this.counts.advance([...new Set(this.counts.claim(indices, device))]);
  }

  /** For subclasses: the learning rate of an index, its multiplier included; MXNet's `_get_lr`. */
  protected learningRateOf(index: Index): number {
    return this.learningRate * this.multipliers.lr(index);
  }

  /** For subclasses: the weight decay of an index, its multiplier included; MXNet's `_get_wd`. */
  protected weightDecayOf(index: Index): number {
    return this.wd * this.multipliers.wd(index);
  }

  /** The learning rate, before multipliers, once numUpdate is what is given. */
  protected learningRateAt(numUpdate: number): number {
    if (!this.lrScheduler) return this.#learningRate as number;
    const base = this.#learningRate ?? this.lrScheduler.baseLr;
    return checkNumber(this.lrScheduler.learningRateAt(numUpdate, base), 'the learning rate of lrScheduler');
  }

  #initialLearningRate(given: number | null): number | null {
    if (!this.lrScheduler) return given === null ? 0.01 : checkNumber(given, 'learningRate');
    if (given === null) return null;
    const { baseLr, warmupBeginLr } = this.lrScheduler;
    checkNumber(given, 'learningRate');
    if (given < warmupBeginLr) throw outOfRange(`at least warmupBeginLr (${warmupBeginLr})`, 'learningRate', given);
    if (given !== baseLr) {
      process.emitWarning('learning rate from `lrScheduler` has been overwritten by `learningRate` in optimizer.');
    }
    return given;
  }

  /**
   * Makes a class known to createOptimizer(); the names are not case-sensitive.
   *
   * @param name by default the name of the class
   */
  static register<T extends OptimizerClass>(optimizer: T, name: string = optimizer?.name): T {
    if (typeof optimizer !== 'function' || !(optimizer.prototype instanceof Optimizer)) {
      throw wrongKind('a subclass of Optimizer', 'optimizer', optimizer);
    }
    if (typeof name !== 'string' || name === '') throw wrongKind('a name', 'name', name);
    const key = name.toLowerCase();
    const known = registry.get(key);
    if (known && known !== optimizer) {
      process.emitWarning(`New optimizer ${optimizer.name} is overriding existing optimizer ${known.name}`);
    }
    registry.set(key, optimizer);
    return optimizer;
  }

  /**
   * An optimizer by its name, which is not case-sensitive.
   *
   * @throws RangeError for a name that was not registered
   */
  static createOptimizer(name: string, options: object = {}): Optimizer {
    if (typeof name !== 'string') throw wrongKind('a name', 'name', name);
    const optimizer = registry.get(name.toLowerCase());
    if (!optimizer) throw outOfRange(`one of ${[...registry.keys()].join(', ')}`, 'name', name);
    return new optimizer(options as never);
  }
}

/** Makes a class known to createOptimizer(). */
export const register: typeof Optimizer.register = (optimizer, name) => Optimizer.register(optimizer, name);

/** An optimizer by its name; MXNet's `create`. */
export const createOptimizer: typeof Optimizer.createOptimizer = (name, options) =>
  Optimizer.createOptimizer(name, options);

function checkAggregateNum(value: unknown): number {
  if (value === Infinity) return Infinity;
  return Math.max(1, checkInteger(value, 'aggregateNum'));
}

/**
 * The arguments of a step as lists of the same length.
 *
 * @internal
 */
export interface StepLists<State> {
  readonly indices: readonly Index[];
  readonly weights: readonly TensorLike[];
  readonly grads: readonly TensorLike[];
  readonly states: readonly State[];
}

/**
 * One index with one tensor, or lists, as lists.
 *
 * @internal
 */
export function toLists<State>(
  indices: OneOrMany<Index>,
  weights: OneOrMany<TensorLike>,
  grads: OneOrMany<TensorLike>,
  states: OneOrMany<State>,
): StepLists<State> {
  if (!Array.isArray(indices)) {
    checkIndex(indices, 'indices');
    for (const [name, value] of Object.entries({ weights, grads, states })) {
      if (Array.isArray(value)) throw wrongKind('one, as of indices,', name, value);
    }
    return {
      indices: [indices as Index],
      weights: [weights as TensorLike],
      grads: [grads as TensorLike],
      states: [states as State],
    };
  }
  for (const [name, value] of Object.entries({ weights, grads, states })) {
    if (!Array.isArray(value)) throw wrongKind('a list, as of indices,', name, value);
    if (value.length !== indices.length) {
      throw outOfRangeIn(`a list of length ${indices.length}`, name, `one of length ${value.length}`);
    }
  }
  return {
    indices,
    weights: weights as readonly TensorLike[],
    grads: grads as readonly TensorLike[],
    states: states as readonly State[],
  };
}
