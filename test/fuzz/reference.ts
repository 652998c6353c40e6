/**
 * What a scenario must do, from the documentation alone: the contract on bits
 * (docs/architecture.md) and docs/, in arithmetic of its own. Only some
 * elements of each tensor are computed, as elements do not depend on each other.
 */
import type { DType } from '../../lib/index.js';
// The generator of the random bits has its own tests (41.stochastic.test.ts).
import { keyOfWeights, randomBits, randomKey, tensorKey } from '../../lib/numerics/stochastic-rounding.js';
import { nearlyExactPower } from '../support/exact-power.js';
import { decodeBits, HALF_FORMATS, type HalfFormat } from '../support/halves.js';
import { ExactFloat } from './exact-float.js';
import type { Operation, OptimizerPlan, Scenario, StepOptionsPlan, TensorPlan } from './scenario.js';
import {
  around,
  COSINE,
  configOf,
  FACTOR,
  faultOf,
  givenLearningRate,
  keptRoles,
  MULTI_FACTOR,
  numbersToSet,
  POLY,
  positionsOf,
  type Role,
  type World,
  type WorldTensor,
  writtenRoles,
} from './world.js';

/** What an operation must do: throw, or return this. */
export type Expectation = 'throws' | { readonly value: unknown };

const DONE = { skipped: false };
const SKIPPED = { skipped: true, reason: 'rescaleGrad' };
const NOTHING: Expectation = { value: undefined };

const EXACT: Readonly<Record<DType, ExactFloat>> = {
  float16: new ExactFloat('float16'),
  bfloat16: new ExactFloat('bfloat16'),
  float32: new ExactFloat('float32'),
  float64: new ExactFloat('float64'),
};

const SCRATCH = new DataView(new ArrayBuffer(4));

function formatOf(dtype: DType): HalfFormat | undefined {
  return HALF_FORMATS.find((format) => format.dtype === dtype);
}

/** A stored element as a number. */
function load(dtype: DType, element: number): number {
  const format = formatOf(dtype);
  return format ? decodeBits(format, element) : element;
}

/** A number as a stored element, rounded to the nearest. */
function store(dtype: DType, value: number): number {
  const format = formatOf(dtype);
  const rounded = EXACT[dtype].of(value);
  if (!format) return rounded;
  if (Number.isNaN(rounded)) return format.nan;
  const sign = rounded < 0 || Object.is(rounded, -0) ? 0x8000 : 0;
  const magnitude = Math.abs(rounded);
  if (magnitude === Infinity) return sign | format.infinity;
  // whole * 2 ** exponent of a format whose mantissas are whole numbers.
  const least = 1 - format.bias - format.mantissaBits;
  let exponent = least;
  while (magnitude >= 2 ** (exponent + format.mantissaBits + 1)) exponent++;
  const whole = magnitude / 2 ** exponent;
  return sign | ((exponent - least) * 2 ** format.mantissaBits + whole);
}

/** A float32 as a bfloat16, rounded up with the probability of what is cut off. */
function storeStochastic(value: number, random: number): number {
  if (Number.isNaN(value)) return 0x7fc0;
  SCRATCH.setFloat32(0, value);
  const bits = SCRATCH.getUint32(0);
  const sign = bits >= 0x80000000 ? 0x8000 : 0;
  const magnitude = bits % 0x80000000;
  if (magnitude === 0x7f800000) return sign + 0x7f80;
  return sign + Math.min(Math.floor((magnitude + (random & 0xffff)) / 0x10000), 0x7f7f);
}

/** The scalars of an update, not yet rounded. */
interface Scalars {
  readonly rule: OptimizerPlan['kind'];
  readonly rescale: number;
  readonly clip: number | null;
  readonly beta1: number;
  readonly beta2: number;
  readonly epsilon: number;
  readonly eta: number;
  readonly lr: number;
  readonly wd: number;
  readonly root: number;
}

interface Element {
  readonly weight: number;
  readonly mean: number;
  readonly variance: number;
  /** With AMSGrad. */
  readonly maximum?: number;
}

/** The greater variance with AMSGrad, of which NaN is the greatest. */
function greatest(variance: number, maximum: number | undefined): number {
  if (maximum === undefined || Number.isNaN(variance)) return variance;
  return variance <= maximum ? maximum : variance;
}

/** The rule, each operation rounded. */
function update(float: ExactFloat, s: Scalars, grad: number, { weight, mean, variance, maximum }: Element): Element {
  const add = (a: number, b: number): number => float.add(a, b);
  const sub = (a: number, b: number): number => float.subtract(a, b);
  const mul = (a: number, b: number): number => float.multiply(a, b);
  const div = (a: number, b: number): number => float.divide(a, b);
  const [beta1, beta2, epsilon, eta, lr, wd] = [s.beta1, s.beta2, s.epsilon, s.eta, s.lr, s.wd].map((x) => float.of(x));
  let g = mul(float.of(s.rescale), grad);
  if (s.clip !== null) {
    const clip = float.of(s.clip);
    if (g > clip) g = clip;
    else if (g < -clip) g = -clip;
  }
  if (s.rule === 'pytorch') {
    const decayed = mul(weight, float.of(1 - s.lr * s.wd));
    const share = float.of(1 - s.beta1); // torch.lerp has two branches
    const difference = sub(g, mean);
    const m = share < 0.5 ? add(mean, mul(share, difference)) : add(g, mul(sub(share, 1), difference));
    const v = add(mul(beta2, variance), mul(mul(float.of(1 - s.beta2), g), g));
    const most = greatest(v, maximum);
    const denominator = add(div(float.sqrt(most), float.of(s.root)), epsilon);
    return { weight: sub(decayed, div(mul(eta, m), denominator)), mean: m, variance: v, maximum: most };
  }
  if (s.rule === 'coupled') g = add(g, mul(wd, weight));
  const m = add(mul(beta1, sub(mean, g)), g);
  const q = mul(g, g);
  const v = add(mul(beta2, sub(variance, q)), q);
  const most = greatest(v, maximum);
  const quotient = div(mul(lr, m), add(float.sqrt(most), epsilon));
  return { weight: sub(weight, mul(eta, add(quotient, mul(wd, weight)))), mean: m, variance: v, maximum: most };
}

/** The one form of an index: a string of a whole number is that number. */
function indexOf(index: number | string): number | string {
  if (typeof index === 'number') return index;
  return String(Number(index)) === index && Number.isSafeInteger(Number(index)) ? Number(index) : index;
}

/** How many elements of a tensor are computed. */
const SAMPLES = 8;

class ReferenceTensor {
  readonly plan: TensorPlan;
  /** Which elements are computed. */
  readonly samples: readonly number[];
  readonly values = new Map<Role, number[]>();
  isDisposed = false;

  constructor({ plan, slots }: WorldTensor) {
    this.plan = plan;
    const { length, seed } = plan;
    const some = Array.from({ length: Math.min(SAMPLES, length) }, (_, k) =>
      k === 0 ? 0 : (seed + k * 7919) % length,
    );
    this.samples = [...new Set(length > 0 ? [...some, length - 1] : [])];
    for (const role of writtenRoles(plan)) {
      this.values.set(
        role,
        this.samples.map((at) => (slots[role] as { elements: ArrayLike<number> }).elements[at]),
      );
    }
  }

  of(role: Role): number[] {
    return this.values.get(role) as number[];
  }

  get isFloat64(): boolean {
    return configOf(this.plan).weight === 'float64';
  }

  /**
   * @param usesMaximum whether the tensor's greatest variances take part
   * @param isStochastic whether bfloat16 weights without masters are rounded at random
   */
  step(
    scalars: Scalars,
    grads: ArrayLike<number>,
    key: number,
    count: number,
    { usesMaximum, isStochastic }: { readonly usesMaximum: boolean; readonly isStochastic: boolean },
  ): void {
    const config = configOf(this.plan);
    const float = EXACT[this.isFloat64 ? 'float64' : 'float32'];
    const [weights, means, variances] = [this.of('weight'), this.of('mean'), this.of('variance')];
    const masters = this.values.get('master');
    const maximums = usesMaximum ? this.values.get('maximum') : undefined;
    const random = randomKey(key, count, 0);
    const randomOfWeights = isStochastic && config.weight === 'bfloat16' && !masters ? keyOfWeights(random) : null;
    this.samples.forEach((at, k) => {
      const { weight, mean, variance, maximum } = update(float, scalars, load(config.grad, grads[at]), {
        weight: masters ? masters[k] : load(config.weight, weights[k]),
        mean: load(config.mean, means[k]),
        variance: load(config.variance, variances[k]),
        maximum: maximums?.[k],
      });
      if (masters) masters[k] = weight;
      if (maximums) maximums[k] = maximum as number;
      weights[k] = randomOfWeights
        ? storeStochastic(weight, randomBits(randomOfWeights, at))
        : store(config.weight, weight);
      means[k] = store(config.mean, mean);
      variances[k] =
        config.variance === 'bfloat16'
          ? storeStochastic(variance, randomBits(random, at))
          : store(config.variance, variance);
    });
  }
}

type Multipliers = {
  readonly entries: ReadonlyMap<number | string, number>;
  readonly pattern: RegExp | null;
  readonly ofPattern: number;
};
const NO_MULTIPLIERS: Multipliers = { entries: new Map(), pattern: null, ofPattern: 1 };

/** float32 has no number for it. */
function overflows(value: number): boolean {
  return !Number.isFinite(EXACT.float32.of(value));
}

function vanishes(value: number): boolean {
  return EXACT.float32.of(value) === 0;
}

class ReferenceOptimizer {
  readonly plan: OptimizerPlan;
  readonly counts = new Map<number | string, number>();
  numUpdate: number;
  beta1: number;
  beta2: number;
  epsilon: number;
  wd: number;
  rescaleGrad: number;
  clipGradient: number | null;
  correctBias: boolean;
  /** The base of a scheduler, if there is one. */
  learningRate: number;
  readonly multipliers: { lr: Multipliers; wd: Multipliers } = { lr: NO_MULTIPLIERS, wd: NO_MULTIPLIERS };

  constructor(plan: OptimizerPlan) {
    this.plan = plan;
    const { options, kind, scheduler } = plan;
    this.numUpdate = options.beginNumUpdate;
    this.beta1 = options.beta1;
    this.beta2 = options.beta2;
    this.epsilon = options.epsilon;
    this.wd = options.wd;
    this.rescaleGrad = options.rescaleGrad;
    this.clipGradient = options.clipGradient;
    this.correctBias = options.correctBias && kind !== 'coupled';
    this.learningRate = givenLearningRate(plan) ?? scheduler?.baseLr ?? 0;
  }

  countOf(index: number | string): number {
    return this.counts.get(indexOf(index)) ?? this.plan.options.beginNumUpdate;
  }

  /** The learning rate at an update, before multipliers. */
  rateAt(numUpdate: number): number {
    const { scheduler } = this.plan;
    const base = this.learningRate;
    if (!scheduler) return base;
    const { kind, warmupSteps, warmupBeginLr, warmupMode } = scheduler;
    if (numUpdate < warmupSteps) {
      if (warmupMode === 'constant') return warmupBeginLr;
      return warmupBeginLr + ((base - warmupBeginLr) * numUpdate) / warmupSteps;
    }
    const decay = ({ maxUpdate, finalLr }: { maxUpdate: number; finalLr: number }, left: (x: number) => number) =>
      numUpdate >= maxUpdate
        ? finalLr
        : finalLr + (base - finalLr) * left((numUpdate - warmupSteps) / (maxUpdate - warmupSteps));
    switch (kind) {
      case 'factor': {
        let rate = base;
        for (let at = FACTOR.step + 1; at <= Math.min(numUpdate, 10_000); at += FACTOR.step) {
          rate = Math.max(rate * FACTOR.factor, FACTOR.stopFactorLr);
        }
        return rate;
      }
      case 'multiFactor': {
        let rate = base;
        for (const step of MULTI_FACTOR.step) if (numUpdate > step) rate *= MULTI_FACTOR.factor;
        return rate;
      }
      case 'poly':
        return decay(POLY, (progress) => (1 - progress) ** POLY.power);
      case 'cosine':
        return decay(COSINE, (progress) => (1 + Math.cos(Math.PI * progress)) / 2);
      case 'inverseRoot':
        return base / Math.sqrt(Math.max(1, numUpdate));
    }
  }

  /** paramDict wins over the index, that over the name, and that over a pattern. */
  multiplierOf(index: number | string, of: 'lr' | 'wd'): number {
    const { names, paramDict } = this.plan;
    const own = (table: object, key: string): unknown =>
      Object.hasOwn(table, key) ? Reflect.get(table, key) : undefined;
    const key = String(indexOf(index));
    const parameter = own(paramDict, key) as { lrMult?: number; wdMult?: number } | undefined;
    if (parameter) return (of === 'lr' ? parameter.lrMult : parameter.wdMult) ?? 1;
    const { entries, pattern, ofPattern } = this.multipliers[of];
    const ofIndex = entries.get(indexOf(index));
    if (ofIndex !== undefined) return ofIndex;
    const name = own(names, key) as string | undefined;
    const ofName = name === undefined ? undefined : entries.get(indexOf(name));
    if (ofName !== undefined) return ofName;
    return pattern?.test(name ?? String(index)) ? ofPattern : 1;
  }

  assign(name: string, value: unknown): boolean {
    const isNumber = typeof value === 'number';
    const isUsual = isNumber && value >= 0 && value < Infinity;
    switch (name) {
      case 'learningRate':
        if (this.plan.scheduler || !isUsual) return false;
        this.learningRate = value;
        return true;
      case 'beta1':
      case 'beta2':
        if (!isUsual || value >= 1) return false;
        this[name] = value;
        return true;
      case 'epsilon':
      case 'wd':
        if (!isUsual) return false;
        this[name] = value;
        return true;
      case 'rescaleGrad':
        if (!isNumber) return false;
        this.rescaleGrad = value;
        return true;
      case 'clipGradient':
        if (value !== null && (!isUsual || value === 0)) return false;
        this.clipGradient = value;
        return true;
      case 'correctBias':
        if (typeof value !== 'boolean' || (value && this.plan.kind === 'coupled')) return false;
        this.correctBias = value;
        return true;
      case 'aggregateNum':
        return value === null || value === Infinity || (isUsual && Number.isInteger(value));
      case 'useFusedStep':
        return typeof value === 'boolean';
      default:
        return false;
    }
  }
}

/** The scalars that are checked before a step is skipped or made. */
function isUsable(
  {
    beta1,
    beta2,
    epsilon,
    clipGradient,
  }: { beta1: number; beta2: number; epsilon: number; clipGradient: number | null },
  usesFloat32: boolean,
): boolean {
  if (!usesFloat32) return true;
  if (EXACT.float32.of(beta1) >= 1 || EXACT.float32.of(beta2) >= 1 || overflows(epsilon)) return false;
  return clipGradient === null || !(overflows(clipGradient) || vanishes(clipGradient));
}

function isSkipped(rescale: number, usesFloat32: boolean): boolean {
  if (!Number.isFinite(rescale) || rescale === 0) return true;
  return usesFloat32 && (overflows(rescale) || vanishes(rescale));
}

interface Bound {
  readonly optimizer: number;
  readonly tensors: readonly number[];
  grads: number;
  isDisposed: boolean;
}

export class Reference {
  readonly tensors: readonly ReferenceTensor[];
  readonly optimizers: readonly ReferenceOptimizer[];
  /** The gradients that the last operation must have cleared. */
  cleared: readonly ArrayLike<number>[] = [];
  readonly #world: World;
  #bounds: Bound[] = [];

  /** @param world as it is before the first operation */
  constructor({ optimizers }: Scenario, world: World) {
    this.#world = world;
    this.tensors = world.tensors.map((tensor) => new ReferenceTensor(tensor));
    this.optimizers = optimizers.map((plan) => new ReferenceOptimizer(plan));
  }

  /** Does an operation, which the world is about to do; its gradients are read there. */
  apply(operation: Operation): Expectation {
    this.cleared = [];
    switch (operation.do) {
      case 'step': {
        const { optimizer, grads, fault, call } = operation;
        const tensors = positionsOf(operation.tensors, this.tensors.length);
        if (!this.#canBind(optimizer, tensors) || this.#fault(fault, 'step', tensors)) return 'throws';
        if (call === 'updateAsync' && !this.#stays(tensors)) return 'throws';
        return this.#step(optimizer, tensors, grads, operation.options);
      }
      case 'bind': {
        const { optimizer, grads, fault } = operation;
        const tensors = positionsOf(operation.tensors, this.tensors.length);
        const succeeds = this.#canBind(optimizer, tensors) && !this.#fault(fault, 'bind', tensors);
        if (!succeeds) return 'throws';
        this.#bounds.push({ optimizer, tensors, grads, isDisposed: false });
        return NOTHING;
      }
      case 'boundStep': {
        const bound = this.#bound(operation.bound);
        if (!bound) return NOTHING;
        if (bound.isDisposed || bound.tensors.some((i) => around(this.tensors, i).isDisposed)) return 'throws';
        if (operation.call === 'stepAsync' && !this.#stays(bound.tensors)) return 'throws';
        return this.#step(bound.optimizer, bound.tensors, bound.grads, operation.options);
      }
      case 'setGrads': {
        const bound = this.#bound(operation.bound);
        if (!bound) return NOTHING;
        if (bound.isDisposed || this.#fault(operation.fault, 'setGrads', bound.tensors)) return 'throws';
        bound.grads = operation.grads;
        return NOTHING;
      }
      case 'disposeBound': {
        const bound = this.#bound(operation.bound);
        if (bound) bound.isDisposed = true;
        return NOTHING;
      }
      case 'dispose':
      case 'refill':
        return NOTHING;
      case 'assign': {
        const { optimizer, name, value } = operation;
        return around(this.optimizers, optimizer).assign(name, value) ? NOTHING : 'throws';
      }
      case 'setMultipliers': {
        const { optimizer, of, table, pattern } = operation;
        if (table.some(([, value]) => !(value >= 0))) return 'throws';
        around(this.optimizers, optimizer).multipliers[of] = {
          entries: new Map(table.map(([key, value]) => [indexOf(key), value])),
          pattern: pattern && new RegExp(pattern[0], 'i'),
          ofPattern: pattern?.[1] ?? 1,
        };
        return NOTHING;
      }
      case 'set': {
        const tensor = around(this.tensors, operation.tensor);
        const role = around(writtenRoles(tensor.plan), operation.role);
        if (role === 'weight' && tensor.isDisposed) return 'throws';
        const numbers = numbersToSet(operation.seed, tensor.plan.length);
        const dtype = configOf(tensor.plan)[role] as DType;
        tensor.values.set(
          role,
          tensor.samples.map((at) => store(dtype, numbers[at])),
        );
        return NOTHING;
      }
      case 'resume':
        return this.#resume(operation.optimizer % this.optimizers.length);
      case 'multiAdamwUpdate':
        return this.#multiAdamwUpdate(operation);
      case 'syncMaster': {
        const tensors = positionsOf(operation.tensors, this.tensors.length).map((i) => this.tensors[i]);
        const withMaster = tensors.filter(({ values }) => values.has('master'));
        if (withMaster.some(({ isDisposed }) => isDisposed)) return 'throws';
        for (const tensor of withMaster) {
          const dtype = configOf(tensor.plan).weight;
          tensor.values.set(
            'master',
            tensor.of('weight').map((element) => load(dtype, element)),
          );
        }
        return NOTHING;
      }
      case 'disposeTensor': {
        const tensor = this.tensors[operation.tensor];
        if (!tensor) return NOTHING;
        const { memory } = tensor.plan;
        const isArray = memory === 'plain' && formatOf(configOf(tensor.plan).weight) === undefined;
        if (!isArray) tensor.isDisposed = true;
        return NOTHING;
      }
    }
  }

  #bound(i: number): Bound | null {
    return this.#bounds.length === 0 ? null : around(this.#bounds, i);
  }

  #fault(plan: Parameters<typeof faultOf>[0], call: Operation['do'], tensors: readonly number[]): boolean {
    const plans = tensors.map((i) => around(this.tensors, i).plan);
    return faultOf(plan, call, plans) !== null;
  }

  /** Whether all are there, each once and under an index of its own, and of dtypes that the optimizer takes. */
  #canBind(optimizer: number, positions: readonly number[]): boolean {
    const { amsgrad, rounding } = around(this.optimizers, optimizer).plan.options;
    const tensors = positions.map((i) => around(this.tensors, i));
    if (new Set(tensors.map(({ plan }) => indexOf(plan.index))).size < tensors.length) return false;
    return tensors.every(({ isDisposed, plan }) => {
      const { weight, master, maximum } = configOf(plan);
      const isRounded = rounding === 'nearest' || weight !== 'float16' || master !== undefined;
      return !isDisposed && isRounded && (maximum !== undefined || !amsgrad);
    });
  }

  /** Whether nothing can free the memory of an asynchronous step. */
  #stays(positions: readonly number[]): boolean {
    return positions.every((i) => around(this.tensors, i).plan.memory !== 'plain');
  }

  #usesFloat32(positions: readonly number[]): boolean {
    return positions.some((i) => !around(this.tensors, i).isFloat64);
  }

  #gradsOf(position: number, grads: number): ArrayLike<number> {
    return around(around(this.#world.tensors, position).grads, grads).elements;
  }

  #step(
    optimizerAt: number,
    positions: readonly number[],
    grads: number,
    options: StepOptionsPlan | null,
  ): Expectation {
    const { zeroGrads, maxGradNorm, scale } = options ?? { zeroGrads: false, maxGradNorm: null, scale: null };
    if (maxGradNorm !== null && !(maxGradNorm > 0)) return 'throws';
    const optimizer = around(this.optimizers, optimizerAt);
    const usesFloat32 = this.#usesFloat32(positions);
    if (!isUsable(optimizer, usesFloat32)) return 'throws';
    const { beta1, beta2, epsilon, rescaleGrad, clipGradient, plan } = optimizer;
    const cleared = zeroGrads ? positions.map((i) => this.#gradsOf(i, grads)) : [];
    const { maximize, rounding, seed } = plan.options;
    let rescale = (maximize ? -rescaleGrad : rescaleGrad) / (scale ?? 1);
    if (isSkipped(rescaleGrad, usesFloat32) || isSkipped(rescale, usesFloat32)) {
      this.cleared = cleared;
      return { value: SKIPPED };
    }
    const counts = positions.map((i) => optimizer.countOf(around(this.tensors, i).plan.index) + 1);
    const numUpdate = Math.max(optimizer.numUpdate, ...counts);
    const learningRate = optimizer.rateAt(numUpdate);
    const all = positions.map((i, k): Scalars => {
      const { index } = around(this.tensors, i).plan;
      const t = counts[k];
      const root = optimizer.correctBias ? Math.sqrt(1 - nearlyExactPower(beta2, t)) : 1;
      const mean = optimizer.correctBias ? 1 - nearlyExactPower(beta1, t) : 1;
      // A multiplier of -0 is 0.
      const lr = learningRate * (optimizer.multiplierOf(index, 'lr') + 0);
      const wd = optimizer.wd * (optimizer.multiplierOf(index, 'wd') + 0);
      const shared = { rule: plan.kind, rescale, clip: clipGradient, beta1, beta2, epsilon, wd, root };
      return plan.kind === 'pytorch'
        ? { ...shared, lr, eta: lr / mean }
        : { ...shared, lr: 1, eta: (lr * root) / mean };
    });
    const canHold = (value: number): boolean => Number.isFinite(value) && !(usesFloat32 && overflows(value));
    for (const { rule, eta, lr, wd } of all) {
      if (!canHold(eta) || !canHold(wd) || (rule === 'pytorch' && !canHold(lr * wd))) return 'throws';
    }
    this.cleared = cleared;
    let gradNorm: number | undefined;
    if (maxGradNorm !== null || scale !== null) {
      const { sum, finite } = this.#squaresOf(positions, grads);
      gradNorm = Math.sqrt(sum) * Math.abs(rescale);
      if (!finite || (maxGradNorm !== null && !(gradNorm < Infinity))) {
        return { value: { skipped: true, reason: 'gradNorm', gradNorm } };
      }
      if (maxGradNorm !== null) rescale *= Math.min(1, maxGradNorm / (gradNorm + 1e-6));
    }
    positions.forEach((i, k) => {
      const tensor = around(this.tensors, i);
      const index = indexOf(tensor.plan.index);
      tensor.step({ ...all[k], rescale }, this.#gradsOf(i, grads), tensorKey(seed, index), counts[k], {
        usesMaximum: true,
        isStochastic: rounding === 'stochastic',
      });
      optimizer.counts.set(index, counts[k]);
    });
    optimizer.numUpdate = numUpdate;
    return { value: gradNorm === undefined ? DONE : { ...DONE, gradNorm } };
  }

  /** The sum of the squares of all gradients, in the order of docs/architecture.md. */
  #squaresOf(positions: readonly number[], grads: number): { sum: number; finite: boolean } {
    let sum = 0;
    let finite = true;
    for (const i of positions) {
      const { grad } = configOf(around(this.tensors, i).plan);
      const values = Array.from(this.#gradsOf(i, grads), (element) => load(grad, element));
      if (!values.every(Number.isFinite)) finite = false;
      let ofTensor = 0;
      for (let first = 0; first < values.length; first += 4096) {
        let lanes = new Array<number>(16).fill(0);
        values.slice(first, first + 4096).forEach((value, k) => {
          lanes[k % 16] += value * value;
        });
        for (let half = 8; half >= 1; half /= 2) lanes = lanes.slice(0, half).map((lane, k) => lane + lanes[half + k]);
        ofTensor += lanes[0];
      }
      sum += ofTensor;
    }
    return { sum, finite };
  }

  #multiAdamwUpdate({
    tensors: named,
    grads,
    scalars,
    options,
    fault,
  }: Extract<Operation, { do: 'multiAdamwUpdate' }>): Expectation {
    const positions = positionsOf(named, this.tensors.length);
    const tensors = positions.map((i) => this.tensors[i]);
    const isTwice =
      new Set(tensors.filter(({ plan }) => plan.length > 0)).size <
      tensors.filter(({ plan }) => plan.length > 0).length;
    if (isTwice || tensors.some(({ isDisposed }) => isDisposed)) return 'throws';
    if (this.#fault(fault, 'multiAdamwUpdate', positions)) return 'throws';
    const usesFloat32 = this.#usesFloat32(positions);
    if (!isUsable(options, usesFloat32)) return 'throws';
    const of = positions.map((_, k) => around(scalars, k));
    if (usesFloat32 && of.some((values) => values.some(overflows))) return 'throws';
    const { rescaleGrad: rescale, clipGradient: clip, beta1, beta2, epsilon, seed, updateCount } = options;
    if (isSkipped(rescale, usesFloat32)) return { value: SKIPPED };
    tensors.forEach((tensor, k) => {
      const [eta, lr, wd] = of[k];
      const all: Scalars = { rule: 'mxnet', rescale, clip, beta1, beta2, epsilon, eta, lr, wd, root: 1 };
      tensor.step(all, this.#gradsOf(positions[k], grads), tensorKey(seed, k), updateCount, {
        usesMaximum: false,
        isStochastic: false,
      });
    });
    return { value: DONE };
  }

  /** Nothing changes, but what is bound to the old optimizer is let go of, and every NaN of a half becomes the same. */
  #resume(optimizer: number): Expectation {
    this.#bounds = this.#bounds.filter((bound) => bound.optimizer % this.optimizers.length !== optimizer);
    for (const { plan, values } of this.tensors) {
      for (const role of keptRoles(plan)) {
        const dtype = configOf(plan)[role] as DType;
        const elements = values.get(role) as number[];
        values.set(
          role,
          elements.map((element) => (Number.isNaN(load(dtype, element)) ? store(dtype, NaN) : element)),
        );
      }
    }
    return NOTHING;
  }
}
