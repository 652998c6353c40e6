/** The tensors of an AdamW step, bound: they are validated once, not at each step. */
import { outOfRangeIn, wrongKind } from '../errors.js';
import type { AsyncStepOptions, StepOptions } from '../gradients/step-options.js';
import { copyList } from '../lists.js';
import type { TensorLike } from '../tensor/tensor-like.js';
import type { Exclusive } from './exclusive.js';
import type { StepResult } from './run-step.js';
import type { ScalarGroups } from './scalar-groups.js';
import type { NamedList, TensorList } from './tensor-list.js';

/** As of Tensor: a copy of its properties would hold nothing. */
const NOT_CLONEABLE = Symbol('a BoundStep, which cannot be cloned: bind again where it is needed');

/** The optimizer's steps over what is bound. */
interface BoundSteps {
  step(bound: BoundStep, options?: StepOptions): StepResult;
  stepAsync(bound: BoundStep, options?: AsyncStepOptions): Promise<StepResult>;
}

/**
 * Made by `AdamW.bind()`. Holds its arrays until `dispose()`.
 *
 * The arrays are validated when they are bound; a step only checks that their
 * memory is still there.
 */
export class BoundStep {
  /** @internal */
  readonly cloning = NOT_CLONEABLE;
  #tensors: TensorList | null;
  readonly #groups: ScalarGroups;
  readonly #exclusive: Exclusive;
  readonly #steps: BoundSteps;

  /**
   * @param exclusive the optimizer's: nothing is changed inside a step of it
   * @internal
   */
  constructor(tensors: TensorList, groups: ScalarGroups, exclusive: Exclusive, steps: BoundSteps) {
    this.#tensors = tensors;
    this.#groups = groups;
    this.#exclusive = exclusive;
    this.#steps = steps;
  }

  /**
   * Updates all weights and states in place by the gradients that are bound.
   *
   * @throws RangeError where memory is gone, or a scalar is not one that the
   *   arithmetic type can hold, TypeError for an unknown option; then nothing has changed
   */
  step(options?: StepOptions): StepResult {
    return this.#steps.step(this, options);
  }

  /**
   * As step(), but JavaScript goes on meanwhile: what AdamW.updateAsync() is to fusedStep(), with its rules for the memory
   * that is bound, the order of steps, and the calls that are refused until the promise is settled, setGrads() and
   * dispose() among them.
   *
   * @param options of this step, and a `signal` that cancels it while another one is before it
   * @returns rejected as that of AdamW.updateAsync()
   */
  stepAsync(options?: AsyncStepOptions): Promise<StepResult> {
    return this.#steps.stepAsync(this, options);
  }

  /**
   * Takes other gradients, one for each weight, of its length and of the dtype of the gradient before.
   *
   * @throws as AdamW.bind(); then the last gradients stay
   */
  setGrads(grads: readonly TensorLike[]): void {
    this.#exclusive.check();
    const { tensors } = this;
    if (!Array.isArray(grads)) throw wrongKind('a list', 'grads', grads);
    if (grads.length !== tensors.size) {
      throw outOfRangeIn(`a list of length ${tensors.size}`, 'grads', `one of length ${grads.length}`);
    }
    this.takeGrads({ name: 'grads', values: copyList(grads, tensors.size) });
  }

  /** Lets go of the arrays; every later use throws. A second call does nothing. */
  dispose(): void {
    this.#exclusive.check();
    this.letGo();
  }

  /** @internal */
  letGo(): void {
    this.#tensors?.dispose();
    this.#tensors = null;
  }

  /** @internal */
  takeGrads(grads: NamedList): void {
    this.tensors.setGrads(grads);
  }

  /**
   * @throws RangeError after dispose()
   * @internal
   */
  get tensors(): TensorList {
    if (!this.#tensors) throw outOfRangeIn('a live BoundStep', 'this', 'one that was disposed of');
    return this.#tensors;
  }

  /** @internal */
  get groups(): ScalarGroups {
    return this.#groups;
  }
}
