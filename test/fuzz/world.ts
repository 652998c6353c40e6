/** The tensors and optimizers of a scenario, and its operations as calls of the package. */
import * as abi from '../../lib/backend/abi.js';
import {
  AdamW,
  type AdamWOptions,
  type AdamWState,
  type BoundStep,
  CosineScheduler,
  type DType,
  FactorScheduler,
  LossScaler,
  type LRScheduler,
  MultiFactorScheduler,
  multiAdamwUpdate,
  PolyScheduler,
  type StepOptions,
  syncMaster,
  Tensor,
  type TensorLike,
} from '../../lib/index.js';
import type { Values } from '../support/bits.js';
import { DTYPE_BYTES, tensorOf } from '../support/memory.js';
import { InverseRoot } from '../support/schedulers.js';
import { numbersFrom, randomValue } from '../support/special-values.js';
import type {
  Fault,
  FaultPlan,
  Operation,
  OptimizerPlan,
  Scenario,
  SchedulerPlan,
  StepOptionsPlan,
  TensorPlan,
} from './scenario.js';

export type Role = abi.Role;

/** Element `i` of a list, counted around. */
export function around<T>(list: readonly T[], i: number): T {
  return list[i % list.length];
}

/** The tensors that an operation names, of `size`; one comes twice only where the operation says so. */
export function positionsOf(tensors: readonly number[], size: number): number[] {
  const positions = tensors.map((i) => i % size);
  return new Set(tensors).size < tensors.length ? positions : [...new Set(positions)];
}

export function configOf(plan: TensorPlan): abi.DTypeConfig {
  return abi.DTYPE_CONFIGS.find(({ name }) => name === plan.config) as abi.DTypeConfig;
}

/** The roles of a tensor that a step writes. */
export function writtenRoles(plan: TensorPlan): Role[] {
  const config = configOf(plan);
  return abi.ROLES.flatMap(({ name, access }) => (access === 'written' && config[name] ? [name] : []));
}

/** Those of its state, unless it is so large that JSON of it takes long. */
export function keptRoles(plan: TensorPlan): Role[] {
  return plan.length > 1000 ? [] : writtenRoles(plan).filter((role) => role !== 'weight');
}

function toStepOptions(plan: StepOptionsPlan | null): StepOptions | undefined {
  if (plan === null) return undefined;
  const { zeroGrads, maxGradNorm, scale } = plan;
  const lossScaler = scale === null ? null : new LossScaler({ initialScale: scale, dynamic: false });
  return { zeroGrads, maxGradNorm, lossScaler };
}

/** One array. */
interface Slot {
  readonly dtype: DType;
  readonly value: TensorLike;
  /** The same memory, halves as bits, whatever happens to a Tensor of it. */
  readonly elements: Values;
  /** All of its buffer, unless other tensors are in it. */
  readonly whole: Values;
}

const GUARD = 0xa5;

function makeSlot({ memory, offset, length }: TensorPlan, dtype: DType): Slot {
  if (memory === 'own') return ownSlot(Tensor.zeros(length, { dtype }));
  const size = DTYPE_BYTES[dtype];
  const byteOffset = size * (1 + offset);
  const bytes = byteOffset + size * (length + 3);
  const buffer = memory === 'shared' ? new SharedArrayBuffer(bytes) : new ArrayBuffer(bytes);
  new Uint8Array(buffer).fill(GUARD);
  const tensor = Tensor.from(buffer as ArrayBuffer, { dtype, byteOffset, length });
  const elements = tensor.data as Values;
  const isPlain = memory === 'plain' && !(elements instanceof Uint16Array);
  const whole = Tensor.from(buffer as ArrayBuffer, { dtype }).data as Values;
  return { dtype, value: isPlain ? elements : tensor, elements, whole };
}

function ownSlot(tensor: Tensor): Slot {
  const elements = tensor.data as Values;
  return { dtype: tensor.dtype, value: tensor, elements, whole: elements };
}

type Sign = 'any' | 'mostly positive';

/** Random values of a dtype. */
function randomValues(dtype: DType, length: number, seed: number, sign: Sign): Values {
  const next = numbersFrom(seed);
  const value = (): number => {
    const any = randomValue(next);
    return sign === 'any' || next() % 64 === 0 ? any : Math.abs(any);
  };
  const isHalf = dtype === 'float16' || dtype === 'bfloat16';
  if (isHalf && seed % 3 === 0) return Uint16Array.from({ length }, () => next() & (sign === 'any' ? 0xffff : 0x7fff)); // any bits
  return Tensor.zeros(length, { dtype }).set(Float64Array.from({ length }, value)).data as Values;
}

/** What randomValues() returned last: every backend is given the same. */
const lastValues = new Map<string, Values>();

/** Random values in the memory itself. */
function fill({ dtype, elements }: Slot, seed: number, sign: Sign = 'any'): void {
  const key = `${dtype} ${elements.length} ${seed} ${sign}`;
  const values = lastValues.get(key) ?? randomValues(dtype, elements.length, seed, sign);
  if (lastValues.size > 100) lastValues.clear();
  lastValues.set(key, values);
  elements.set(values);
}

/** Numbers that are not yet of the dtype that they are set to. */
export function numbersToSet(seed: number, length: number): Float64Array {
  const next = numbersFrom(seed);
  return Float64Array.from({ length }, () => randomValue(next) * (1 + (next() % 8) * 2 ** -9));
}

export class WorldTensor {
  readonly plan: TensorPlan;
  readonly slots: Readonly<Partial<Record<Role, Slot>>>;
  /** Gradients that a step may be given. */
  readonly grads: readonly Slot[];

  constructor(plan: TensorPlan) {
    this.plan = plan;
    const config = configOf(plan);
    const weight = makeSlot(plan, config.weight);
    fill(weight, plan.seed);
    const slots: Partial<Record<Role, Slot>> = { weight };
    if (plan.isNew) {
      const optimizer = new AdamW({
        multiPrecision: config.master !== undefined,
        amsgrad: config.maximum !== undefined,
        stateDtype: config.mean === 'float64' ? null : config.mean,
      });
      const { mean, variance, master, maxVariance } = optimizer.createState(plan.index, weight.value);
      Object.assign(slots, { mean: ownSlot(mean), variance: ownSlot(variance) });
      if (master) slots.master = ownSlot(master);
      if (maxVariance) slots.maximum = ownSlot(maxVariance);
    } else {
      for (const role of writtenRoles(plan)) {
        if (role === 'weight') continue;
        const slot = makeSlot(plan, config[role] as DType);
        fill(slot, plan.seed + role.length, role === 'variance' ? 'mostly positive' : 'any');
        slots[role] = slot;
      }
    }
    this.slots = slots;
    this.grads = [0, 1].map((k) => {
      const grad = makeSlot(plan, config.grad);
      fill(grad, plan.seed + 101 + k);
      return grad;
    });
  }

  get state(): AdamWState {
    const { mean, variance, master, maximum } = this.slots;
    return {
      mean: (mean as Slot).value,
      variance: (variance as Slot).value,
      ...(master && { master: master.value }),
      ...(maximum && { maxVariance: maximum.value }),
    };
  }

  get weight(): TensorLike {
    return (this.slots.weight as Slot).value;
  }
}

/** Whether something is wrong with the arguments after all: tensors without elements overlap with nothing. */
export function faultOf(plan: FaultPlan | null, call: Operation['do'], tensors: readonly TensorPlan[]): Fault | null {
  if (!plan || tensors.length === 0) return null;
  const { fault, at } = plan;
  const { length } = around(tensors, at);
  if (length === 0 && (fault === 'the weight as its gradient' || fault === 'a detached gradient')) return null;
  const isOfGrads = fault !== 'a state without moments' && fault !== 'an index that is none';
  return call === 'setGrads' && !isOfGrads ? null : fault;
}

/** The arguments of a step, in which a fault replaces something. */
class Lists {
  readonly indices: unknown[];
  readonly weights: unknown[];
  readonly grads: unknown[];
  readonly states: unknown[];

  constructor(tensors: readonly WorldTensor[], grads: number, plan: FaultPlan | null, call: Operation['do']) {
    this.indices = tensors.map(({ plan }) => plan.index);
    this.weights = tensors.map(({ weight }) => weight);
    this.grads = tensors.map((tensor) => around(tensor.grads, grads).value);
    this.states = tensors.map(({ state }) => state);
    const plans = tensors.map(({ plan }) => plan);
    const fault = faultOf(plan, call, plans);
    if (fault !== null) this.#apply(fault, (plan as FaultPlan).at % plans.length, plans);
  }

  #apply(fault: Fault, i: number, plans: readonly TensorPlan[]): void {
    const { length } = plans[i];
    const dtype = configOf(plans[i]).grad;
    switch (fault) {
      case 'a longer gradient':
        this.grads[i] = Tensor.zeros(length + 1, { dtype });
        break;
      case 'a gradient of another dtype':
        this.grads[i] = Tensor.zeros(length, { dtype: dtype === 'float64' ? 'float32' : 'float64' });
        break;
      case 'the weight as its gradient':
        this.grads[i] = this.weights[i];
        break;
      case 'a detached gradient': {
        const buffer = new ArrayBuffer(length * DTYPE_BYTES[dtype]);
        this.grads[i] = Tensor.from(buffer, { dtype });
        structuredClone(buffer, { transfer: [buffer] });
        break;
      }
      case 'a bare Uint16Array':
        this.grads[i] = new Uint16Array(length);
        break;
      case 'null':
        this.grads[i] = null;
        break;
      case 'one gradient less':
        this.grads.pop();
        break;
      case 'a state without moments':
        this.states[i] = {};
        break;
      case 'an index that is none':
        this.indices[i] = -1;
        break;
    }
  }

  /** One index with one tensor, or lists. */
  as(form: 'single' | 'lists'): Parameters<AdamW['bind']> {
    const lists = [this.indices, this.weights, this.grads, this.states];
    return (form === 'single' ? lists.map(([first]) => first) : lists) as never;
  }
}

function makeScheduler({ kind, ...options }: SchedulerPlan): LRScheduler {
  switch (kind) {
    case 'factor':
      return new FactorScheduler({ ...options, ...FACTOR });
    case 'multiFactor':
      return new MultiFactorScheduler({ ...options, ...MULTI_FACTOR });
    case 'poly':
      return new PolyScheduler({ ...options, ...POLY });
    case 'cosine':
      return new CosineScheduler({ ...options, ...COSINE });
    case 'inverseRoot':
      return new InverseRoot(options);
  }
}

export const FACTOR = { step: 2, factor: 0.3, stopFactorLr: 1e-3 };
export const MULTI_FACTOR = { step: [2, 3, 9], factor: 0.1 };
export const POLY = { maxUpdate: 8, finalLr: 1e-5, power: 1.5 };
export const COSINE = { maxUpdate: 6, finalLr: 1e-4 };

/** The learning rate that the constructor is given; beside a scheduler sometimes none. */
export function givenLearningRate({ options, scheduler }: OptimizerPlan): number | null {
  const { learningRate, seed } = options;
  if (!scheduler) return learningRate;
  return seed % 2 === 0 || learningRate < scheduler.warmupBeginLr ? null : learningRate;
}

function makeOptimizer(plan: OptimizerPlan): AdamW {
  const { kind, options, scheduler, names, paramDict } = plan;
  const coupledWeightDecay = kind === 'coupled';
  const given: AdamWOptions = {
    ...options,
    rule: kind === 'pytorch' ? 'pytorch' : 'mxnet',
    coupledWeightDecay,
    correctBias: options.correctBias && !coupledWeightDecay,
    learningRate: givenLearningRate(plan),
    lrScheduler: scheduler && makeScheduler(scheduler),
    paramIdx2name: names,
    paramDict,
  };
  return new AdamW(given);
}

const ASSIGNED = [
  'beta1',
  'beta2',
  'epsilon',
  'wd',
  'rescaleGrad',
  'clipGradient',
  'aggregateNum',
  'correctBias',
  'useFusedStep',
] as const;

type MultipliersOperation = Extract<Operation, { do: 'setMultipliers' }>;

function setMultipliers(optimizer: AdamW, { of, table, pattern }: MultipliersOperation): void {
  const value = pattern
    ? new Map<string | RegExp, number>([...table, [new RegExp(pattern[0], 'gi'), pattern[1]]])
    : Object.fromEntries(table);
  if (of === 'lr') optimizer.setLrMult(value);
  else optimizer.setWdMult(value);
}

interface WorldOptimizer {
  readonly plan: OptimizerPlan;
  optimizer: AdamW;
  /** What was set last, by 'lr' or 'wd'. */
  readonly multipliers: Map<string, MultipliersOperation>;
}

interface WorldBound {
  readonly of: WorldOptimizer;
  readonly bound: BoundStep;
  readonly tensors: readonly WorldTensor[];
}

/** What an operation returned or threw; undefined where it does not apply. */
export type Outcome = { readonly value: unknown } | { readonly error: string };

/** All arrays, and all that optimizers say of themselves. */
export interface Snapshot {
  readonly arrays: ReadonlyMap<string, Values>;
  readonly optimizers: string;
}

export class World {
  readonly tensors: readonly WorldTensor[];
  readonly #optimizers: readonly WorldOptimizer[];
  #bounds: WorldBound[] = [];

  constructor({ tensors, optimizers }: Scenario) {
    this.tensors = tensors.map((plan) => new WorldTensor(plan));
    this.#optimizers = optimizers.map((plan) => ({ plan, optimizer: makeOptimizer(plan), multipliers: new Map() }));
  }

  optimizer(i: number): AdamW {
    return around(this.#optimizers, i).optimizer;
  }

  async apply(operation: Operation): Promise<Outcome> {
    try {
      return { value: await this.#call(operation) };
    } catch (error) {
      return { error: error instanceof Error ? `${error.constructor.name}: ${error.message}` : String(error) };
    }
  }

  snapshot(): Snapshot {
    const arrays = new Map<string, Values>();
    this.tensors.forEach(({ slots, grads }, i) => {
      for (const [role, { whole }] of Object.entries(slots)) arrays.set(`tensors[${i}].${role}`, whole.slice());
      for (const [k, { whole }] of grads.entries()) arrays.set(`tensors[${i}].grads[${k}]`, whole.slice());
    });
    const optimizers = this.#optimizers.map(({ optimizer }) => [
      this.tensors.map(({ plan }) => optimizer.updateCount(plan.index)),
      optimizer.numUpdate,
      optimizer.learningRate,
      ASSIGNED.map((name) => `${optimizer[name]}`),
    ]);
    return { arrays, optimizers: JSON.stringify(optimizers) };
  }

  /** Returns what the call returns, a promise if it is asynchronous. */
  #call(operation: Operation): unknown {
    switch (operation.do) {
      case 'step': {
        const { call, fault, grads } = operation;
        const tensors = this.#pick(operation.tensors);
        const lists = new Lists(tensors, grads, fault, 'step');
        const form = tensors.length === 1 && fault === null && grads === 3 ? 'single' : 'lists';
        return this.optimizer(operation.optimizer)[call](...lists.as(form), toStepOptions(operation.options));
      }
      case 'bind': {
        const of = around(this.#optimizers, operation.optimizer);
        const tensors = this.#pick(operation.tensors);
        const lists = new Lists(tensors, operation.grads, operation.fault, 'bind');
        const bound = of.optimizer.bind(...(lists.as('lists') as Parameters<AdamW['bind']>));
        this.#bounds.push({ of, bound, tensors });
        return undefined;
      }
      case 'boundStep':
        return this.#bound(operation.bound)?.bound[operation.call](toStepOptions(operation.options));
      case 'setGrads': {
        const bound = this.#bound(operation.bound);
        if (!bound) return undefined;
        const lists = new Lists(bound.tensors, operation.grads, operation.fault, 'setGrads');
        return bound.bound.setGrads(lists.grads as TensorLike[]);
      }
      case 'disposeBound':
        return this.#bound(operation.bound)?.bound.dispose();
      case 'dispose':
        return this.optimizer(operation.optimizer).dispose();
      case 'assign': {
        const optimizer = this.optimizer(operation.optimizer);
        if (operation.name === 'learningRate') optimizer.setLearningRate(operation.value as number);
        else Reflect.set(optimizer, operation.name, operation.value);
        return undefined;
      }
      case 'setMultipliers': {
        const { optimizer, multipliers } = around(this.#optimizers, operation.optimizer);
        setMultipliers(optimizer, operation);
        multipliers.set(operation.of, operation);
        return undefined;
      }
      case 'refill':
        return fill(around(around(this.tensors, operation.tensor).grads, operation.grads), operation.seed);
      case 'set': {
        const { plan, slots } = around(this.tensors, operation.tensor);
        const slot = slots[around(writtenRoles(plan), operation.role)] as Slot;
        tensorOf(slot.value).set(numbersToSet(operation.seed, plan.length));
        return undefined;
      }
      case 'resume':
        return this.#resume(around(this.#optimizers, operation.optimizer));
      case 'multiAdamwUpdate': {
        const tensors = this.#pick(operation.tensors);
        const { indices, weights, grads, states } = new Lists(tensors, operation.grads, operation.fault, operation.do);
        const scalars = tensors.map((_, i) => around(operation.scalars, i));
        const masters = states.map((state) => (state as AdamWState).master);
        return multiAdamwUpdate(
          weights as TensorLike[],
          grads as TensorLike[],
          states.map((state) => (state as AdamWState).mean),
          states.map((state) => (state as AdamWState).variance),
          {
            ...operation.options,
            etas: scalars.map(([eta]) => eta),
            lrs: scalars.map(([, lr], i) => (indices[i] === -1 ? NaN : lr)),
            wds: scalars.map(([, , wd]) => wd),
            ...(masters.some((master) => master !== undefined) ? { masters: masters as TensorLike[] } : {}),
          },
        );
      }
      case 'syncMaster': {
        const tensors = this.#pick(operation.tensors);
        return syncMaster(
          tensors.map(({ weight }) => weight),
          tensors.map(({ state }) => state),
        );
      }
      case 'disposeTensor': {
        const weight = this.tensors[operation.tensor]?.weight;
        if (weight instanceof Tensor) weight.dispose();
        return undefined;
      }
    }
  }

  #pick(tensors: readonly number[]): WorldTensor[] {
    return positionsOf(tensors, this.tensors.length).map((i) => this.tensors[i]);
  }

  #bound(i: number): WorldBound | null {
    return this.#bounds.length === 0 ? null : around(this.#bounds, i);
  }

  /** Another optimizer takes over from what JSON kept of this one and of the states. */
  #resume(of: WorldOptimizer): void {
    const { plan, optimizer: last, multipliers } = of;
    const optimizer = makeOptimizer(plan);
    for (const name of ASSIGNED) Reflect.set(optimizer, name, last[name]);
    for (const each of multipliers.values()) setMultipliers(optimizer, each);
    optimizer.loadStateDict(JSON.parse(JSON.stringify(last)));
    for (const { bound } of this.#bounds.filter((bound) => bound.of === of)) bound.dispose();
    this.#bounds = this.#bounds.filter((bound) => bound.of !== of);
    last.dispose();
    of.optimizer = optimizer;
    for (const { plan, slots } of this.tensors) {
      for (const role of keptRoles(plan)) {
        const tensor = tensorOf((slots[role] as Slot).value);
        tensor.copyFrom(Tensor.fromJSON(JSON.parse(JSON.stringify(tensor))) as Tensor);
      }
    }
  }
}
