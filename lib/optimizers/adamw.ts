/** AdamW, with the interface of MXNet's `mxnet.optimizer.AdamW`. */

import type { Rule } from '../backend/abi.js';
import { loadBackend, withSubnormals } from '../backend/index.js';
import { decisionArray, type ScalarTable, type StepScalars } from '../backend/scalar-table.js';
import {
  checkBoolean,
  checkNumber,
  checkOneOf,
  checkPointer,
  outOfRange,
  outOfRangeIn,
  wrongKind,
  wrongKindIn,
} from '../errors.js';
import {
  type AsyncStepOptions,
  checkMaxGradNorm,
  type ReadStepOptions,
  readAsyncStepOptions,
  readStepOptions,
  type StepOptions,
  scaleOf,
} from '../gradients/step-options.js';
import { copyList, filledList } from '../lists.js';
import { type DType, isHalf } from '../numerics/dtype.js';
import { Powers } from '../numerics/power.js';
import { tensorKey } from '../numerics/stochastic-rounding.js';
import { fixedOption, readOptions, refuseAssignment, unknownOption } from '../options.js';
import { BoundStep } from '../step/bound-step.js';
import { checkIndex, type Index } from '../step/indices.js';
import { Measurement } from '../step/measurement.js';
import { runStep, runStepAsync, type StepPlan, type StepResult } from '../step/run-step.js';
import {
  type ArithmeticTypes,
  checkBeta,
  checkClip,
  checkDecayRate,
  checkHolds,
  checkSeed,
  isSkipped,
} from '../step/scalar-checks.js';
import { type ScalarGroup, ScalarGroups } from '../step/scalar-groups.js';
import { type NamedList, TensorList } from '../step/tensor-list.js';
import { MOST_UNRESOLVED } from '../step/unresolved-steps.js';
import { Tensor } from '../tensor/tensor.js';
import { deviceOf, resolve, type TensorLike, zerosBeside } from '../tensor/tensor-like.js';
import { isOurs } from './lr-scheduler.js';
import { OPTIMIZER_OPTIONS, OPTION_SYNONYMS, Optimizer, type OptimizerOptions, register } from './optimizer.js';
import { type OneOrMany, type StepArguments, toLists } from './step-arguments.js';

/** The moments of one weight, and its float32 master where it has one. A step uses what is there. */
export interface AdamWState {
  /** First moment: length of the weight; float32 beside a master, else the weight's dtype, float32, or bfloat16 beside float32. */
  readonly mean: TensorLike;
  /** Second moment: as the mean. */
  readonly variance: TensorLike;
  /** float32 copy that a half-precision weight is rounded from. */
  readonly master?: TensorLike | null;
  /** Greatest second moment so far (AMSGrad): as the variance, which is then not half precision. */
  readonly maxVariance?: TensorLike | null;
}

/** What createState() makes. */
export interface AdamWStateTensors<D extends DType = DType> extends AdamWState {
  readonly mean: Tensor<D>;
  readonly variance: Tensor<D>;
  readonly master?: Tensor<'float32'>;
  readonly maxVariance?: Tensor<D>;
}

/** The options of AdamW: docs/options.md says what each does with unusual values. */
export interface AdamWOptions extends OptimizerOptions {
  /** Default 0.001; beside a scheduler by default the scheduler's own base. */
  readonly learningRate?: number | null;
  /** Decay rate of the first moment, in [0, 1). Default 0.9. */
  readonly beta1?: number;
  /** Decay rate of the second moment, in [0, 1). Default 0.999. */
  readonly beta2?: number;
  /** Keeps the quotient of the moments finite. Default 1e-6; 1e-8 with rule 'pytorch'. */
  readonly epsilon?: number;
  /** Weight decay. Default 0; 0.01 with rule 'pytorch'. */
  readonly wd?: number;
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
  /**
   * dtype of new states of weights without masters: float32 (default), float16 for float16 weights, bfloat16 for
   * float32 and bfloat16 weights. float64 weights always have float64 states.
   */
  readonly stateDtype?: 'float32' | 'float16' | 'bfloat16' | null;
  /**
   * How weights of bfloat16 without masters are rounded: 'nearest' (default), or 'stochastic', up or down with the
   * probability that keeps the mean, so that updates below half a unit of their last place are not lost. Refused for
   * float16 weights without masters; no other weights are rounded.
   */
  readonly rounding?: 'nearest' | 'stochastic';
  /** Of the stochastic rounding of bfloat16 variances and weights; a whole number below 2**32. Default 0. */
  readonly seed?: number;
  /**
   * The greatest norm of all rescaled gradients of a step, taken as one vector: greater ones are scaled down to it, as by
   * torch.nn.utils.clip_grad_norm_. A norm that is not finite skips the step. Infinity only measures. Default: none.
   */
  readonly maxGradNorm?: number | null;
  /** Step up the gradients instead of down, as torch.optim.AdamW does: each gradient is negated first. Default false. */
  readonly maximize?: boolean;
  /**
   * AMSGrad, as torch.optim.AdamW has it: the greatest second moment so far in the denominator. New states have a
   * `maxVariance`, and a step needs one of each state. Default false.
   */
  readonly amsgrad?: boolean;
  /**
   * CUstream or cudaStream_t that steps of tensors on a GPU run on; it must be
   * of the primary context. Default: the legacy default stream, as in PyTorch.
   */
  readonly stream?: bigint | number | null;
}

/** The options of AdamW: what a subclass adds to for its own. */
export const ADAMW_OPTIONS = [
  ...OPTIMIZER_OPTIONS,
  'beta1',
  'beta2',
  'epsilon',
  'correctBias',
  'rule',
  'coupledWeightDecay',
  'stateDtype',
  'rounding',
  'seed',
  'maxGradNorm',
  'maximize',
  'amsgrad',
  'stream',
] as const satisfies readonly (keyof AdamWOptions)[];

/** A step whose scalars are written, and what follows from it. */
interface PreparedStep {
  readonly plan: StepPlan;
  /** Once it is done. */
  readonly settle: () => void;
  /** Where it failed. */
  readonly fail: (error: unknown) => void;
}

/** What the last fusedStep() or step() was called with, so that the same lists are not validated again. */
interface LastStep {
  readonly bound: BoundStep;
  readonly indices: readonly Index[];
  readonly weights: readonly TensorLike[];
  /** Null while they are replaced: an interrupt may leave either list bound. */
  grads: readonly TensorLike[] | null;
  readonly states: readonly AdamWState[];
  readonly means: readonly (TensorLike | undefined)[];
  readonly variances: readonly (TensorLike | undefined)[];
  readonly masters: readonly (TensorLike | undefined)[];
  readonly maxVariances: readonly (TensorLike | undefined)[];
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
 * where eta is the learning rate itself without `correctBias`. With `rule: 'pytorch'`, after torch.optim.AdamW (PyTorch
 * 2.15.0), the last two lines are
 *
 *     w = w * (1 - learningRate * wd)
 *     w = w - learningRate / (1 - beta1 ** t) * m / (sqrt(v) / sqrt(1 - beta2 ** t) + epsilon)
 *
 * Arithmetic is in float64 for float64 tensors, else in float32, each operation rounded on its own.
 */
export class AdamW extends Optimizer<AdamWState> {
  readonly #rule: 'mxnet' | 'pytorch';
  readonly #coupledWeightDecay: boolean;
  readonly #stateDtype: DType | null;
  readonly #rounding: 'nearest' | 'stochastic';
  readonly #seed: number;
  readonly #maximize: boolean;
  readonly #amsgrad: boolean;
  readonly #stream: bigint;
  #beta1: Powers;
  #beta2: Powers;
  #epsilon: number;
  #correctBias: boolean;
  #maxGradNorm: number | null;

  #last: LastStep | null = null;
  /** Why no step can be made any more. */
  #failure: unknown;
  /** The warnings of half precision that were given. */
  readonly #warned = new Set<string>();

  /**
   * @throws TypeError for options of the wrong kind or that are not known, RangeError for values out of range
   */
  constructor(options: AdamWOptions = {}, known: readonly string[] = ADAMW_OPTIONS) {
    if (Array.isArray(options)) {
      throw wrongKindIn('an object', 'options', 'a list: parameters are given to each step, not to the constructor');
    }
    const given = withDefaults(options, known);
    super(given, known);
    this.#beta1 = new Powers(checkDecayRate(given.beta1 ?? 0.9, 'beta1'));
    this.#beta2 = new Powers(checkDecayRate(given.beta2 ?? 0.999, 'beta2'));
    this.#epsilon = checkNumber(given.epsilon, 'epsilon');
    this.#correctBias = checkBoolean(given.correctBias ?? true, 'correctBias');
    this.#rule = checkOneOf(given.rule, 'rule', ['mxnet', 'pytorch']);
    this.#coupledWeightDecay = checkBoolean(given.coupledWeightDecay ?? false, 'coupledWeightDecay');
    if (this.#coupledWeightDecay && (this.#correctBias || this.#rule !== 'mxnet')) {
      throw outOfRange("false unless correctBias is false and rule is 'mxnet'", 'coupledWeightDecay', true);
    }
    const stateDtype = given.stateDtype ?? null;
    this.#stateDtype = stateDtype === null ? null : checkOneOf(stateDtype, 'stateDtype', STATE_DTYPES);
    this.#rounding = checkOneOf(given.rounding ?? 'nearest', 'rounding', ['nearest', 'stochastic']);
    this.#seed = checkSeed(given.seed ?? 0);
    this.#maxGradNorm = checkMaxGradNorm(given.maxGradNorm);
    this.#maximize = checkBoolean(given.maximize ?? false, 'maximize');
    this.#amsgrad = checkBoolean(given.amsgrad ?? false, 'amsgrad');
    this.#stream = checkPointer(given.stream ?? 0, 'stream');
  }

  /** Decay rate of the first moment, in [0, 1). May be assigned between steps, as may beta2, epsilon and correctBias. */
  get beta1(): number {
    return this.#beta1.base;
  }

  set beta1(value: number) {
    this.#beta1 = new Powers(checkDecayRate(value, 'beta1'));
  }

  /** Decay rate of the second moment, in [0, 1). */
  get beta2(): number {
    return this.#beta2.base;
  }

  set beta2(value: number) {
    this.#beta2 = new Powers(checkDecayRate(value, 'beta2'));
  }

  /** Keeps the quotient of the moments finite. */
  get epsilon(): number {
    return this.#epsilon;
  }

  set epsilon(value: number) {
    this.#epsilon = checkNumber(value, 'epsilon');
  }

  /** Whether the moments' bias towards zero is corrected. */
  get correctBias(): boolean {
    return this.#correctBias;
  }

  set correctBias(value: boolean) {
    const correctBias = checkBoolean(value, 'correctBias');
    if (correctBias && this.#coupledWeightDecay) {
      throw outOfRange('false beside coupledWeightDecay', 'correctBias', correctBias);
    }
    this.#correctBias = correctBias;
  }

  /** The norm that the gradients of a step are clipped to, or null for none. */
  get maxGradNorm(): number | null {
    return this.#maxGradNorm;
  }

  set maxGradNorm(value: number | null) {
    this.#maxGradNorm = checkMaxGradNorm(value);
  }

  /** Which recurrences a step follows. */
  get rule(): 'mxnet' | 'pytorch' {
    return this.#rule;
  }

  /** Whether the decay is in the gradient too. */
  get coupledWeightDecay(): boolean {
    return this.#coupledWeightDecay;
  }

  /** dtype of new states of weights without masters; null for the default. */
  get stateDtype(): DType | null {
    return this.#stateDtype;
  }

  /** How weights of bfloat16 without masters are rounded. */
  get rounding(): 'nearest' | 'stochastic' {
    return this.#rounding;
  }

  /** Of the stochastic rounding of bfloat16 variances and weights. */
  get seed(): number {
    return this.#seed;
  }

  /** Whether gradients are negated first. */
  get maximize(): boolean {
    return this.#maximize;
  }

  /** Whether the denominator has the greatest second moment so far. */
  get amsgrad(): boolean {
    return this.#amsgrad;
  }

  /** CUDA stream of steps on a GPU; 0 is the legacy default stream. */
  get stream(): bigint {
    return this.#stream;
  }

  /**
   * Zero moments for a weight, of its shape and on its device, a greatest second moment with `amsgrad`, and a float32
   * master where `multiPrecision` asks for one and the weight is half precision.
   *
   * @param weight a Tensor or typed array of any length, only read
   * @throws TypeError for an index or a weight of the wrong kind, RangeError for memory that is gone or of a `stateDtype`
   *   that the weight cannot have
   */
  override createState(index: Index, weight: TensorLike): AdamWStateTensors {
    this.multipliers.meet(checkIndex(index, 'index'));
    const { dtype, memory } = resolve(weight, { name: 'weight' });
    const hasMaster = this.multiPrecision && isHalf(dtype);
    const stateDType = hasMaster ? 'float32' : this.#stateDTypeOf(dtype);
    if (this.#amsgrad && isHalf(stateDType)) {
      throw outOfRange('false beside states in half precision', 'amsgrad', true);
    }
    const moments = { mean: zerosBeside(weight, stateDType), variance: zerosBeside(weight, stateDType) };
    const state = this.#amsgrad ? { ...moments, maxVariance: zerosBeside(weight, stateDType) } : moments;
    if (!hasMaster) {
      if (isHalf(dtype)) this.#tellOfHalf(dtype, stateDType, 'weight');
      return state;
    }
    const tensor = weight instanceof Tensor ? weight : Tensor.from(memory as Uint16Array, { dtype: 'float16' });
    return { ...state, master: zerosBeside(weight, 'float32').set(tensor.toArray()) };
  }

  /** The same as createState(), under MXNet's name for weights with masters. */
  override createStateMultiPrecision(index: Index, weight: TensorLike): AdamWStateTensors {
    return this.createState(index, weight);
  }

  /**
   * Updates each weight in place by its own native call. The bits are those of fusedStep().
   *
   * @throws as fusedStep()
   */
  override step(
    indices: OneOrMany<Index>,
    weights: OneOrMany<TensorLike>,
    grads: OneOrMany<TensorLike>,
    states: OneOrMany<AdamWState>,
    options?: StepOptions,
  ): StepResult {
    return this.#stepLists(() => toLists(indices, weights, grads, states), 1, options);
  }

  /**
   * Updates all weights in place in one native call, or one for each
   * `aggregateNum` tensors.
   *
   * The lists of the last call are kept: where they hold the same arrays again,
   * nothing is validated twice; where only gradients differ, only they are.
   * dispose() lets go of them.
   *
   * @param indices of the tensors, whole numbers or strings, no two the same:
   *   they choose counts and multipliers
   * @param weights Tensors or typed arrays of any length, written
   * @param grads one for each weight, of its length; only read, but for `options.zeroGrads`. Of the weight's dtype, of
   *   float32 beside halves with float32 states, or of float16 or bfloat16 beside float32
   * @param states what createState() made for each weight, written
   * @param options of this step: `zeroGrads`, `maxGradNorm`, `lossScaler`
   * @throws TypeError for the wrong kind of value, RangeError for lengths,
   *   memory or values out of range; a call that throws has changed nothing,
   *   counts included
   */
  override fusedStep(
    indices: OneOrMany<Index>,
    weights: OneOrMany<TensorLike>,
    grads: OneOrMany<TensorLike>,
    states: OneOrMany<AdamWState>,
    options?: StepOptions,
  ): StepResult {
    return this.#stepLists(() => toLists(indices, weights, grads, states), this.aggregateNum, options);
  }

  /**
   * As fusedStep(), but JavaScript goes on meanwhile: on the CPU native code takes the step on a thread of its own, and
   * the TypeScript backend in a later task. Steps of tensors on a GPU are put on the stream, as those of fusedStep() are.
   *
   * Until the promise is settled the tensors are in use. Calls of the package that need them, and those that change the
   * optimizer, throw a RangeError with the code FUSED_ADAMW_BUSY; whoever reads or writes `tensor.data` finds undefined
   * values. Steps of one optimizer take place in the order of their calls. Each takes counts, learning rate and options
   * when its turn comes: in the call itself where none is pending, and the scale of a LossScaler always in the call.
   *
   * @param weights as of fusedStep(), in memory of Tensor.zeros() or SharedArrayBuffers, as the grads and states
   * @param options of this step, and a `signal` that cancels it while another one is before it
   * @returns rejected by what fusedStep() throws, by a TypeError for other memory, and by the reason of the signal: then
   *   nothing has changed
   */
  updateAsync(
    indices: OneOrMany<Index>,
    weights: OneOrMany<TensorLike>,
    grads: OneOrMany<TensorLike>,
    states: OneOrMany<AdamWState>,
    options?: AsyncStepOptions,
  ): Promise<StepResult> {
    return this.#queue(options, () => {
      const lists = copyLists(toLists(indices, weights, grads, states));
      return () => this.#bindCached(lists);
    });
  }

  /** @param take reads what is given to the call; what it returns binds that when the turn has come */
  async #queue(options: AsyncStepOptions | undefined, take: () => () => BoundStep): Promise<StepResult> {
    const { signal, step, lossScale, bind } = this.exclusive.runInTurn(() => {
      const read = readAsyncStepOptions(options);
      const { lossScaler } = read.step;
      return { ...read, lossScale: lossScaler === null ? undefined : scaleOf(lossScaler), bind: take() };
    });
    return this.exclusive.queue(() => this.#stepAsync(bind, step, lossScale, signal));
  }

  async #stepAsync(
    bind: () => BoundStep,
    options: ReadStepOptions,
    lossScale: number | undefined,
    signal: AbortSignal | null,
  ): Promise<StepResult> {
    signal?.throwIfAborted();
    const { tensors, prepared, steps } = this.exclusive.runInTurn(() => {
      const bound = bind();
      const prepared = this.#prepare(bound, this.aggregateNum, options, lossScale);
      return { tensors: bound.tensors, prepared, steps: bound.tensors.usesDevice ? runStep : runStepAsync };
    });
    try {
      const result = await steps(tensors, prepared.plan);
      prepared.settle();
      return result;
    } catch (error) {
      prepared.fail(error);
      throw error;
    }
  }

  /**
   * The tensors of a step, validated once: `bound.step()` is a fusedStep() of
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
    this.exclusive.check();
    return this.#bind(toLists(indices, weights, grads, states)).bound;
  }

  /** Lets go of the arrays of the last step. The optimizer can be used again. */
  dispose(): void {
    this.exclusive.check();
    this.#replaceLast(null);
  }

  /** A step over lists, which are not read inside another step. */
  #stepLists(
    lists: () => StepArguments<AdamWState>,
    aggregateNum: number,
    options: StepOptions | undefined,
  ): StepResult {
    return this.exclusive.run(() => {
      const read = readStepOptions(options);
      return this.#step(this.#bindCached(lists()), aggregateNum, read);
    });
  }

  #replaceLast(last: LastStep | null): void {
    const before = this.#last;
    this.#last = last;
    before?.bound.letGo();
  }

  #bindCached(lists: StepArguments<AdamWState>): BoundStep {
    const last = this.#last;
    if (last && isSameBut(last, lists)) {
      if (last.grads !== null && isSame(last.grads, lists.grads)) return last.bound;
      const grads = copyList(lists.grads, lists.indices.length);
      const named = { name: 'grads', values: grads };
      if (!last.bound.tensors.hasOtherGradDTypes(named)) {
        last.grads = null;
        last.bound.takeGrads(named);
        last.grads = grads;
        return last.bound;
      }
    }
    const next = this.#bind(lists);
    this.#replaceLast(next);
    return next.bound;
  }

  #bind(lists: StepArguments<AdamWState>): LastStep {
    const size = lists.indices.length;
    const kept = {
      ...copyLists(lists),
      means: filledList<TensorLike | undefined>(size, undefined),
      variances: filledList<TensorLike | undefined>(size, undefined),
      masters: filledList<TensorLike | undefined>(size, undefined),
      maxVariances: filledList<TensorLike | undefined>(size, undefined),
    };
    const indices = copyList(kept.indices, size);
    for (let i = 0; i < size; i++) indices[i] = checkIndex(indices[i], `indices[${i}]`);
    checkDistinct(indices, kept.weights);
    for (let i = 0; i < size; i++) {
      checkState(kept.states[i], i);
      const { mean, variance, master, maxVariance } = kept.states[i];
      kept.means[i] = mean;
      kept.variances[i] = variance;
      kept.masters[i] = master ?? undefined;
      kept.maxVariances[i] = maxVariance ?? undefined;
      if (this.#amsgrad && kept.maxVariances[i] === undefined) {
        throw wrongKind('a greatest variance (amsgrad)', `states[${i}].maxVariance`, maxVariance);
      }
    }
    const rule: Rule = this.#coupledWeightDecay ? 'coupled' : this.#rule;
    const tensors = new TensorList(
      loadBackend().backend,
      rule,
      {
        weight: { name: 'weights', values: kept.weights },
        grad: { name: 'grads', values: kept.grads },
        mean: { name: 'states', field: '.mean', values: kept.means },
        variance: { name: 'states', field: '.variance', values: kept.variances },
        master: someOf({ name: 'states', field: '.master', values: kept.masters }),
        maximum: someOf({ name: 'states', field: '.maxVariance', values: kept.maxVariances }),
      },
      Uint32Array.from(indices, (index) => tensorKey(this.#seed, index)),
      this.#stream,
    );
    const loses = tensors.firstWithoutMaster(this.#rounding === 'stochastic' ? ['float16'] : ['float16', 'bfloat16']);
    if (loses >= 0) {
      try {
        const { weight, mean } = tensors.configAt(loses);
        this.#tellOfHalf(weight, mean, `weights[${loses}]`);
      } catch (error) {
        tensors.dispose();
        throw error;
      }
    }
    const bound = new BoundStep(tensors, new ScalarGroups(indices), this.exclusive, {
      step: (bound, options) =>
        this.exclusive.run(() => this.#step(bound, this.aggregateNum, readStepOptions(options))),
      stepAsync: (bound, options) => this.#queue(options, () => () => bound),
    });
    return { ...kept, bound };
  }

  /**
   * Goes on after a step that was interrupted (worker.terminate(), a timeout of vm, an overflow of the stack) when some
   * of its tensors were updated and others not; until then every step throws. Load a checkpoint before it, or accept
   * the weights as they are: the step then counts.
   */
  recover(): void {
    this.exclusive.check();
    this.counts.recover();
  }

  /** A step over what is bound, `aggregateNum` tensors in one native call. */
  #step(bound: BoundStep, aggregateNum: number, options: ReadStepOptions): StepResult {
    const { plan, settle, fail } = this.#prepare(bound, aggregateNum, options);
    try {
      const result = runStep(bound.tensors, plan);
      settle();
      return result;
    } catch (error) {
      fail(error);
      throw error;
    }
  }

  /** Everything of a step that other code has a say in. `lossScale` is that of the scaler when the step was called. */
  #prepare(bound: BoundStep, aggregateNum: number, options: ReadStepOptions, lossScale?: number): PreparedStep {
    const { tensors, groups } = bound;
    const { zeroGrads, lossScaler } = options;
    const failure = this.#failure ?? this.counts.unresolved.failure;
    if (failure !== undefined) throw failure;
    if (this.counts.isBroken) throw interrupted();
    if (isSkipped(this.rescaleGrad, tensors)) {
      this.#scalars(tensors);
      return { plan: { skips: true, aggregateNum, zeroGrads }, settle: () => {}, fail: () => {} };
    }
    // Schedulers and parameters are the caller's code: whatever they assign is read after both.
    groups.update(tensors, this.counts, this.multipliers);
    if (lossScale === undefined && this.#decidesOnDevice(tensors, options)) {
      return this.#prepareDecision(bound, aggregateNum, options);
    }
    const { counts } = this;
    counts.settle();
    const learningRate = this.learningRateAt(counts.numUpdateAfter(groups.counters, 1));
    const scale = lossScale ?? scaleOf(lossScaler);
    const skips = !withSubnormals(() => this.#writeScalars(groups, learningRate, tensors, scale, zeroGrads));
    const maxGradNorm = this.#maxGradNormOf(options);
    const isRepeated = this.#isRepeated(groups);
    const measurement =
      lossScaler === null && maxGradNorm === null ? undefined : new Measurement(tensors, groups.table, maxGradNorm);
    let hasBegun = false;
    return {
      plan: {
        skips,
        aggregateNum,
        zeroGrads,
        measurement,
        begin: () => {
          counts.announce(groups.counters, tensors.size, groups.table);
          hasBegun = true;
        },
      },
      settle: () => {
        counts.settle();
        if (measurement?.finite !== undefined) lossScaler?.update(measurement.finite);
        if (isRepeated) this.multipliers.tellUnmet();
      },
      fail: (error) => {
        // A device that failed after it was given work fails for good.
        if (hasBegun && tensors.usesDevice) this.#failure = error;
      },
    };
  }

  /** Whether the GPU of the tensors decides if a step takes place, so that nobody waits for it. */
  #decidesOnDevice(tensors: TensorList, options: ReadStepOptions): boolean {
    const { lossScaler } = options;
    if (lossScaler === null && this.#maxGradNormOf(options) === null) return false;
    const device = tensors.decidingDevice;
    return device !== null && (lossScaler?.canFollow(device) ?? true);
  }

  /** #prepare() for such a step, whose counts depend on how many of the unresolved steps before it are skipped. */
  #prepareDecision(bound: BoundStep, aggregateNum: number, options: ReadStepOptions): PreparedStep {
    const { tensors, groups } = bound;
    const { zeroGrads, lossScaler } = options;
    const { counts, lrScheduler } = this;
    const { unresolved } = counts;
    const candidates = groups.candidates(MOST_UNRESOLVED);
    // A scheduler of the caller's may do anything, so it is asked once a step, as on the CPU.
    if (lrScheduler !== null && !isOurs(lrScheduler)) counts.settle();
    unresolved.makeRoom(tensors, lossScaler);
    const written = unresolved.size;
    for (let skips = 0; skips <= written; skips++) {
      const updates = written - skips + 1;
      const learningRate = this.learningRateAt(counts.numUpdateAfter(groups.counters, updates));
      withSubnormals(() => {
        const scalars = this.#scalars(tensors);
        if (skips === 0) candidates.writeStep({ ...scalars, zeroGrads });
        this.#writeGroups(candidates, skips, groups.groups, updates, learningRate, tensors, scalars);
      });
    }
    const maxGradNorm = this.#maxGradNormOf(options);
    const isRepeated = this.#isRepeated(groups, written);
    const start = written === 0 && lossScaler !== null ? lossScaler.stateDict() : { scale: 1, growthTracker: 0 };
    const decision = decisionArray({
      clips: maxGradNorm === null ? 0 : 1,
      max_norm: maxGradNorm ?? 0,
      scales: lossScaler === null ? 0 : 1,
      dynamic: lossScaler?.dynamic ? 1 : 0,
      growth: lossScaler?.growthFactor ?? 1,
      backoff: lossScaler?.backoffFactor ?? 1,
      interval: lossScaler?.growthInterval ?? 1,
      restarts: written === 0 ? 1 : 0,
      scale: start.scale,
      tracker: start.growthTracker,
      skips: unresolved.skips,
    });
    const scalars = candidates.first((written + 1) * groups.groups.length);
    let hasBegun = false;
    return {
      plan: {
        skips: false,
        aggregateNum,
        zeroGrads,
        decide: () => {
          const scale = lossScaler?.scaleOnDevice(counts.settle);
          groups.table.clearProgress();
          counts.announce([], tensors.size, groups.table);
          unresolved.begin(tensors, lossScaler);
          tensors.decide(scalars, decision, scale, counts.settle);
          hasBegun = true;
          return unresolved.add(groups.counters);
        },
      },
      settle: () => {
        counts.settleAnnounced();
        if (isRepeated) this.multipliers.tellUnmet();
      },
      fail: (error) => {
        if (hasBegun) this.#failure = error;
        else unresolved.forgetBegun();
      },
    };
  }

  /** Whether some of the tensors were updated before, so that a multiplier whose key nobody has met is not met later. */
  #isRepeated({ counters }: ScalarGroups, unresolved = 0): boolean {
    return this.multipliers.hasUnmet && (unresolved > 0 || counters.some(({ count }) => count > this.counts.begin));
  }

  /** The bound of the norm of a step: its own, or the optimizer's. */
  #maxGradNormOf({ maxGradNorm }: ReadStepOptions): number | null {
    return maxGradNorm === undefined ? this.#maxGradNorm : maxGradNorm;
  }

  /** The scalars that all groups share, as they are now. */
  #scalars(types: ArithmeticTypes): Omit<StepScalars, 'zeroGrads'> & { readonly epsilon: number; readonly wd: number } {
    const { beta1, beta2, epsilon, clipGradient, rescaleGrad, wd } = this;
    checkBeta(beta1, 'beta1', types);
    checkBeta(beta2, 'beta2', types);
    checkHolds(epsilon, 'epsilon', types);
    checkClip(clipGradient, types);
    const rescale = this.#maximize ? -rescaleGrad : rescaleGrad;
    const stochasticWeights = this.#rounding === 'stochastic';
    return { rescale, clip: clipGradient ?? Infinity, beta1, beta2, stochasticWeights, epsilon, wd };
  }

  /** Computes the scalars of the next update of each group; false if the step is skipped. */
  #writeScalars(
    { groups, table }: ScalarGroups,
    learningRate: number,
    types: ArithmeticTypes,
    scale: number,
    zeroGrads: boolean,
  ): boolean {
    const scalars = this.#scalars(types);
    const { beta1, beta2, clip, stochasticWeights } = scalars;
    const rescale = scalars.rescale / scale;
    if (isSkipped(rescale, types)) return false;
    table.writeStep({ rescale, clip, beta1, beta2, zeroGrads, stochasticWeights });
    this.#writeGroups(table, 0, groups, 1, learningRate, types, scalars);
    return true;
  }

  /**
   * Computes the scalars of an update of each group.
   *
   * @param skips which of the candidates of the table they are
   * @param updates which update after the counters' counts it is
   */
  #writeGroups(
    table: ScalarTable,
    skips: number,
    groups: readonly ScalarGroup[],
    updates: number,
    learningRate: number,
    types: ArithmeticTypes,
    scalars: { readonly epsilon: number; readonly wd: number },
  ): void {
    const { epsilon } = scalars;
    const isPytorch = this.#rule === 'pytorch';
    const first = skips * groups.length;
    for (let i = 0; i < groups.length; i++) {
      const { counter, lrMult, wdMult } = groups[i];
      const count = counter.count + updates;
      // The corrections of the moments' bias.
      const mean = this.#correctBias ? 1 - this.#beta1.of(count) : 1;
      const root = this.#correctBias ? Math.sqrt(1 - this.#beta2.of(count)) : 1;
      const lr = learningRate * lrMult;
      const wd = scalars.wd * wdMult;
      const eta = isPytorch ? lr / mean : (lr * root) / mean;
      checkHolds(eta, 'learningRate', types);
      checkHolds(wd, 'wd', types);
      if (isPytorch) checkHolds(lr * wd, 'learningRate * wd', types);
      table.writeGroup(first + i, { eta, lr: isPytorch ? lr : 1, wd, epsilon, root: isPytorch ? root : 1, count });
    }
  }

  #stateDTypeOf(weight: DType): DType {
    const wanted = this.#stateDtype ?? 'float32';
    if (!isHalf(weight)) return weight === 'float32' && wanted === 'bfloat16' ? wanted : weight;
    if (wanted !== 'float32' && wanted !== weight) {
      throw outOfRangeIn(`float32 or ${weight} beside a ${weight} weight`, 'stateDtype', wanted);
    }
    return wanted;
  }

  /**
   * Warns of a half-precision weight without a master.
   *
   * @throws RangeError where its dtype cannot be rounded as wanted
   */
  #tellOfHalf(weight: DType, state: DType, name: string): void {
    if (this.#rounding === 'stochastic') {
      if (weight === 'bfloat16') return;
      throw outOfRangeIn("bfloat16, or a master beside it (rounding: 'stochastic')", name, weight);
    }
    const loss = `${weight} weights without float32 masters lose updates below half a unit of their last place`;
    const walk =
      state === 'float16'
        ? '. Their float16 variances underflow for gradients below about 1e-3, and steps then become up to 30 times too large'
        : '';
    const instead = weight === 'bfloat16' ? " or rounding: 'stochastic'" : '';
    const warning = `${loss}${walk}. Use multiPrecision: true${instead}`;
    if (this.#warned.has(warning)) return;
    this.#warned.add(warning);
    process.emitWarning(warning, { code: 'FUSED_ADAMW_HALF_PRECISION' });
  }
}

register(AdamW);

for (const name of ['rule', 'coupledWeightDecay', 'stateDtype', 'rounding', 'seed', 'maximize', 'amsgrad', 'stream']) {
  refuseAssignment(AdamW.prototype, name, () => fixedOption(name));
}
for (const name of Object.keys(OPTION_SYNONYMS)) {
  refuseAssignment(AdamW.prototype, name, () => unknownOption(name, 'this', ADAMW_OPTIONS, OPTION_SYNONYMS));
}

const STATE_DTYPES = ['float32', 'float16', 'bfloat16'] as const;

/** The options, each read once, with the defaults of the rule: those of MXNet's AdamW or of torch.optim.AdamW. */
function withDefaults(options: AdamWOptions, known: readonly string[]) {
  const given: AdamWOptions = readOptions(options, 'options', known as typeof ADAMW_OPTIONS, OPTION_SYNONYMS);
  const rule = given.rule ?? 'mxnet';
  const isPytorch = rule === 'pytorch';
  return {
    ...given,
    rule,
    learningRate: given.learningRate === undefined && !given.lrScheduler ? 0.001 : given.learningRate,
    useFusedStep: given.useFusedStep ?? true,
    epsilon: given.epsilon ?? (isPytorch ? 1e-8 : 1e-6),
    wd: given.wd ?? (isPytorch ? 0.01 : 0),
  };
}

function interrupted(): Error {
  return new Error(
    'The last step was interrupted after it had updated some of its tensors and others not: load a checkpoint, ' +
      'then call recover() to go on',
  );
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

/** A list, unless it has no arrays at all. */
function someOf(list: NamedList): NamedList | undefined {
  for (let i = 0; i < list.values.length; i++) if (list.values[i] !== undefined) return list;
  return undefined;
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

/** The lists as they are now. */
function copyLists<State>({ indices, weights, grads, states }: StepArguments<State>): StepArguments<State> {
  const size = indices.length;
  return {
    indices: copyList(indices, size),
    weights: copyList(weights, size),
    grads: copyList(grads, size),
    states: copyList(states, size),
  };
}

function isSame(a: readonly unknown[], b: readonly unknown[]): boolean {
  if (a.length !== b.length) return false;
  for (let i = 0; i < a.length; i++) if (a[i] !== b[i]) return false;
  return true;
}

/** Whether all lists but the gradients hold what they held in the last step. */
function isSameBut(last: LastStep, lists: StepArguments<AdamWState>): boolean {
  return (
    isSame(last.indices, lists.indices) &&
    isSame(last.weights, lists.weights) &&
    isSame(last.states, lists.states) &&
    hasSameArrays(last, lists.states)
  );
}

/** A state's arrays may have been replaced in the same object. */
function hasSameArrays(last: LastStep, states: readonly AdamWState[]): boolean {
  const { means, variances, masters, maxVariances } = last;
  for (let i = 0; i < states.length; i++) {
    const { mean, variance, master, maxVariance } = states[i];
    if (mean !== means[i] || variance !== variances[i] || (master ?? undefined) !== masters[i]) return false;
    if ((maxVariance ?? undefined) !== maxVariances[i]) return false;
  }
  return true;
}
