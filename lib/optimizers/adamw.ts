/** AdamW, with the interface of MXNet's `mxnet.optimizer.AdamW`. */

import type { Rule } from '../backend/abi.js';
import { loadBackend } from '../backend/index.js';
import {
  checkBoolean,
  checkNumber,
  checkObject,
  checkOneOf,
  checkPointer,
  outOfRange,
  outOfRangeIn,
  wrongKind,
} from '../errors.js';
import { type DType, isHalf } from '../numerics/dtype.js';
import { Powers } from '../numerics/power.js';
import { tensorKey } from '../numerics/stochastic-rounding.js';
import { BoundStep } from '../step/bound-step.js';
import { checkIndex } from '../step/multipliers.js';
import { runStep, type StepResult } from '../step/run-step.js';
import {
  type ArithmeticTypes,
  checkBeta,
  checkClip,
  checkDecayRate,
  checkHolds,
  checkSeed,
  isSkipped,
} from '../step/scalar-checks.js';
import { ScalarGroups } from '../step/scalar-groups.js';
import { TensorList } from '../step/tensor-list.js';
import type { Index } from '../step/update-counts.js';
import { Tensor } from '../tensor/tensor.js';
import { deviceOf, resolve, type TensorLike, zerosBeside } from '../tensor/tensor-like.js';
import { type OneOrMany, Optimizer, type OptimizerOptions, register, type StepLists, toLists } from './optimizer.js';

/** The moments of one weight, and its float32 master where it has one. A step uses what is there. */
export interface AdamWState {
  /** First moment: length of the weight; float32 beside a master, else the weight's dtype or float32. */
  readonly mean: TensorLike;
  /** Second moment: as the mean. */
  readonly variance: TensorLike;
  /** float32 copy that a half-precision weight is rounded from. */
  readonly master?: TensorLike | null;
}

export interface AdamWOptions extends OptimizerOptions {
  /** Default 0.001; beside a scheduler by default the scheduler's own base. */
  readonly learningRate?: number | null;
  /** Decay rate of the first moment, in [0, 1). Default 0.9. */
  readonly beta1?: number;
  /** Decay rate of the second moment, in [0, 1). Default 0.999. */
  readonly beta2?: number;
  /** Keeps the quotient of the moments finite. Default 1e-6. */
  readonly epsilon?: number;
  /** Correct the moments' bias towards zero. Default true. */
  readonly correctBias?: boolean;
  /** Default true. */
  readonly useFusedStep?: boolean;
  /** 'mxnet' (default), or 'pytorch' for the recurrences of torch.optim.AdamW. */
  readonly rule?: 'mxnet' | 'pytorch';
  /**
   * Decay in the gradient as well as in the weight, as MXNet's page prints for
   * `correct_bias=False`. Needs correctBias: false. Default false.
   */
  readonly coupledWeightDecay?: boolean;
  /** dtype of new states of half-precision weights without masters. Default: float16 for float16, float32 for bfloat16. */
  readonly stateDtype?: 'float32' | 'float16' | 'bfloat16' | null;
  /** Of the stochastic rounding of bfloat16 variances; a whole number below 2**32. Default 0. */
  readonly seed?: number;
  /**
   * CUstream or cudaStream_t that steps of tensors on a GPU run on; it must be
   * of the primary context. Default: the legacy default stream, as in PyTorch.
   */
  readonly stream?: bigint | number | null;
}

/** What the last fusedStep() or step() was called with, so that the same lists are not looked at again. */
interface LastStep extends StepLists<AdamWState> {
  readonly bound: BoundStep;
  readonly means: readonly TensorLike[];
  readonly variances: readonly TensorLike[];
  readonly masters: readonly (TensorLike | undefined)[];
}

/**
 * AdamW: Adam with decoupled weight decay (Loshchilov and Hutter, "Decoupled
 * Weight Decay Regularization", 2019). With t the update count of an index,
 *
 *     g = clip(rescaleGrad * g, clipGradient)
 *     m = beta1 * m + (1 - beta1) * g
 *     v = beta2 * v + (1 - beta2) * g ** 2
 *     eta = learningRate * sqrt(1 - beta2 ** t) / (1 - beta1 ** t)
 *     w = w - eta * (m / (sqrt(v) + epsilon) + wd * w)
 *
 * where eta is the learning rate itself without `correctBias`.
 */
export class AdamW extends Optimizer<AdamWState> {
  readonly beta1: number;
  readonly beta2: number;
  readonly epsilon: number;
  readonly correctBias: boolean;
  readonly rule: 'mxnet' | 'pytorch';
  readonly coupledWeightDecay: boolean;
  readonly stateDtype: DType | null;
  readonly seed: number;
  /** 0 is the legacy default stream. */
  readonly stream: bigint;

  readonly #beta1Powers: Powers;
  readonly #beta2Powers: Powers;
  #last: LastStep | null = null;
  /** Why no step can be made any more. */
  #failure: unknown;
  /** Whether a step is on its way: schedulers and parameters are the caller's code, which may call anything. */
  #isStepping = false;
  #warnedOfHalf = false;

  /** @throws TypeError for options of the wrong kind, RangeError for values out of range */
  constructor(options: AdamWOptions = {}) {
    super(withDefaults(options));
    this.beta1 = checkDecayRate(options.beta1 ?? 0.9, 'beta1');
    this.beta2 = checkDecayRate(options.beta2 ?? 0.999, 'beta2');
    this.epsilon = checkNumber(options.epsilon ?? 1e-6, 'epsilon');
    this.correctBias = checkBoolean(options.correctBias ?? true, 'correctBias');
    this.rule = checkOneOf(options.rule ?? 'mxnet', 'rule', ['mxnet', 'pytorch']);
    this.coupledWeightDecay = checkBoolean(options.coupledWeightDecay ?? false, 'coupledWeightDecay');
    if (this.coupledWeightDecay && (this.correctBias || this.rule !== 'mxnet')) {
      throw outOfRange("false unless correctBias is false and rule is 'mxnet'", 'coupledWeightDecay', true);
    }
    this.stateDtype =
      (options.stateDtype ?? null) === null ? null : checkOneOf(options.stateDtype, 'stateDtype', STATE_DTYPES);
    this.seed = checkSeed(options.seed ?? 0);
    this.stream = checkPointer(options.stream ?? 0, 'stream');
    this.#beta1Powers = new Powers(this.beta1);
    this.#beta2Powers = new Powers(this.beta2);
  }

  /**
   * Zero moments for a weight, of its shape and on its device, and a float32
   * master where `multiPrecision` asks for one and the weight is half precision.
   */
  override createState(index: Index, weight: TensorLike): AdamWState {
    checkIndex(index, 'index');
    const { dtype, memory } = resolve(weight, { name: 'weight' });
    const hasMaster = this.multiPrecision && isHalf(dtype);
    const stateDType = hasMaster ? 'float32' : this.#stateDTypeOf(dtype);
    const mean = zerosBeside(weight, stateDType);
    const variance = zerosBeside(weight, stateDType);
    if (!hasMaster) {
      if (isHalf(dtype)) this.#warnOfHalf();
      return { mean, variance };
    }
    const tensor = weight instanceof Tensor ? weight : Tensor.from(memory as Uint16Array, { dtype: 'float16' });
    return { mean, variance, master: zerosBeside(weight, 'float32').set(tensor.toArray()) };
  }

  /** Updates each weight in place by its own native call. The bits are those of fusedStep(). */
  override step(
    indices: OneOrMany<Index>,
    weights: OneOrMany<TensorLike>,
    grads: OneOrMany<TensorLike>,
    states: OneOrMany<AdamWState>,
  ): StepResult {
    return this.#step(this.#bindCached(toLists(indices, weights, grads, states)), 1);
  }

  /**
   * Updates all weights in place in one native call, or one for each
   * `aggregateNum` tensors.
   *
   * The lists of the last call are kept: where they hold the same arrays again,
   * nothing is looked at twice; where only gradients differ, only they are.
   * dispose() lets go of them.
   *
   * @param indices of the tensors, whole numbers or strings, no two the same:
   *   they choose counts and multipliers
   * @param weights Tensors or typed arrays of any length, written
   * @param grads one for each weight, of its dtype and length, only read
   * @param states what createState() made for each weight, written
   * @throws TypeError and RangeError as the README's table of errors says; a
   *   call that throws has changed nothing, counts included
   */
  override fusedStep(
    indices: OneOrMany<Index>,
    weights: OneOrMany<TensorLike>,
    grads: OneOrMany<TensorLike>,
    states: OneOrMany<AdamWState>,
  ): StepResult {
    return this.#step(this.#bindCached(toLists(indices, weights, grads, states)), this.aggregateNum);
  }

  /**
   * The tensors of a step, looked at once: `bound.step()` is a fusedStep() of
   * them whose cost in TypeScript does not grow with their number.
   *
   * @throws as fusedStep()
   */
  bind(
    indices: OneOrMany<Index>,
    weights: OneOrMany<TensorLike>,
    grads: OneOrMany<TensorLike>,
    states: OneOrMany<AdamWState>,
  ): BoundStep {
    return this.#bind(toLists(indices, weights, grads, states)).bound;
  }

  /** Lets go of the arrays of the last step. The optimizer can be used again. */
  dispose(): void {
    this.#last?.bound.dispose();
    this.#last = null;
  }

  #bindCached(lists: StepLists<AdamWState>): BoundStep {
    const last = this.#last;
    if (last && isSameBut(last, lists)) {
      if (!isSame(last.grads, lists.grads)) {
        const grads = [...lists.grads];
        last.bound.takeGrads({ name: 'grads', values: grads });
        this.#last = { ...last, grads };
      }
      return last.bound;
    }
    const next = this.#bind(lists);
    this.dispose();
    this.#last = next;
    return next.bound;
  }

  #bind(lists: StepLists<AdamWState>): LastStep {
    const indices = lists.indices.map((index: unknown, i) => checkIndex(index, `indices[${i}]`));
    checkDistinct(indices, lists.weights);
    lists.states.forEach(checkState);
    const kept = {
      indices,
      weights: [...lists.weights],
      grads: [...lists.grads],
      states: [...lists.states],
      means: lists.states.map((state) => state.mean),
      variances: lists.states.map((state) => state.variance),
      masters: lists.states.map((state) => state.master ?? undefined),
    };
    const rule: Rule = this.coupledWeightDecay ? 'coupled' : this.rule;
    const tensors = new TensorList(
      loadBackend().backend,
      rule,
      {
        weight: { name: 'weights', values: kept.weights },
        mean: { name: 'states', field: '.mean', values: kept.means },
        variance: { name: 'states', field: '.variance', values: kept.variances },
        master: { name: 'states', field: '.master', values: kept.masters },
      },
      Uint32Array.from(indices, (index) => tensorKey(this.seed, index)),
      this.stream,
    );
    try {
      tensors.setGrads({ name: 'grads', values: kept.grads });
    } catch (error) {
      tensors.dispose();
      throw error;
    }
    if (tensors.halfWithoutMaster) this.#warnOfHalf();
    const step = (bound: BoundStep): StepResult => this.#step(bound, this.aggregateNum);
    return { ...kept, bound: new BoundStep(tensors, new ScalarGroups(indices), step) };
  }

  /** A step over what is bound, `aggregateNum` tensors in one native call. */
  #step(bound: BoundStep, aggregateNum: number): StepResult {
    if (this.#isStepping) {
      throw outOfRangeIn('a step after the last one', 'this', 'one inside another of the same optimizer');
    }
    let isCommitted = false;
    this.#isStepping = true;
    try {
      const { groups } = bound;
      const skips = this.#skips(bound.tensors);
      if (!skips) {
        groups.update(bound.tensors, this.counts, this.multipliers);
        this.#writeScalars(groups, bound.tensors);
      }
      return runStep(bound.tensors, {
        skips,
        aggregateNum,
        commit: () => {
          isCommitted = true;
          this.counts.advance(groups.counters);
        },
      });
    } catch (error) {
      if (isCommitted) this.#failure = error;
      throw error;
    } finally {
      this.#isStepping = false;
    }
  }

  /** Whether the step is skipped. Throws for scalars that the arithmetic type cannot hold. */
  #skips(types: ArithmeticTypes): boolean {
    if (this.#failure !== undefined) throw this.#failure;
    checkBeta(this.beta1, 'beta1', types);
    checkBeta(this.beta2, 'beta2', types);
    checkHolds(this.epsilon, 'epsilon', types);
    checkClip(this.clipGradient, types);
    return isSkipped(this.rescaleGrad, types);
  }

  /** Computes the scalars of the next update of each group. */
  #writeScalars({ groups, counters, table }: ScalarGroups, types: ArithmeticTypes): void {
    const learningRate = this.learningRateAt(this.counts.numUpdateAfter(counters));
    const { epsilon } = this;
    table.writeStep({
      rescale: this.rescaleGrad,
      clip: this.clipGradient ?? Infinity,
      beta1: this.beta1,
      beta2: this.beta2,
    });
    const isPytorch = this.rule === 'pytorch';
    for (let i = 0; i < groups.length; i++) {
      const { counter, lrMult, wdMult } = groups[i];
      const count = counter.count + 1;
      // The corrections of the moments' bias.
      const mean = this.correctBias ? 1 - this.#beta1Powers.of(count) : 1;
      const root = this.correctBias ? Math.sqrt(1 - this.#beta2Powers.of(count)) : 1;
      const lr = learningRate * lrMult;
      const wd = this.wd * wdMult;
      const eta = isPytorch ? lr / mean : (lr * root) / mean;
      checkHolds(eta, 'learningRate', types);
      checkHolds(wd, 'wd', types);
      if (isPytorch) checkHolds(lr * wd, 'learningRate * wd', types);
      table.writeGroup(i, { eta, lr: isPytorch ? lr : 1, wd, epsilon, root: isPytorch ? root : 1, count });
    }
  }

  #stateDTypeOf(weight: DType): DType {
    if (!isHalf(weight)) return weight;
    const wanted = this.stateDtype ?? (weight === 'float16' ? 'float16' : 'float32');
    if (wanted !== 'float32' && wanted !== weight) {
      throw outOfRangeIn(`float32 or ${weight} beside a ${weight} weight`, 'stateDtype', wanted);
    }
    return wanted;
  }

  #warnOfHalf(): void {
    if (this.#warnedOfHalf) return;
    this.#warnedOfHalf = true;
    process.emitWarning(
      'Accumulating with float16 in optimizer can lead to poor accuracy or slow convergence. ' +
        'Consider using multiPrecision: true option of the optimizer',
    );
  }
}

register(AdamW);

const STATE_DTYPES = ['float32', 'float16', 'bfloat16'] as const;

function withDefaults(options: AdamWOptions): OptimizerOptions {
  checkObject(options, 'options');
  const { learningRate, lrScheduler, useFusedStep } = options;
  return {
    ...options,
    learningRate: learningRate === undefined && !lrScheduler ? 0.001 : learningRate,
    useFusedStep: useFusedStep ?? true,
  };
}

/** An index comes once on each device: replicas of a tensor share theirs. */
function checkDistinct(indices: readonly Index[], weights: readonly TensorLike[]): void {
  const first = new Map<string, Map<Index, number>>();
  indices.forEach((index, i) => {
    const device = deviceOf(weights[i]);
    const ofDevice = first.get(device) ?? new Map<Index, number>();
    if (ofDevice.size === 0) first.set(device, ofDevice);
    const before = ofDevice.get(index);
    if (before !== undefined) {
      throw outOfRangeIn('an index of its own', `indices[${i}]`, `${JSON.stringify(index)}, as indices[${before}]`);
    }
    ofDevice.set(index, i);
  });
}

/**
 * A state: an object with the two moments.
 *
 * @internal
 */
export function checkState(state: unknown, i: number): void {
  if (typeof state !== 'object' || state === null || !('mean' in state) || !('variance' in state)) {
    throw wrongKind('a state with mean and variance', `states[${i}]`, state);
  }
}

function isSame(a: readonly unknown[], b: readonly unknown[]): boolean {
  if (a.length !== b.length) return false;
  for (let i = 0; i < a.length; i++) if (a[i] !== b[i]) return false;
  return true;
}

/** Whether all lists but the gradients hold what they held in the last step. */
function isSameBut(last: LastStep, lists: StepLists<AdamWState>): boolean {
  return (
    isSame(last.indices, lists.indices) &&
    isSame(last.weights, lists.weights) &&
    isSame(last.states, lists.states) &&
    hasSameArrays(last, lists.states)
  );
}

/** A state's arrays may have been replaced in the same object. */
function hasSameArrays({ means, variances, masters }: LastStep, states: readonly AdamWState[]): boolean {
  for (let i = 0; i < states.length; i++) {
    const { mean, variance, master } = states[i];
    if (mean !== means[i] || variance !== variances[i] || (master ?? undefined) !== masters[i]) return false;
  }
  return true;
}
