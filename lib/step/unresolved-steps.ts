/** Steps on a GPU about which that has decided, or will, and the host does not know yet how. */
import { inspect } from 'node:util';
import { DECISION_OUTCOMES } from '../backend/abi.js';
import type { LossScaler } from '../gradients/loss-scaler.js';
import type { CountedStep, Counter } from './counter.js';
import type { StepResult } from './run-step.js';
import type { TensorList } from './tensor-list.js';

/** So many at most: then the host waits for the first of them. */
export const MOST_UNRESOLVED = 8;

interface UnresolvedStep extends CountedStep {
  result: StepResult | null;
  /** Of the device, which failed. */
  error: unknown;
}

/** All of them are of one list of tensors and one LossScaler, since each begins with what the last one has left there. */
export class UnresolvedSteps {
  readonly #advance: (step: CountedStep) => void;
  /** The oldest first. */
  #steps: UnresolvedStep[] = [];
  #tensors: TensorList | null = null;
  #lossScaler: LossScaler | null = null;
  #skips = 0;

  /** @param advance advances the counters of a step */
  constructor(advance: (step: CountedStep) => void) {
    this.#advance = advance;
  }

  get size(): number {
    return this.#steps.length;
  }

  /** How many of the steps were skipped since there were none that is unresolved. */
  get skips(): number {
    return this.#skips;
  }

  /**
   * Before a step of these tensors: resolves those that are decided, and all of others. Waits only where there are too
   * many, or others.
   */
  makeRoom(tensors: TensorList, lossScaler: LossScaler | null): void {
    if (tensors !== this.#tensors || lossScaler !== this.#lossScaler) this.settle();
    while (this.size === MOST_UNRESOLVED || (this.size > 0 && tensors.isDecided)) this.#resolveFirst(tensors);
    if (this.size === 0) this.#skips = 0;
  }

  /** Adds a step that has been begun, after makeRoom(). Its result waits for it when it is looked at. */
  add(tensors: TensorList, lossScaler: LossScaler | null, counters: readonly Counter[]): StepResult {
    const step: UnresolvedStep = { counters, advanced: 0, result: null, error: undefined };
    this.#tensors = tensors;
    this.#lossScaler = lossScaler;
    this.#steps[this.size] = step; // amid a step: other code may have replaced push()
    const resultOf = (): StepResult => this.#resultOf(step);
    return {
      __proto__: SHOWN,
      get skipped() {
        return resultOf().skipped;
      },
      get reason() {
        return resultOf().reason;
      },
      get gradNorm() {
        return resultOf().gradNorm;
      },
    } as unknown as StepResult;
  }

  /** Waits for all steps. */
  settle(): void {
    while (this.#tensors !== null && this.size > 0) this.#resolveFirst(this.#tensors);
    this.#tensors = null;
    this.#lossScaler = null;
    this.#skips = 0;
  }

  #resultOf(step: UnresolvedStep): StepResult {
    while (step.result === null && step.error === undefined && this.#tensors !== null && this.size > 0) {
      this.#resolveFirst(this.#tensors);
    }
    if (step.result === null) throw step.error ?? new Error('The step was interrupted, and nobody knows its result');
    return step.result;
  }

  #resolveFirst(tensors: TensorList): void {
    const [step] = this.#steps;
    if (step.result === null) {
      try {
        const { outcome, norm, finite } = tensors.takeDecision();
        step.result = resultOf(DECISION_OUTCOMES[outcome], norm);
        if (step.result.skipped) this.#skips++;
        if (step.result.reason !== 'rescaleGrad') this.#lossScaler?.follow(finite);
      } catch (error) {
        for (const each of this.#steps) each.error = error;
        this.#steps = [];
        this.#tensors = null;
        throw error;
      }
    }
    if (!step.result.skipped) this.#advance(step);
    this.#steps.shift();
  }
}

/** What results inherit: console.log() shows what they say, rather than that somebody has to ask. */
const SHOWN = {
  [inspect.custom](this: StepResult): object {
    return { ...this };
  },
};

function resultOf(reason: 'gradNorm' | 'rescaleGrad' | null, gradNorm: number): StepResult {
  if (reason === null) return { skipped: false, gradNorm };
  return reason === 'gradNorm' ? { skipped: true, reason, gradNorm } : { skipped: true, reason };
}
