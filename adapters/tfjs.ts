/**
 * AdamW as an optimizer of tf.js, for `model.compile({ optimizer })`, `minimize()` and `applyGradients()`.
 *
 * On a backend that hands out its own memory (cpu) the weights of a variable are updated in place, in memory of this
 * package that the variable is given at its first step. On the others (wasm, tensorflow, webgl) they are written back.
 *
 * @module fused-adamw/tfjs
 */
import {
  backend,
  engine,
  type KernelBackend,
  type NamedTensorMap,
  Optimizer,
  serialization,
  type Tensor as TfTensor,
  tensor,
  type Variable,
  variable,
} from '@tensorflow/tfjs-core';
import { outOfRange, outOfRangeIn, wrongKind, wrongKindIn } from '../lib/errors.js';
import { AdamW, type AdamWOptions, type AdamWState, Tensor } from '../lib/index.js';

/** A tensor with its name, which tf.js does not export. */
type NamedTensor = Awaited<ReturnType<Optimizer['getWeights']>>[number];

/** Those options of AdamW that count for float32 variables, and which of them do not decay. */
export interface AdamWOptimizerOptions
  extends Pick<
    AdamWOptions,
    | 'learningRate'
    | 'lrScheduler'
    | 'beta1'
    | 'beta2'
    | 'epsilon'
    | 'wd'
    | 'correctBias'
    | 'rule'
    | 'coupledWeightDecay'
    | 'clipGradient'
    | 'rescaleGrad'
    | 'useFusedStep'
  > {
  /**
   * Variables without weight decay: parts of their names, or regular expressions that match them, such as
   * `['bias', /norm/i]`. One that no variable has by the second update is reported by a process warning (code
   * FUSED_ADAMW_UNMET_MULTIPLIER). Default: none.
   */
  readonly excludeFromWeightDecay?: readonly (string | RegExp)[] | null;
}

const OPTIONS = [
  'learningRate',
  'lrScheduler',
  'beta1',
  'beta2',
  'epsilon',
  'wd',
  'correctBias',
  'rule',
  'coupledWeightDecay',
  'clipGradient',
  'rescaleGrad',
  'useFusedStep',
  'excludeFromWeightDecay',
] as const satisfies readonly (keyof AdamWOptimizerOptions)[];

/** What is kept for a variable. */
interface Slot {
  readonly state: AdamWState & { readonly mean: Tensor<'float32'>; readonly variance: Tensor<'float32'> };
  /** The weights in memory of this package; null before the first step. */
  weight: Tensor<'float32'> | null;
  /** The variable's data as the last step left it: another one has other values. */
  dataId: object | null;
  /** Whether that data is the memory of `weight` itself. */
  isInPlace: boolean;
}

/** A slot that is ready for a step. */
type ReadySlot = Slot & { weight: Tensor<'float32'> };

/** A variable with its gradient. */
interface Pair {
  readonly variable: Variable;
  readonly gradient: TfTensor;
}

/**
 * An optimizer of tf.js with the options, the rules and the bits of AdamW.
 *
 * @example
 * model.compile({ optimizer: adamw({ wd: 0.01, excludeFromWeightDecay: ['bias'] }), loss: 'meanSquaredError' });
 *
 * @throws TypeError for options of the wrong kind or that are not known, RangeError for values out of range
 */
export function adamw(options: AdamWOptimizerOptions = {}): AdamWOptimizer {
  return new AdamWOptimizer(options);
}

/**
 * What adamw() makes. Variables are float32 and told apart by their names: one that two models use has one state, and
 * one that gets no gradient (a frozen one) stays as it is.
 *
 * On the cpu backend `dataSync()` of a variable is the memory that the next step changes: `slice()` it to keep values.
 * Tensors that share a variable's data (`clone()`, `reshape()`) keep their values.
 */
export class AdamWOptimizer extends Optimizer {
  /** Under which `model.save()` records the optimizer. */
  static get className(): string {
    return 'FusedAdamW';
  }

  /** Makes the steps, with variables' names for indices: options may be assigned and multipliers be set between steps. */
  readonly adamw: AdamW;
  readonly #excluded: readonly (string | RegExp)[];
  /** By the names of variables, in the order in which they came. */
  #slots = new Map<string, Slot>();
  /** Whether the slots were loaded and no step was made since. */
  #isLoaded = false;
  /** What getWeights() gave. */
  readonly #saved = new Map<string, Variable>();
  #isDisposed = false;

  /** @throws as adamw() */
  constructor(options: AdamWOptimizerOptions = {}) {
    super();
    this.adamw = new AdamW(options, OPTIONS);
    this.#excluded = checkPatterns(options.excludeFromWeightDecay ?? []);
    this.adamw.setWdMult(new Map(this.#excluded.map((pattern) => [toRegExp(pattern), 0])));
  }

  /** The learning rate now; beside a scheduler it cannot be assigned. */
  get learningRate(): number {
    return this.adamw.learningRate;
  }

  set learningRate(value: number) {
    this.adamw.setLearningRate(value);
  }

  /**
   * Updates variables by their gradients, in one native call for all of them. A variable without one is left alone.
   *
   * @param variableGradients by the names of variables; float32, with their numbers of elements
   * @throws TypeError for a variable that is not float32, RangeError for a name that is no variable's or another shape
   *   than before; then nothing has changed
   */
  override applyGradients(variableGradients: NamedTensorMap | NamedTensor[]): void {
    this.#checkLive();
    const pairs = pairsOf(variableGradients);
    if (this.#isLoaded) this.#matchNames(pairs);
    const slots = pairs.map(({ variable }) => this.#prepare(variable));
    const { skipped } = this.adamw.update(
      pairs.map(({ variable }) => variable.name),
      slots.map(({ weight }) => weight),
      pairs.map(({ gradient }) => gradient.dataSync<'float32'>()),
      slots.map(({ state }) => state),
    );
    if (skipped) return;
    this.#isLoaded = false;
    pairs.forEach(({ variable }, i) => void writeBack(variable, slots[i]));
    this.incrementIterations();
  }

  /**
   * The number of steps, and for each variable its update count and both moments (`NAME/count`, `NAME/mean`,
   * `NAME/variance`). As with tf.js's own optimizers the tensors are the optimizer's: a later call renews their values,
   * and dispose() frees them.
   */
  override async getWeights(): Promise<NamedTensor[]> {
    this.#checkLive();
    const weights = [this.#save('iter', Int32Array.of(this.iterations), [])];
    for (const [name, { state }] of this.#slots) {
      weights.push(this.#save(`${name}/count`, Int32Array.of(this.adamw.updateCount(name)), []));
      for (const moment of ['mean', 'variance'] as const) {
        weights.push(this.#save(`${name}/${moment}`, state[moment].data.slice(), [...state[moment].shape]));
      }
    }
    return weights;
  }

  /**
   * Takes what getWeights() gave, in place of all counts and moments of before. With the options and weights of then,
   * the next steps have the same bits.
   *
   * The variables are found by their names. If none has a name that was saved (tf.js gives a model that is loaded beside
   * another one other names), they are taken in order, which needs as many of the same shapes.
   *
   * @throws TypeError or RangeError for anything else; then nothing has changed
   */
  override async setWeights(weightValues: NamedTensor[]): Promise<void> {
    this.#checkLive();
    const read = await Promise.all(
      weightValues.map(async ({ name, tensor }) => ({ name, shape: tensor.shape, values: await tensor.data() })),
    );
    const [iterations, ...rest] = read;
    if (iterations?.name !== 'iter')
      throw outOfRange('iter, as getWeights() gives it,', 'weightValues[0]', iterations?.name);
    const slots = new Map<string, Slot>();
    const counts: Record<string, number> = {};
    for (let i = 0; i < rest.length; i += 3) {
      const name = rest[i].name.replace(/\/count$/, '');
      ['count', 'mean', 'variance'].forEach((part, k) => {
        const expected = `${name}/${part}`;
        const received = rest[i + k]?.name;
        if (received !== expected) throw outOfRange(expected, `weightValues[${i + k + 1}]`, received);
      });
      const [mean, variance] = [rest[i + 1], rest[i + 2]].map(({ shape, values }) =>
        Tensor.zeros(shape).set(values as Float32Array),
      );
      counts[name] = rest[i].values[0];
      slots.set(name, { state: { mean, variance }, weight: null, dataId: null, isInPlace: false });
    }
    this.#loadCounts(counts);
    this.#slots = slots;
    this.#isLoaded = true;
    this.iterations_ = iterations.values[0];
  }

  /**
   * The options as they are now, for `model.save()` and `fromConfig()`.
   *
   * @throws Error beside a scheduler, which is the caller's code
   */
  override getConfig(): serialization.ConfigDict {
    const { adamw } = this;
    if (adamw.lrScheduler) {
      throw new Error('Expected no lrScheduler for getConfig but received one: a scheduler cannot be written down');
    }
    return {
      learningRate: adamw.learningRate,
      beta1: adamw.beta1,
      beta2: adamw.beta2,
      epsilon: adamw.epsilon,
      wd: adamw.wd,
      correctBias: adamw.correctBias,
      rule: adamw.rule,
      coupledWeightDecay: adamw.coupledWeightDecay,
      clipGradient: adamw.clipGradient,
      rescaleGrad: adamw.rescaleGrad,
      useFusedStep: adamw.useFusedStep,
      // tf.js rewrites strings in camelCase and snake_case, but not under the key `name`.
      excludeFromWeightDecay: this.#excluded.map((pattern) =>
        typeof pattern === 'string' ? { name: pattern } : { name: pattern.source, flags: pattern.flags },
      ) as serialization.ConfigDict[],
    };
  }

  /** An optimizer from what getConfig() gave. */
  static override fromConfig<T extends serialization.Serializable>(
    cls: serialization.SerializableConstructor<T>,
    config: serialization.ConfigDict,
  ): T {
    const { customObjects, excludeFromWeightDecay, ...options } = config; // loading a model adds customObjects
    const patterns = excludeFromWeightDecay as { name: string; flags?: string }[];
    return new cls({
      ...options,
      excludeFromWeightDecay: patterns.map(({ name, flags }) => (flags === undefined ? name : new RegExp(name, flags))),
    });
  }

  /** Frees the moments and what getWeights() gave. Variables keep their values; every later use throws. */
  override dispose(): void {
    this.#isDisposed = true;
    this.adamw.dispose();
    this.#slots.clear();
    for (const saved of this.#saved.values()) saved.dispose();
    this.#saved.clear();
  }

  #checkLive(): void {
    if (this.#isDisposed) throw outOfRangeIn('a live optimizer', 'this', 'one that was disposed of');
  }

  /** The slot of a variable, whose weight has the variable's values in memory that no other tensor reads. */
  #prepare(variable: Variable): ReadySlot {
    const { name, shape } = variable;
    const slot = this.#slots.get(name);
    if (slot && !isSameShape(slot.state.mean.shape, shape)) {
      throw outOfRangeIn(
        `shape [${slot.state.mean.shape.join(', ')}], as of its moments,`,
        name,
        `[${shape.join(', ')}]`,
      );
    }
    if (slot && isReady(slot) && isCurrent(variable, slot)) return slot;
    // Memory that tf.js was given may be that of clones too, and is not written any more.
    const weight = slot?.weight && !slot.isInPlace ? slot.weight : Tensor.zeros(shape);
    weight.set(variable.dataSync<'float32'>());
    if (slot) return Object.assign(slot, { weight, dataId: null, isInPlace: false });
    const state = this.adamw.createState(name, weight) as Slot['state'];
    const created: ReadySlot = { state, weight, dataId: null, isInPlace: false };
    this.#slots.set(name, created);
    return created;
  }

  /** After setWeights(): gives the slots the names of the variables, where none has a name that was saved. */
  #matchNames(pairs: readonly Pair[]): void {
    const names = pairs.map(({ variable }) => variable.name);
    if (names.length === 0 || names.some((name) => this.#slots.has(name))) return;
    const saved = [...this.#slots];
    const isSame =
      saved.length === pairs.length &&
      saved.every(([, { state }], i) => isSameShape(state.mean.shape, pairs[i].variable.shape));
    if (!isSame) {
      const expected = `the variables whose moments were loaded (${saved.map(([name]) => name).join(', ')})`;
      throw outOfRangeIn(expected, 'variableGradients', names.join(', '));
    }
    const counts = saved.map(([name], i) => [names[i], this.adamw.updateCount(name)]);
    this.#loadCounts(Object.fromEntries(counts));
    this.#slots = new Map(saved.map(([, slot], i) => [names[i], slot]));
  }

  #loadCounts(counts: Readonly<Record<string, number>>): void {
    const numUpdate = Math.max(0, ...Object.values(counts));
    this.adamw.loadStateDict({ ...this.adamw.stateDict(), numUpdate, counts: { cpu: counts } });
  }

  /** A variable of tf.js with these values, the same at each call. */
  #save(name: string, values: Float32Array | Int32Array, shape: number[]): NamedTensor {
    const fresh = tensor(values, shape, values instanceof Int32Array ? 'int32' : 'float32');
    let saved = this.#saved.get(name);
    if (saved && !saved.isDisposed) {
      saved.assign(fresh);
    } else {
      saved = variable(fresh, false);
      this.#saved.set(name, saved);
    }
    fresh.dispose();
    return { name, tensor: saved };
  }
}

serialization.registerClass(AdamWOptimizer);

/** The variables that have gradients. */
function pairsOf(variableGradients: NamedTensorMap | NamedTensor[]): Pair[] {
  const list = Array.isArray(variableGradients)
    ? variableGradients
    : Object.entries(variableGradients).map(([name, tensor]) => ({ name, tensor }));
  const { registeredVariables } = engine();
  return list
    .filter(({ tensor }) => tensor !== undefined && tensor !== null)
    .map(({ name, tensor }) => {
      const variable = registeredVariables[name];
      if (!variable) throw outOfRange('the name of a variable', 'variableGradients', name);
      if (variable.dtype !== 'float32') throw wrongKindIn('float32', name, variable.dtype);
      return { variable, gradient: tensor };
    });
}

function isReady(slot: Slot): slot is ReadySlot {
  return slot.weight !== null;
}

/** Whether a slot's weight has the variable's values, and may be written. */
function isCurrent(variable: Variable, { weight, dataId, isInPlace }: ReadySlot): boolean {
  if (dataId !== variable.dataId) return false;
  // The data may have gone to another backend, or be that of a clone too.
  return !isInPlace || (backend().refCount(variable.dataId) === 1 && variable.dataSync() === weight.data);
}

/** Gives the variable the values of its weight after a step. */
function writeBack(variable: Variable, slot: ReadySlot): void {
  if (slot.isInPlace) return;
  const written = tensor(slot.weight.data, variable.shape, 'float32');
  variable.assign(written);
  written.dispose();
  slot.dataId = variable.dataId;
  slot.isInPlace = sharesMemory(backend());
}

const sharing = new WeakMap<KernelBackend, boolean>();

/** Whether a backend keeps the array that a tensor is made of, and hands it out again. */
function sharesMemory(backend: KernelBackend): boolean {
  let shares = sharing.get(backend);
  if (shares === undefined) {
    const values = new Float32Array(1);
    const probe = tensor(values);
    shares = probe.dataSync() === values;
    probe.dispose();
    sharing.set(backend, shares);
  }
  return shares;
}

function isSameShape(a: readonly number[], b: readonly number[]): boolean {
  return a.length === b.length && a.every((size, i) => size === b[i]);
}

function checkPatterns(patterns: readonly (string | RegExp)[]): readonly (string | RegExp)[] {
  if (!Array.isArray(patterns)) throw wrongKind('a list', 'excludeFromWeightDecay', patterns);
  patterns.forEach((pattern, i) => {
    if ((typeof pattern !== 'string' || pattern === '') && !(pattern instanceof RegExp)) {
      throw wrongKind('a part of a name or a RegExp', `excludeFromWeightDecay[${i}]`, pattern);
    }
  });
  return [...patterns];
}

/** A part of a name as a pattern. */
function toRegExp(pattern: string | RegExp): RegExp {
  return typeof pattern === 'string' ? new RegExp(pattern.replace(/[.*+?^${}()|[\]\\]/g, '\\$&')) : pattern;
}
