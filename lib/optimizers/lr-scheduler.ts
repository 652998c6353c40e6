/**
 * Learning rate schedules, with MXNet's names and values
 * (python/mxnet/lr_scheduler.py). A schedule here is a pure function of the
 * number of updates: it can be asked in any order and at any time.
 */
import { checkInteger, checkNumber, checkOneOf, ORIGIN, outOfRange, THIS_COPY, wrongKind } from '../errors.js';
import { copyList } from '../lists.js';
import { readOptions } from '../options.js';

/** The options of every schedule. */
export interface LRSchedulerOptions {
  /** Learning rate at the start, and at the end of the warm-up. Default 0.01. */
  readonly baseLr?: number;
  /** Updates before the schedule begins. Default 0. */
  readonly warmupSteps?: number;
  /** Learning rate at the start of the warm-up; at most baseLr. Default 0. */
  readonly warmupBeginLr?: number;
  /** 'linear' rises to baseLr; 'constant' stays at warmupBeginLr. Default 'linear'. */
  readonly warmupMode?: 'linear' | 'constant';
}

/** The options of every schedule: what a subclass adds to for its own. */
export const LR_SCHEDULER_OPTIONS = [
  'baseLr',
  'warmupSteps',
  'warmupBeginLr',
  'warmupMode',
] as const satisfies readonly (keyof LRSchedulerOptions)[];

const SYNONYMS = {
  lr: 'baseLr',
  learningRate: 'baseLr',
  warmup: 'warmupSteps',
  minLr: 'finalLr',
  etaMin: 'finalLr',
  tMax: 'maxUpdate',
  pwr: 'power',
  gamma: 'factor',
  stepSize: 'step',
  milestones: 'step',
};

/** The base of all schedules: the warm-up, and what comes after it in a subclass. */
export abstract class LRScheduler {
  /** Learning rate at the start, and at the end of the warm-up. */
  baseLr: number;
  /** Updates before the schedule begins. */
  readonly warmupSteps: number;
  /** Learning rate at the start of the warm-up. */
  readonly warmupBeginLr: number;
  /** Whether the warm-up rises to baseLr or stays at warmupBeginLr. */
  readonly warmupMode: 'linear' | 'constant';

  /**
   * @param known names of all options: a subclass that has more adds its own to LR_SCHEDULER_OPTIONS
   * @throws TypeError for an option that is not known, RangeError for a negative rate or count, or a warm-up that begins
   *   above baseLr
   */
  constructor(options: LRSchedulerOptions = {}, known: readonly string[] = LR_SCHEDULER_OPTIONS) {
    const given = readOptions(options, 'options', known as typeof LR_SCHEDULER_OPTIONS, SYNONYMS);
    this.baseLr = checkNumber(given.baseLr ?? 0.01, 'baseLr');
    this.warmupSteps = checkInteger(given.warmupSteps ?? 0, 'warmupSteps');
    this.warmupBeginLr = checkNumber(given.warmupBeginLr ?? 0, 'warmupBeginLr');
    this.warmupMode = checkOneOf(given.warmupMode ?? 'linear', 'warmupMode', ['linear', 'constant']);
    if (this.warmupBeginLr > this.baseLr) {
      throw outOfRange(`at most baseLr (${this.baseLr})`, 'warmupBeginLr', this.warmupBeginLr);
    }
  }

  /** @internal */
  get [ORIGIN](): object {
    return THIS_COPY;
  }

  /**
   * The learning rate of an update.
   *
   * @param numUpdate the largest number of updates of any parameter, this one included
   * @param baseLr taken instead of this.baseLr
   */
  learningRateAt(numUpdate: number, baseLr: number = this.baseLr): number {
    if (numUpdate >= this.warmupSteps) return this.afterWarmup(numUpdate, baseLr);
    if (this.warmupMode === 'constant') return this.warmupBeginLr;
    return this.warmupBeginLr + ((baseLr - this.warmupBeginLr) * numUpdate) / this.warmupSteps;
  }

  /** The learning rate of an update that is not part of the warm-up. */
  protected abstract afterWarmup(numUpdate: number, baseLr: number): number;
}

function checkFactor(value: unknown): number {
  const factor = checkNumber(value ?? 1, 'factor');
  if (factor > 1) throw outOfRange('a number of at most 1', 'factor', factor);
  return factor;
}

/** The options of FactorScheduler. */
export interface FactorSchedulerOptions extends LRSchedulerOptions {
  /** Updates from one reduction to the next; at least 1. */
  readonly step: number;
  /** What the rate is multiplied by; at most 1. Default 1. */
  readonly factor?: number;
  /** The rate does not fall below this. Default 1e-8. */
  readonly stopFactorLr?: number;
}

const FACTOR_OPTIONS = [...LR_SCHEDULER_OPTIONS, 'step', 'factor', 'stopFactorLr'] as const;

/** Multiplies the learning rate by `factor` every `step` updates. */
export class FactorScheduler extends LRScheduler {
  /** Updates from one reduction to the next. */
  readonly step: number;
  /** What the rate is multiplied by. */
  readonly factor: number;
  /** The rate does not fall below this. */
  readonly stopFactorLr: number;
  // The last rate that was asked for, since the next is often a few products on.
  #last = { baseLr: 0, reductions: 0, rate: 0 };

  /**
   * @param known names of all options, as of LRScheduler
   * @throws as LRScheduler, and for a step below 1, or a factor above 1
   */
  constructor(options: FactorSchedulerOptions, known: readonly string[] = FACTOR_OPTIONS) {
    const given = readOptions(options, 'options', known as typeof FACTOR_OPTIONS, SYNONYMS);
    super(given, known);
    this.step = checkInteger(given.step, 'step', 1);
    this.factor = checkFactor(given.factor);
    this.stopFactorLr = checkNumber(given.stopFactorLr ?? 1e-8, 'stopFactorLr');
  }

  protected override afterWarmup(numUpdate: number, baseLr: number): number {
    const reductions = Math.max(0, Math.ceil(numUpdate / this.step) - 1);
    let { rate, reductions: done } = this.#last;
    if (this.#last.baseLr !== baseLr || done > reductions) {
      rate = baseLr;
      done = 0;
    }
    for (; done < reductions; done++) {
      const reduced = Math.max(rate * this.factor, this.stopFactorLr);
      if (Object.is(reduced, rate)) break; // and so for ever
      rate = reduced;
    }
    this.#last = { baseLr, reductions, rate };
    return rate;
  }
}

/** The options of MultiFactorScheduler. */
export interface MultiFactorSchedulerOptions extends LRSchedulerOptions {
  /** Updates after which the rate is reduced, in increasing order. */
  readonly step: readonly number[];
  /** What the rate is multiplied by; at most 1. Default 1. */
  readonly factor?: number;
}

const MULTI_FACTOR_OPTIONS = [...LR_SCHEDULER_OPTIONS, 'step', 'factor'] as const;

/** Multiplies the learning rate by `factor` after each of a list of updates. */
export class MultiFactorScheduler extends LRScheduler {
  /** Updates after which the rate is reduced, in increasing order. */
  readonly step: readonly number[];
  /** What the rate is multiplied by. */
  readonly factor: number;

  /**
   * @param known names of all options, as of LRScheduler
   * @throws as LRScheduler, and for steps that do not increase from at least 1, or a factor above 1
   */
  constructor(options: MultiFactorSchedulerOptions, known: readonly string[] = MULTI_FACTOR_OPTIONS) {
    const given = readOptions(options, 'options', known as typeof MULTI_FACTOR_OPTIONS, SYNONYMS);
    super(given, known);
    const steps = Array.isArray(given.step) ? copyList(given.step) : [];
    if (steps.length === 0) throw wrongKind('a list of at least one number', 'step', given.step);
    for (let i = 0; i < steps.length; i++) {
      checkInteger(steps[i], `step[${i}]`, 1);
      if (i > 0 && steps[i] <= steps[i - 1]) throw outOfRange(`more than step[${i - 1}]`, `step[${i}]`, steps[i]);
    }
    this.step = Object.freeze(steps);
    this.factor = checkFactor(given.factor);
  }

  protected override afterWarmup(numUpdate: number, baseLr: number): number {
    let rate = baseLr;
    for (const step of this.step) if (numUpdate > step) rate *= this.factor;
    return rate;
  }
}

/** The options of CosineScheduler, and of PolyScheduler beside `power`. */
export interface DecaySchedulerOptions extends LRSchedulerOptions {
  /** The update at which the rate reaches finalLr; more than warmupSteps. */
  readonly maxUpdate: number;
  /** Learning rate from maxUpdate on. Default 0. */
  readonly finalLr?: number;
}

const DECAY_OPTIONS = [...LR_SCHEDULER_OPTIONS, 'maxUpdate', 'finalLr'] as const;

/** Schedules that fall from baseLr to finalLr between the warm-up and maxUpdate. */
abstract class DecayScheduler extends LRScheduler {
  /** The update at which the rate reaches finalLr. */
  readonly maxUpdate: number;
  /** Learning rate from maxUpdate on. */
  readonly finalLr: number;

  /**
   * @param known names of all options, as of LRScheduler
   * @throws as LRScheduler, and RangeError for a maxUpdate that is not above warmupSteps
   */
  constructor(options: DecaySchedulerOptions, known: readonly string[] = DECAY_OPTIONS) {
    const given = readOptions(options, 'options', known as typeof DECAY_OPTIONS, SYNONYMS);
    super(given, known);
    this.maxUpdate = checkInteger(given.maxUpdate, 'maxUpdate', 1);
    this.finalLr = checkNumber(given.finalLr ?? 0, 'finalLr');
    if (this.maxUpdate <= this.warmupSteps) {
      throw outOfRange(`more than warmupSteps (${this.warmupSteps})`, 'maxUpdate', this.maxUpdate);
    }
  }

  protected override afterWarmup(numUpdate: number, baseLr: number): number {
    if (numUpdate >= this.maxUpdate) return this.finalLr;
    const progress = (numUpdate - this.warmupSteps) / (this.maxUpdate - this.warmupSteps);
    return this.finalLr + (baseLr - this.finalLr) * this.remaining(progress);
  }

  /** The share of the way down that is left, 1 to 0, after a share `progress` of the updates. */
  protected abstract remaining(progress: number): number;
}

/** The options of PolyScheduler. */
export interface PolySchedulerOptions extends DecaySchedulerOptions {
  /** Power of the decay; MXNet's `pwr`. Default 2. */
  readonly power?: number;
}

const POLY_OPTIONS = [...DECAY_OPTIONS, 'power'] as const;

/** `finalLr + (baseLr - finalLr) * (1 - progress) ** power` */
export class PolyScheduler extends DecayScheduler {
  /** Power of the decay. */
  readonly power: number;

  /**
   * @param known names of all options, as of LRScheduler
   * @throws as LRScheduler, and for a maxUpdate that is not above warmupSteps, or a negative power
   */
  constructor(options: PolySchedulerOptions, known: readonly string[] = POLY_OPTIONS) {
    const given = readOptions(options, 'options', known as typeof POLY_OPTIONS, SYNONYMS);
    super(given, known);
    this.power = checkNumber(given.power ?? 2, 'power');
  }

  protected override remaining(progress: number): number {
    return (1 - progress) ** this.power;
  }
}

/** `finalLr + (baseLr - finalLr) * (1 + cos(pi * progress)) / 2` */
export class CosineScheduler extends DecayScheduler {
  protected override remaining(progress: number): number {
    return (1 + Math.cos(Math.PI * progress)) / 2;
  }
}

const OURS: readonly object[] = [
  FactorScheduler.prototype,
  MultiFactorScheduler.prototype,
  PolyScheduler.prototype,
  CosineScheduler.prototype,
];

/**
 * Whether nothing but the update decides about the rate, so that it can be asked about updates that may not take place.
 *
 * @internal
 */
export function isOurs(scheduler: LRScheduler): boolean {
  return OURS.includes(Object.getPrototypeOf(scheduler)) && !Object.hasOwn(scheduler, 'learningRateAt');
}
