/** Steps on a GPU about which that has decided, or will, and the host does not know yet how. */
import { inspect } from 'node:util';
import { DECISION_OUTCOMES } from '../backend/abi.js';
import { withSubnormals } from '../backend/index.js';
import type { LossScaler } from '../gradients/loss-scaler.js';
import type { CountedStep, Counter } from './counter.js';
import type { StepResult } from './run-step.js';
import type { TensorList } from './tensor-list.js';

/** So many at most: then the host waits for the first of them. */
export const MOST_UNRESOLVED = 8;

interface UnresolvedStep extends CountedStep {
  /** What resolves it; null once it is. */
  owner: UnresolvedSteps | null;
  result: StepResult | null;
  /** Of the device, which failed. */
  error: unknown;
}

/**
 * All of them are of one list of tensors and one LossScaler, since each begins with what the last one has left there.
 *
 * JavaScript can be interrupted wherever a function is called or a loop goes round: so what was decided can be read again,
 * and what follows from it is noted where neither happens.
 */
export class UnresolvedSteps {
  readonly #advance: (step: CountedStep) => void;
  /** The oldest first. */
  #steps: readonly UnresolvedStep[] = [];
  #tensors: TensorList | null = null;
  #lossScaler: LossScaler | null = null;
  /** Since there were none that is unresolved: those that are resolved, and how many of these were skipped. */
  #resolved = 0;
  #skips = 0;
  /** Whether a step was begun that is not among them: it failed, or was interrupted. */
  #isBegun = false;
  #failure: unknown;
  readonly #found = new Float64Array(3);

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

  /** What the device reported when it failed under one of the steps; undefined if it did not. */
  get failure(): unknown {
    return this.#failure;
  }

  /**
   * Before a step of these tensors: resolves those that are decided, and all of others. Waits only where there are too
   * many, or others.
   */
  makeRoom(tensors: TensorList, lossScaler: LossScaler | null): void {
    if (tensors !== this.#tensors || lossScaler !== this.#lossScaler || this.#isBegun) this.settle();
    while (this.size === MOST_UNRESOLVED || (this.size > 0 && tensors.isDecided(this.#resolved))) {
      this.#resolveFirst(tensors);
    }
    if (this.size === 0) this.#restart();
  }

  /** After makeRoom(), before anything of the step is on the device. */
  begin(tensors: TensorList, lossScaler: LossScaler | null): void {
    this.#tensors = tensors;
    this.#lossScaler = lossScaler;
    this.#isBegun = true;
  }

  /** Adds the step that was begun. Its result waits for it when it is looked at. */
  add(counters: readonly Counter[]): StepResult {
    const step: UnresolvedStep = { owner: this, counters, advanced: 0, result: null, error: undefined };
    this.#steps = [...this.#steps, step];
    this.#isBegun = false;
    return lazyResult(step);
  }

  /** Waits for all steps. */
  settle(): void {
    const lossScaler = this.#isBegun ? this.#lossScaler : null;
    while (this.#tensors !== null && this.size > 0) this.#resolveFirst(this.#tensors);
    // The device may have changed the scale for a step that then did not take place.
    lossScaler?.writeTensor();
    this.#isBegun = false;
    this.#restart();
  }

  /** After a step that was begun has failed: waits for those before it, so that the next one does not go on from it. */
  forgetBegun(): void {
    if (!this.#isBegun) return;
    try {
      this.settle();
    } catch {
      // The step's own error is the one to report; a device that failed is reported by the next step, too.
    }
  }

  #restart(): void {
    this.#tensors = null;
    this.#lossScaler = null;
    this.#resolved = 0;
    this.#skips = 0;
  }

  /** Resolves the steps up to this one. */
  resolve(step: UnresolvedStep): void {
    while (step.owner === this && this.#tensors !== null) this.#resolveFirst(this.#tensors);
    if (this.size === 0 && !this.#isBegun) this.#restart();
  }

  #resolveFirst(tensors: TensorList): void {
    const [step, ...others] = this.#steps;
    try {
      tensors.readDecision(this.#resolved, this.#found);
    } catch (error) {
      if (isOfDriver(error)) this.#fail(error);
      throw error;
    }
    const [outcome, norm, finite] = this.#found;
    const result = resultOf(DECISION_OUTCOMES[outcome], norm);
    const lossScaler = result.reason === 'rescaleGrad' ? null : this.#lossScaler;
    const next = lossScaler && withSubnormals(() => lossScaler.after(finite !== 0));
    if (!result.skipped) this.#advance(step);
    // Nothing is called from here on.
    if (lossScaler !== null && next !== null) {
      lossScaler.current.scale = next.scale;
      lossScaler.current.growthTracker = next.growthTracker;
    }
    if (result.skipped) this.#skips++;
    this.#resolved++;
    this.#steps = others;
    step.result = result;
    step.owner = null;
  }

  #fail(error: unknown): void {
    this.#failure = error;
    for (const step of this.#steps) {
      step.error = error;
      step.owner = null;
    }
    this.#steps = [];
    this.#restart();
  }
}

/** Whether the driver reported it, rather than the engine that the stack is too deep, say. */
function isOfDriver(error: unknown): boolean {
  return error instanceof Error && 'code' in error && String(error.code).startsWith('CUDA_');
}

function resultOf(reason: 'gradNorm' | 'rescaleGrad' | null, gradNorm: number): StepResult {
  if (reason === null) return { skipped: false, gradNorm };
  return reason === 'gradNorm' ? { skipped: true, reason, gradNorm } : { skipped: true, reason };
}

/** What results inherit: console.log() shows what they say, rather than that somebody has to ask. */
const SHOWN = {
  [inspect.custom](this: StepResult): object {
    return { ...this };
  },
};

/** A result that resolves its step when somebody looks; it holds no more than the step. */
function lazyResult(step: UnresolvedStep): StepResult {
  const resolved = (): StepResult => {
    step.owner?.resolve(step);
    if (step.result === null) throw step.error ?? new Error('The step was interrupted, and nobody knows its result');
    return step.result;
  };
  return {
    __proto__: SHOWN,
    get skipped() {
      return resolved().skipped;
    },
    get reason() {
      return resolved().reason;
    },
    get gradNorm() {
      return resolved().gradNorm;
    },
  } as unknown as StepResult;
}
