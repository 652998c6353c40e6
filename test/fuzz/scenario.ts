/** Random scenarios: plain data that says which public calls are made, and with what. */
import fc from 'fast-check';
import { DTYPE_CONFIGS, type DTypeConfig, dtypesOf } from '../support/model.js';

export interface TensorPlan {
  readonly config: DTypeConfig;
  readonly length: number;
  readonly index: number | string;
  /** 'own': Tensor.zeros(); 'plain': typed arrays, halves as Tensors over them; 'shared': Tensors over shared memory. */
  readonly memory: 'own' | 'plain' | 'shared';
  /** Elements before the first, in memory that is not our own. */
  readonly offset: number;
  /** Whether the state is createState()'s, or random. */
  readonly isNew: boolean;
  readonly seed: number;
}

export interface SchedulerPlan {
  readonly kind: 'factor' | 'multiFactor' | 'poly' | 'cosine' | 'inverseRoot';
  readonly baseLr: number;
  readonly warmupSteps: number;
  readonly warmupBeginLr: number;
  readonly warmupMode: 'linear' | 'constant';
}

export type Multipliers = { readonly lrMult?: number; readonly wdMult?: number };

export interface OptimizerPlan {
  readonly kind: 'mxnet' | 'pytorch' | 'coupled';
  readonly options: {
    readonly learningRate: number;
    readonly beta1: number;
    readonly beta2: number;
    readonly epsilon: number;
    readonly wd: number;
    readonly correctBias: boolean;
    readonly rescaleGrad: number;
    readonly clipGradient: number | null;
    readonly seed: number;
    readonly beginNumUpdate: number;
    readonly aggregateNum: number | null;
    readonly useFusedStep: boolean;
    readonly maximize: boolean;
    readonly amsgrad: boolean;
    readonly rounding: 'nearest' | 'stochastic';
  };
  readonly scheduler: SchedulerPlan | null;
  readonly names: Readonly<Record<string, string>>;
  readonly paramDict: Readonly<Record<string, Multipliers>>;
}

export const FAULTS = [
  'a longer gradient',
  'a gradient of another dtype',
  'the weight as its gradient',
  'a detached gradient',
  'a bare Uint16Array',
  'null',
  'one gradient less',
  'a state without moments',
  'an index that is none',
] as const;
export type Fault = (typeof FAULTS)[number];

/** Something wrong with the arguments of tensor `at`, counted from the first and around. */
export interface FaultPlan {
  readonly fault: Fault;
  readonly at: number;
}

/** Options of a step; `scale` is that of a LossScaler. */
export interface StepOptionsPlan {
  readonly zeroGrads: boolean;
  readonly maxGradNorm: number | null;
  readonly scale: number | null;
}

/** Optimizers, tensors and what is bound are given by numbers, counted around (positionsOf() in world.ts), but for disposeTensor. */
export type Operation =
  | {
      readonly do: 'step';
      readonly call: 'fusedStep' | 'step' | 'update' | 'updateMultiPrecision' | 'updateAsync';
      readonly optimizer: number;
      readonly tensors: readonly number[];
      readonly grads: number;
      readonly options: StepOptionsPlan | null;
      readonly fault: FaultPlan | null;
    }
  | {
      readonly do: 'bind';
      readonly optimizer: number;
      readonly tensors: readonly number[];
      readonly grads: number;
      readonly fault: FaultPlan | null;
    }
  | {
      readonly do: 'boundStep';
      readonly call: 'step' | 'stepAsync';
      readonly bound: number;
      readonly options: StepOptionsPlan | null;
    }
  | { readonly do: 'setGrads'; readonly bound: number; readonly grads: number; readonly fault: FaultPlan | null }
  | { readonly do: 'disposeBound'; readonly bound: number }
  | { readonly do: 'dispose'; readonly optimizer: number }
  | { readonly do: 'assign'; readonly optimizer: number; readonly name: string; readonly value: unknown }
  | {
      readonly do: 'setMultipliers';
      readonly optimizer: number;
      readonly of: 'lr' | 'wd';
      readonly table: readonly (readonly [key: string, value: number])[];
      readonly pattern: readonly [source: string, value: number] | null;
    }
  | { readonly do: 'refill'; readonly tensor: number; readonly grads: number; readonly seed: number }
  | { readonly do: 'set'; readonly tensor: number; readonly role: number; readonly seed: number }
  | { readonly do: 'resume'; readonly optimizer: number }
  | {
      readonly do: 'multiAdamwUpdate';
      readonly tensors: readonly number[];
      readonly grads: number;
      readonly scalars: readonly (readonly [eta: number, lr: number, wd: number])[];
      readonly options: {
        readonly beta1: number;
        readonly beta2: number;
        readonly epsilon: number;
        readonly rescaleGrad: number;
        readonly clipGradient: number | null;
        readonly seed: number;
        readonly updateCount: number;
      };
      readonly fault: FaultPlan | null;
    }
  | { readonly do: 'syncMaster'; readonly tensors: readonly number[] }
  | { readonly do: 'disposeTensor'; readonly tensor: number };

export interface Scenario {
  readonly tensors: readonly TensorPlan[];
  readonly optimizers: readonly OptimizerPlan[];
  readonly operations: readonly Operation[];
  readonly threads: number;
}

// A step of more than 32,768 elements is spread over threads.
const length = fc.oneof(
  { weight: 12, arbitrary: fc.nat({ max: 40 }) },
  { weight: 3, arbitrary: fc.integer({ min: 60, max: 140 }) },
  { weight: 1, arbitrary: fc.integer({ min: 32000, max: 36000 }) },
);

const index = fc.oneof(
  { weight: 6, arbitrary: fc.nat({ max: 4 }) },
  { weight: 3, arbitrary: fc.constantFrom('a', 'a', 'head.bias', '7', '007', '', 'constructor', '__proto__') },
  { weight: 1, arbitrary: fc.constantFrom(2 ** 32 + 1, Number.MAX_SAFE_INTEGER, '9007199254740993') },
);

const tensorPlan = (configs: readonly DTypeConfig[]): fc.Arbitrary<TensorPlan> =>
  fc.record({
    config: fc.constantFrom(...configs),
    length,
    index,
    memory: fc.constantFrom('own', 'plain', 'shared'),
    offset: fc.nat({ max: 9 }),
    isNew: fc.boolean(),
    seed: fc.nat(),
  });

/** What every optimizer takes, with AMSGrad and with stochastic rounding too. */
const TAKEN_BY_ALL = DTYPE_CONFIGS.filter((config) => {
  const { dtype, hasMaster, hasMaximum } = dtypesOf(config);
  return hasMaximum && (dtype !== 'float16' || hasMaster);
});

/** Mostly ordinary values, which are also what a case is shrunk to. */
function mostly<T>(ordinary: readonly T[], special: readonly T[]): fc.Arbitrary<T> {
  return fc.oneof(
    { weight: 15, arbitrary: fc.constantFrom(...ordinary) },
    { weight: 1, arbitrary: fc.constantFrom(...special) },
  );
}

const learningRate = mostly([1e-3, 0.1, 0, 3e4, 1e-30], [1e-200, 1e38, 5e-324]);
const beta1 = mostly([0.9, 0, 0.5, 0.999, 1e-40, 1 - 2 ** -24], [1 - 2 ** -26]);
const beta2 = mostly([0.999, 0, 0.95, 0.5, 1 - 2 ** -20], [1 - 2 ** -26]);
const epsilon = mostly([1e-6, 1e-8, 0, 1, 1e-42], [1e300]);
const decay = mostly([0, 0.01, 0.3, 1e-44], [1e200]);
const rescaleGrad = mostly([1, 1 / 3, -128, 2 ** 64, 1e-30], [0, NaN, Infinity, 1e-46, 2 ** -149, 1e39]);
const clipGradient = mostly([null, 0.5, 1e-40, 1e30], [1e-46, 2 ** -149, 1e39]);
const multiplier = mostly([1, 0, 0.25, 1e-20], [1e-110, 1e30]);
const key = fc.constantFrom('0', '1', '2', '3', 'a', 'head.bias', 'bias', 'norm', 'nobody');
const seed32 = fc.oneof(fc.constant(0), fc.nat({ max: 0xffffffff }));
const count = fc.constantFrom(0, 0, 7, 100_000, 2 ** 32 + 5);

const optimizerPlan: fc.Arbitrary<OptimizerPlan> = fc.record({
  kind: fc.constantFrom('mxnet', 'pytorch', 'coupled'),
  options: fc.record({
    learningRate,
    beta1,
    beta2,
    epsilon,
    wd: decay,
    correctBias: fc.constantFrom(true, true, false),
    rescaleGrad,
    clipGradient,
    seed: seed32,
    beginNumUpdate: count,
    aggregateNum: fc.constantFrom(null, null, 0, 1, 2, 3),
    useFusedStep: fc.boolean(),
    maximize: fc.boolean(),
    amsgrad: fc.constantFrom(false, false, true),
    rounding: fc.constantFrom('nearest', 'nearest', 'stochastic'),
  }),
  scheduler: fc.option(
    fc.record({
      kind: fc.constantFrom('factor', 'multiFactor', 'poly', 'cosine', 'inverseRoot'),
      baseLr: fc.constantFrom(0.1, 0.7, 1e-3),
      warmupSteps: fc.constantFrom(0, 3),
      warmupBeginLr: fc.constantFrom(0, 1e-4),
      warmupMode: fc.constantFrom('linear', 'constant'),
    }),
    { freq: 3 },
  ),
  names: fc.dictionary(fc.constantFrom('0', '1', '2', 'a'), fc.constantFrom('bias', 'layer.norm', '3'), { maxKeys: 3 }),
  paramDict: fc.oneof(
    { weight: 3, arbitrary: fc.constant({}) },
    {
      weight: 1,
      arbitrary: fc.dictionary(
        fc.constantFrom('0', '1', 'a'),
        fc.record({ lrMult: multiplier, wdMult: multiplier }, { requiredKeys: [] }),
        { maxKeys: 2 },
      ),
    },
  ),
});

const few = fc.nat({ max: 3 });
const seed = fc.nat();
/** Several tensors, often the first ones; now and then one twice. */
const tensors = fc.oneof(
  { weight: 6, arbitrary: fc.constantFrom([0, 1], [0], [0, 1, 2, 3, 4], [2, 0], [1]) },
  { weight: 3, arbitrary: fc.uniqueArray(fc.nat({ max: 4 }), { maxLength: 5 }) },
  { weight: 1, arbitrary: fc.array(fc.nat({ max: 4 }), { maxLength: 5 }) },
);
const rareFault: fc.Arbitrary<FaultPlan | null> = fc.oneof(
  { weight: 7, arbitrary: fc.constant(null) },
  { weight: 1, arbitrary: fc.record({ fault: fc.constantFrom(...FAULTS), at: few }) },
);

function orElse<T>(usual: fc.Arbitrary<T>, wrong: fc.Arbitrary<unknown>): fc.Arbitrary<unknown> {
  return fc.oneof({ weight: 4, arbitrary: usual }, { weight: 1, arbitrary: wrong });
}

const assignment = fc.oneof(
  fc.record({ name: fc.constant('learningRate'), value: orElse(learningRate, fc.constantFrom(-1, NaN, '1')) }),
  fc.record({ name: fc.constant('beta1'), value: orElse(beta1, fc.constantFrom(1, -0.5, NaN, null)) }),
  fc.record({ name: fc.constant('beta2'), value: orElse(beta2, fc.constantFrom(1, -0.5, NaN, undefined)) }),
  fc.record({ name: fc.constant('epsilon'), value: orElse(epsilon, fc.constantFrom(-1, Infinity)) }),
  fc.record({ name: fc.constant('wd'), value: orElse(decay, fc.constantFrom(-1, NaN, 0n)) }),
  fc.record({ name: fc.constant('rescaleGrad'), value: orElse(rescaleGrad, fc.constantFrom('1', null)) }),
  fc.record({ name: fc.constant('clipGradient'), value: orElse(clipGradient, fc.constantFrom(0, NaN, [])) }),
  fc.record({ name: fc.constant('aggregateNum'), value: fc.constantFrom(null, 0, 1, 2, Infinity, NaN, -1, 1.5) }),
  fc.record({ name: fc.constant('correctBias'), value: fc.constantFrom(true, false, 1) }),
  fc.record({ name: fc.constant('useFusedStep'), value: fc.constantFrom(true, false, null) }),
);

const bind: fc.Arbitrary<Operation> = fc.record({
  do: fc.constant('bind' as const),
  optimizer: few,
  tensors,
  grads: few,
  fault: rareFault,
});

const stepOptions: fc.Arbitrary<StepOptionsPlan | null> = fc.option(
  fc.record({
    zeroGrads: fc.boolean(),
    maxGradNorm: fc.option(mostly([1, 1e-3, 1e30, 1e-300], [0, NaN])),
    scale: fc.option(fc.constantFrom(1, 1024, 3, 1e-30)),
  }),
);

const operation: fc.Arbitrary<Operation> = fc.oneof(
  {
    weight: 8,
    arbitrary: fc.record({
      do: fc.constant('step' as const),
      call: fc.constantFrom('fusedStep', 'step', 'update', 'updateMultiPrecision', 'updateAsync', 'updateAsync'),
      optimizer: few,
      tensors,
      grads: few,
      options: stepOptions,
      fault: rareFault,
    }),
  },
  { weight: 3, arbitrary: bind },
  {
    weight: 6,
    arbitrary: fc.record({
      do: fc.constant('boundStep' as const),
      call: fc.constantFrom('step', 'step', 'stepAsync'),
      bound: few,
      options: stepOptions,
    }),
  },
  {
    weight: 2,
    arbitrary: fc.record({ do: fc.constant('setGrads' as const), bound: few, grads: few, fault: rareFault }),
  },
  { weight: 1, arbitrary: fc.record({ do: fc.constant('disposeBound' as const), bound: few }) },
  { weight: 1, arbitrary: fc.record({ do: fc.constant('dispose' as const), optimizer: few }) },
  {
    weight: 3,
    arbitrary: fc
      .record({ optimizer: few, assignment })
      .map(({ optimizer, assignment }) => ({ do: 'assign' as const, optimizer, ...assignment })),
  },
  {
    weight: 2,
    arbitrary: fc.record({
      do: fc.constant('setMultipliers' as const),
      optimizer: few,
      of: fc.constantFrom('lr', 'wd'),
      table: fc.uniqueArray(fc.tuple(key, mostly([1, 0, 0.25, 1e-20, -0], [-1, NaN, 1e-110, 1e30])), {
        maxLength: 3,
        selector: ([key]) => key,
      }),
      pattern: fc.option(fc.tuple(fc.constantFrom('bias|norm', '^\\d$', ''), multiplier), { freq: 3 }),
    }),
  },
  { weight: 2, arbitrary: fc.record({ do: fc.constant('refill' as const), tensor: few, grads: few, seed }) },
  { weight: 1, arbitrary: fc.record({ do: fc.constant('set' as const), tensor: few, role: few, seed }) },
  { weight: 1, arbitrary: fc.record({ do: fc.constant('resume' as const), optimizer: few }) },
  {
    weight: 2,
    arbitrary: fc.record({
      do: fc.constant('multiAdamwUpdate' as const),
      tensors,
      grads: few,
      scalars: fc.array(fc.tuple(fc.constantFrom(1, 0.5, 0, 1e39), learningRate, decay), {
        minLength: 1,
        maxLength: 3,
      }),
      options: fc.record({
        beta1,
        beta2,
        epsilon,
        rescaleGrad,
        clipGradient,
        seed: seed32,
        updateCount: count,
      }),
      fault: rareFault,
    }),
  },
  { weight: 1, arbitrary: fc.record({ do: fc.constant('syncMaster' as const), tensors }) },
  { weight: 1, arbitrary: fc.record({ do: fc.constant('disposeTensor' as const), tensor: fc.nat({ max: 20 }) }) },
);

/** Tensors with indices of their own. */
const distinctTensors = (configs: readonly DTypeConfig[]): fc.Arbitrary<TensorPlan[]> =>
  fc.uniqueArray(tensorPlan(configs), { minLength: 1, maxLength: 5, selector: ({ index }) => String(index) });

export const scenario: fc.Arbitrary<Scenario> = fc.record({
  tensors: fc.oneof(
    { weight: 6, arbitrary: distinctTensors(DTYPE_CONFIGS) },
    { weight: 3, arbitrary: distinctTensors(TAKEN_BY_ALL) },
    { weight: 1, arbitrary: fc.array(tensorPlan(DTYPE_CONFIGS), { minLength: 2, maxLength: 5 }) },
  ),
  optimizers: fc.array(optimizerPlan, { minLength: 1, maxLength: 2 }),
  // With fast-check's bias most would have few operations.
  operations: fc.noBias(
    fc
      .tuple(fc.array(bind, { maxLength: 2 }), fc.array(operation, { minLength: 1, maxLength: 20, size: 'max' }))
      .map(([first, rest]) => [...first, ...rest]),
  ),
  threads: fc.constantFrom(1, 2, 3, 7),
});
