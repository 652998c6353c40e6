/**
 * Optimizer: what every optimizer shares, and the registry of their names.
 * The interface is that of MXNet's `mxnet.optimizer.Optimizer`.
 */

import { checkBoolean, checkInteger, checkNumber, outOfRange, wrongKind, wrongKindIn } from '../errors.js';
import type { StepOptions } from '../gradients/step-options.js';
import { copyList } from '../lists.js';
import { fixedOption, readOptions, refuseAssignment } from '../options.js';
import { Exclusive } from '../step/exclusive.js';
import { checkIndex, type Index } from '../step/indices.js';
import {
  type ByParameter,
  type ByParameterOrPattern,
  Multipliers,
  type ParameterMultipliers,
} from '../step/multipliers.js';
import type { StepResult } from '../step/run-step.js';
import { checkClipGradient, checkRescaleGrad } from '../step/scalar-checks.js';
import { type DeviceCounts, UpdateCounts } from '../step/update-counts.js';
import type { TensorLike } from '../tensor/tensor-like.js';
import { LRScheduler } from './lr-scheduler.js';
import type { OneOrMany } from './step-arguments.js';

/** The options of every optimizer. */
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
  /** Gives the learning rate at each number of updates. Default: none. */
  readonly lrScheduler?: LRScheduler | null;
  /** Update count of an index before its first update. Default 0. */
  readonly beginNumUpdate?: number;
  /** Keep float32 masters of half-precision weights. Default false. */
  readonly multiPrecision?: boolean;
  /** Multipliers by index, which win over setLrMult() and setWdMult(); read at each step. */
  readonly paramDict?: ByParameter<ParameterMultipliers> | null;
  /** Tensors of one native call in fusedStep(); 0 and 1 are one. Default: all. */
  readonly aggregateNum?: number | null;
  /** Whether update() calls fusedStep() rather than step(). */
  readonly useFusedStep?: boolean;
}

/** As of Tensor: a copy of an optimizer's properties would have no counts. */
const NOT_CLONEABLE = Symbol('an optimizer, which cannot be cloned: send its stateDict()');

type OptimizerClass = new (options: never) => Optimizer;

const registry = new Map<string, OptimizerClass>();

/** The options of every optimizer: what a subclass adds to for its own. */
export const OPTIMIZER_OPTIONS = [
  'rescaleGrad',
  'paramIdx2name',
  'wd',
  'clipGradient',
  'learningRate',
  'lrScheduler',
  'beginNumUpdate',
  'multiPrecision',
  'paramDict',
  'aggregateNum',
  'useFusedStep',
] as const satisfies readonly (keyof OptimizerOptions)[];

/** What the same options are called in PyTorch and optax. */
export const OPTION_SYNONYMS = {
  lr: 'learningRate',
  weightDecay: 'wd',
  betas: 'beta1 and beta2',
  eps: 'epsilon',
  b1: 'beta1',
  b2: 'beta2',
  scheduler: 'lrScheduler',
};

/** What resumes an optimizer beside its states: plain data, for JSON. */
export interface OptimizerStateDict {
  /** Of this format. */
  readonly version: 1;
  /** The largest number of updates of any index on any device. */
  readonly numUpdate: number;
  /** How often each index was updated, by device: `{ cpu: { '0': 52, head: 2 } }`. */
  readonly counts: DeviceCounts;
  /** What the constructor or setLearningRate() set; null where the scheduler's own base holds. */
  readonly learningRate: number | null;
}

/**
 * The base of optimizers: options, learning rates, multipliers, update counts and the registry of MXNet's `Optimizer`.
 * A subclass has createState() and step().
 */
export abstract class Optimizer<State = unknown> {
  /** @internal */
  readonly cloning = NOT_CLONEABLE;
  /** @internal */
  protected readonly counts: UpdateCounts;
  /** @internal */
  protected readonly multipliers: Multipliers;
  /** @internal */
  protected readonly exclusive = new Exclusive();
  readonly #lrScheduler: LRScheduler | null;
  #rescaleGrad: number;
  #wd: number;
  #clipGradient: number | null;
  #multiPrecision: boolean;
  #aggregateNum: number;
  #useFusedStep: boolean;
  /** Without a scheduler the rate; beside one what it takes for its base, or null for its own. */
  #learningRate: number | null;
  /** The scheduler's base when #learningRate replaced it: a base that is assigned later counts again. */
  #replacedBaseLr: number | null = null;

  /**
   * @param known names of all options: a subclass that has more adds its own to OPTIMIZER_OPTIONS
   * @throws TypeError for options of the wrong kind or that are not known, RangeError for values out of range
   */
  constructor(options: OptimizerOptions = {}, known: readonly string[] = OPTIMIZER_OPTIONS) {
    const given = readOptions(options, 'options', known as typeof OPTIMIZER_OPTIONS, OPTION_SYNONYMS);
    const { lrScheduler } = given;
    if (lrScheduler !== undefined && lrScheduler !== null && !(lrScheduler instanceof LRScheduler)) {
      throw wrongKind('an LRScheduler', 'lrScheduler', lrScheduler);
    }
    this.#lrScheduler = lrScheduler ?? null;
    this.#wd = checkNumber(given.wd ?? 0, 'wd');
    this.#clipGradient = checkClipGradient(given.clipGradient);
    this.#multiPrecision = checkBoolean(given.multiPrecision ?? false, 'multiPrecision');
    this.#aggregateNum = checkAggregateNum(given.aggregateNum ?? Infinity);
    this.#useFusedStep = checkBoolean(given.useFusedStep ?? false, 'useFusedStep');
    this.counts = new UpdateCounts(checkInteger(given.beginNumUpdate ?? 0, 'beginNumUpdate'));
    this.multipliers = new Multipliers(given.paramIdx2name, given.paramDict);
    this.#rescaleGrad = checkRescaleGrad(given.rescaleGrad ?? 1);
    this.#learningRate = this.#initialLearningRate(given.learningRate ?? null);
  }

  /** The state of a weight: what createState() of the optimizer makes, once for each weight. */
  abstract createState(index: Index, weight: TensorLike): State;

  /**
   * Updates each weight in place on its own.
   *
   * @param indices of the tensors, one with one tensor or a list with lists
   * @param weights of any dtype and length, written
   * @param grads one for each weight, of its length, only read
   * @param states what createState() made for each weight, written
   */
  abstract step(
    indices: OneOrMany<Index>,
    weights: OneOrMany<TensorLike>,
    grads: OneOrMany<TensorLike>,
    states: OneOrMany<State>,
    options?: StepOptions,
  ): StepResult;

  /** Updates all weights in place in one call; an optimizer without such a call makes single steps. */
  fusedStep(
    indices: OneOrMany<Index>,
    weights: OneOrMany<TensorLike>,
    grads: OneOrMany<TensorLike>,
    states: OneOrMany<State>,
    options?: StepOptions,
  ): StepResult {
    return this.step(indices, weights, grads, states, options);
  }

  /** fusedStep() or step(), by `useFusedStep`. */
  update(
    indices: OneOrMany<Index>,
    weights: OneOrMany<TensorLike>,
    grads: OneOrMany<TensorLike>,
    states: OneOrMany<State>,
    options?: StepOptions,
  ): StepResult {
    return this.useFusedStep
      ? this.fusedStep(indices, weights, grads, states, options)
      : this.step(indices, weights, grads, states, options);
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
    options?: StepOptions,
  ): StepResult {
    return this.update(indices, weights, grads, states, options);
  }

  /** What gives the learning rate, or null. */
  get lrScheduler(): LRScheduler | null {
    return this.#lrScheduler;
  }

  /**
   * The learning rate now, before multipliers: the scheduler's at numUpdate, where there is one. It may be assigned
   * between steps, as setLearningRate() does it.
   */
  get learningRate(): number {
    return this.learningRateAt(this.numUpdate);
  }

  set learningRate(value: number) {
    this.setLearningRate(value);
  }

  /** @throws Error where there is a scheduler, RangeError for a rate that is negative or not finite */
  setLearningRate(learningRate: number): void {
    if (this.lrScheduler) {
      throw new Error('Expected no lrScheduler for setLearningRate but received one: the scheduler sets the rate');
    }
    this.#learningRate = checkNumber(learningRate, 'learningRate');
  }

  /** Weight decay, before multipliers; as every option below it may be assigned between steps. */
  get wd(): number {
    return this.#wd;
  }

  set wd(value: number) {
    this.#wd = checkNumber(value, 'wd');
  }

  /** The bound that rescaled gradients are clipped to, or null for none. */
  get clipGradient(): number | null {
    return this.#clipGradient;
  }

  set clipGradient(value: number | null) {
    this.#clipGradient = checkClipGradient(value);
  }

  /** Whether createState() makes float32 masters of half-precision weights. */
  get multiPrecision(): boolean {
    return this.#multiPrecision;
  }

  set multiPrecision(value: boolean) {
    this.#multiPrecision = checkBoolean(value, 'multiPrecision');
  }

  /** Tensors of one native call in fusedStep(); Infinity is all. */
  get aggregateNum(): number {
    return this.#aggregateNum;
  }

  set aggregateNum(value: number | null) {
    this.#aggregateNum = checkAggregateNum(value ?? Infinity);
  }

  /** Whether update() calls fusedStep() rather than step(). */
  get useFusedStep(): boolean {
    return this.#useFusedStep;
  }

  set useFusedStep(value: boolean) {
    this.#useFusedStep = checkBoolean(value, 'useFusedStep');
  }

  /** Multiplies the gradient before the update. A step with NaN, an infinity or 0 is skipped. */
  get rescaleGrad(): number {
    return this.#rescaleGrad;
  }

  set rescaleGrad(value: number) {
    this.#rescaleGrad = checkRescaleGrad(value);
  }

  /**
   * Sets the multipliers of the learning rate, by index or by name, in place of all that were set before. The keys of
   * a Map may be regular expressions too, which match names: `new Map([[/bias|norm/i, 0]])`. An index wins over a name,
   * a name over a pattern, and of patterns the first. A key that no parameter has by the time that one is updated again
   * is reported by a process warning (code FUSED_ADAMW_UNMET_MULTIPLIER).
   *
   * @throws TypeError or RangeError for anything but numbers of at least 0
   */
  setLrMult(lrMult: ByParameterOrPattern<number>): void {
    this.exclusive.check();
    this.multipliers.setLr(lrMult);
  }

  /**
   * The same for the weight decay.
   *
   * @throws as setLrMult()
   */
  setWdMult(wdMult: ByParameterOrPattern<number>): void {
    this.exclusive.check();
    this.multipliers.setWd(wdMult);
  }

  /** The largest number of updates of any index on any device. */
  get numUpdate(): number {
    return this.counts.numUpdate;
  }

  /**
   * How often an index was updated on a device, `beginNumUpdate` included.
   *
   * @param device 'cpu', 'cuda:0', ...
   * @throws TypeError for what is no index
   */
  updateCount(index: Index, device = 'cpu'): number {
    return this.counts.get(checkIndex(index, 'index'), device);
  }

  /**
   * What resumes this optimizer beside its states, as plain data for JSON: all update counts, and the learning rate.
   * Options and multipliers are given to the new optimizer as they were to this one.
   */
  stateDict(): OptimizerStateDict {
    return { version: 1, ...this.counts.toJSON(), learningRate: this.#learningRate };
  }

  /**
   * Takes what stateDict() gave: every count of before is replaced.
   *
   * @throws TypeError or RangeError for anything else; then nothing has changed
   */
  loadStateDict(stateDict: OptimizerStateDict): void {
    this.exclusive.check();
    const { version, numUpdate, counts, learningRate } = readOptions(stateDict, 'stateDict', STATE_DICT_KEYS);
    if (version !== 1) throw outOfRange('1', 'stateDict.version', version);
    const checkedRate = learningRate === null ? null : checkNumber(learningRate, 'stateDict.learningRate');
    if (checkedRate === null && !this.lrScheduler) {
      throw outOfRange('a number, since there is no lrScheduler,', 'stateDict.learningRate', learningRate);
    }
    this.counts.load(numUpdate, counts, 'stateDict');
    this.#learningRate = checkedRate;
  }

  /** As stateDict(): options are not part of it. */
  toJSON(): OptimizerStateDict {
    return this.stateDict();
  }

  /** For subclasses: counts one more update of each index; MXNet's `_update_count`. */
  protected advanceCounts(indices: readonly Index[], device = 'cpu'): void {
    this.exclusive.check();
    const checked = copyList(indices).map((index, i) => checkIndex(index, `indices[${i}]`));
    this.counts.advance([...new Set(this.counts.claim(checked, device))]);
  }

  /** For subclasses: the learning rate of an index, its multiplier included; MXNet's `_get_lr`. */
  protected learningRateOf(index: Index): number {
    return this.learningRate * this.multipliers.lr(checkIndex(index, 'index'));
  }

  /** For subclasses: the weight decay of an index, its multiplier included; MXNet's `_get_wd`. */
  protected weightDecayOf(index: Index): number {
    return this.wd * this.multipliers.wd(checkIndex(index, 'index'));
  }

  /** The learning rate, before multipliers, once numUpdate is what is given. */
  protected learningRateAt(numUpdate: number): number {
    if (!this.lrScheduler) return this.#learningRate as number;
    const { baseLr } = this.lrScheduler;
    const base = this.#learningRate === null || baseLr !== this.#replacedBaseLr ? baseLr : this.#learningRate;
    return checkNumber(this.lrScheduler.learningRateAt(numUpdate, base), 'the learning rate of lrScheduler');
  }

  #initialLearningRate(given: number | null): number | null {
    if (!this.lrScheduler) return given === null ? 0.01 : checkNumber(given, 'learningRate');
    if (given === null) return null;
    const { baseLr, warmupBeginLr } = this.lrScheduler;
    this.#replacedBaseLr = baseLr;
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

for (const name of ['lrScheduler', 'beginNumUpdate', 'paramIdx2name', 'paramDict']) {
  refuseAssignment(Optimizer.prototype, name, () => fixedOption(name));
}
refuseAssignment(Optimizer.prototype, 'numUpdate', () =>
  wrongKindIn('what loadStateDict() restores', 'numUpdate', 'an assignment, which cannot change it'),
);

/** Makes a class known to createOptimizer(). */
export const register: typeof Optimizer.register = (optimizer, name) => Optimizer.register(optimizer, name);

/** An optimizer by its name; MXNet's `create`. */
export const createOptimizer: typeof Optimizer.createOptimizer = (name, options) =>
  Optimizer.createOptimizer(name, options);

const STATE_DICT_KEYS = ['version', 'numUpdate', 'counts', 'learningRate'] as const;

function checkAggregateNum(value: unknown): number {
  if (value === Infinity) return Infinity;
  return Math.max(1, checkInteger(value, 'aggregateNum'));
}
