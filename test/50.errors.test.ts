/** Invalid steps: the error that each throws, and that it changes nothing. */
import { expect } from 'chai';
import { AdamW, type AdamWOptions, type DType, multiAdamwUpdate, Tensor } from '../lib/index.js';
import { describeOnEachBackend } from './support/backends.js';
import { detach, growableBuffer, resizableBuffer } from './support/buffers.js';
import { type ErrorClass, expectError } from './support/errors.js';
import { DISPOSED, NAME_DTYPE, shares, TENSOR, UINT16, WRONG_KINDS } from './support/messages.js';
import { expectGoodStep, LENGTH, type Lists, Scene, viewsAt, zeros } from './support/scene.js';
import { Schedule } from './support/schedulers.js';
import { DONE } from './support/steps.js';

/** One invalid call. */
interface Row {
  readonly title: string;
  readonly dtype?: DType;
  readonly options?: AdamWOptions;
  /** The number of tensors and which of them is invalid. Default: the only one, and the last of three. */
  readonly cases?: readonly (readonly [size: number, bad: number])[];
  /** Makes tensor i of the lists invalid. */
  readonly spoil: (lists: Lists, i: number) => void;
  readonly error: ErrorClass;
  readonly message: string | ((i: number) => string);
}

const CASES = [
  [1, 0],
  [3, 2],
] as const;
/** For lists that are wrong as a whole. */
const WHOLE = [[2, 0]] as const;

/** The arrays of a float32 tensor: the name of each in messages, and how it is replaced. */
const ARRAYS: readonly { name: (i: number) => string; put: (lists: Lists, i: number, value: unknown) => void }[] = [
  { name: (i) => `weights[${i}]`, put: (lists, i, value) => (lists.weights[i] = value) },
  { name: (i) => `grads[${i}]`, put: (lists, i, value) => (lists.grads[i] = value) },
  { name: (i) => `states[${i}].mean`, put: (lists, i, value) => (lists.states[i].mean = value) },
  { name: (i) => `states[${i}].variance`, put: (lists, i, value) => (lists.states[i].variance = value) },
];
const MASTER = {
  name: (i: number) => `states[${i}].master`,
  put: (lists: Lists, i: number, value: unknown) => {
    lists.states[i].master = value;
  },
};

const ofKind: Row[] = [
  ...ARRAYS.flatMap(({ name, put }) =>
    WRONG_KINDS.map(
      ([value, received]): Row => ({
        title: `${name(0)} that is ${received}`,
        spoil: (lists, i) => put(lists, i, value),
        error: TypeError,
        message: (i) => `Expected ${TENSOR} for ${name(i)} but received ${received}`,
      }),
    ),
  ),
  ...ARRAYS.map(
    ({ name, put }): Row => ({
      title: `${name(0)} that is a bare Uint16Array`,
      dtype: 'float16',
      spoil: (lists, i) => put(lists, i, new Uint16Array(LENGTH)),
      error: TypeError,
      message: (i) => `Expected ${NAME_DTYPE} for ${name(i)} but received ${UINT16}`,
    }),
  ),
  ...WRONG_KINDS.filter(([value]) => value !== undefined && value !== null).map(
    ([value, received]): Row => ({
      title: `states[0].master that is ${received}`,
      dtype: 'bfloat16',
      options: { multiPrecision: true },
      spoil: (lists, i) => MASTER.put(lists, i, value),
      error: TypeError,
      message: (i) => `Expected ${TENSOR} for states[${i}].master but received ${received}`,
    }),
  ),
  ...WRONG_KINDS.map(
    ([value, received]): Row => ({
      title: `states[0] that is ${received}`,
      spoil: (lists, i) => {
        lists.states[i] = value as Record<string, unknown>;
      },
      error: TypeError,
      message: (i) => `Expected a state with mean and variance for states[${i}] but received ${received}`,
    }),
  ),
  {
    title: 'a state without a variance',
    spoil: (lists, i) => {
      delete lists.states[i].variance;
    },
    error: TypeError,
    message: (i) => `Expected a state with mean and variance for states[${i}] but received an object`,
  },
  ...(
    [
      [undefined, 'undefined'],
      [null, 'null'],
      [-1, '-1'],
      [0.5, '0.5'],
      [NaN, 'NaN'],
      [2 ** 53, '9007199254740992'],
      [1n, '1n'],
      [{}, 'an object'],
      [[0], 'an array of length 1'],
    ] as const
  ).map(
    ([value, received]): Row => ({
      title: `indices[0] that is ${received}`,
      spoil: (lists, i) => {
        lists.indices[i] = value;
      },
      error: TypeError,
      message: (i) => `Expected a whole number of at least 0 or a string for indices[${i}] but received ${received}`,
    }),
  ),
];

const ofLists: Row[] = (['weights', 'grads', 'states'] as const).flatMap((name): Row[] => [
  {
    title: `${name} that is not a list although indices is`,
    cases: WHOLE,
    spoil: (lists) => {
      (lists as unknown as Record<string, unknown>)[name] = lists[name][0];
    },
    error: TypeError,
    message: `Expected a list, since indices is one, for ${name} but received ${name === 'states' ? 'an object' : 'a Tensor'}`,
  },
  {
    title: `${name} that is undefined`,
    cases: WHOLE,
    spoil: (lists) => {
      (lists as unknown as Record<string, unknown>)[name] = undefined;
    },
    error: TypeError,
    message: `Expected a list, since indices is one, for ${name} but received undefined`,
  },
  {
    title: `${name} that are one too few`,
    cases: WHOLE,
    spoil: (lists) => {
      lists[name].pop();
    },
    error: RangeError,
    message: `Expected a list of length 2 for ${name} but received one of length 1`,
  },
  {
    title: `${name} that are one too many`,
    cases: WHOLE,
    spoil: (lists) => {
      (lists[name] as unknown[]).push(lists[name][0]);
    },
    error: RangeError,
    message: `Expected a list of length 2 for ${name} but received one of length 3`,
  },
  {
    title: `${name} that is a list although indices is not`,
    cases: [[1, 0]],
    spoil: (lists) => {
      const one = { indices: 0, weights: lists.weights[0], grads: lists.grads[0], states: lists.states[0] };
      Object.assign(lists, { ...one, [name]: lists[name] });
    },
    error: TypeError,
    message: `Expected one ${name === 'states' ? 'state' : 'Tensor'}, since indices is one index, for ${name} but received an array of length 1`,
  },
]);
ofLists.push(
  ...(
    [
      [undefined, 'undefined'],
      [null, 'null'],
      [-1, '-1'],
      [{ 0: 0, length: 1 }, 'an object'],
    ] as const
  ).map(
    ([value, received]): Row => ({
      title: `indices that are ${received}`,
      cases: WHOLE,
      spoil: (lists) => {
        (lists as { indices: unknown }).indices = value;
      },
      error: TypeError,
      message: `Expected a whole number of at least 0 or a string for indices but received ${received}`,
    }),
  ),
  {
    title: 'an index that comes twice',
    cases: [
      [2, 1],
      [3, 2],
    ],
    spoil: (lists, i) => {
      lists.indices[i] = 0;
    },
    error: RangeError,
    message: (i) => `Expected an index of its own for indices[${i}] but received 0, as indices[0]`,
  },
  {
    title: 'a name that comes twice',
    cases: [[3, 2]],
    spoil: (lists) => {
      lists.indices = ['bias', 'weight', 'bias'];
    },
    error: RangeError,
    message: 'Expected an index of its own for indices[2] but received "bias", as indices[0]',
  },
);

const ofDTypes: Row[] = [
  {
    title: 'a float64 gradient of a float32 weight',
    spoil: (lists, i) => {
      lists.grads[i] = zeros('float64');
    },
    error: TypeError,
    message: (i) => `Expected float32 or float16 or bfloat16 for grads[${i}] but received float64`,
  },
  ...(['float16', 'bfloat16', 'float64'] as const).flatMap((dtype): Row[] => [
    {
      title: `a ${dtype} mean of a float32 weight`,
      spoil: (lists, i) => {
        lists.states[i].mean = zeros(dtype);
      },
      error: TypeError,
      message: (i) =>
        dtype === 'bfloat16'
          ? `Expected bfloat16 for states[${i}].variance but received float32`
          : `Expected float32 or bfloat16 for states[${i}].mean but received ${dtype}`,
    },
    {
      title: `a ${dtype} variance with a float32 mean`,
      spoil: (lists, i) => {
        lists.states[i].variance = zeros(dtype);
      },
      error: TypeError,
      message: (i) => `Expected float32 for states[${i}].variance but received ${dtype}`,
    },
    {
      title: `a ${dtype} master`,
      dtype: dtype === 'float16' ? 'bfloat16' : 'float16',
      options: { multiPrecision: true },
      spoil: (lists, i) => {
        lists.states[i].master = zeros(dtype);
      },
      error: TypeError,
      message: (i) => `Expected float32 for states[${i}].master but received ${dtype}`,
    },
  ]),
  {
    title: 'a float32 gradient of a float64 weight',
    dtype: 'float64',
    spoil: (lists, i) => {
      lists.grads[i] = new Float32Array(LENGTH);
    },
    error: TypeError,
    message: (i) => `Expected float64 for grads[${i}] but received float32`,
  },
  {
    title: 'a bfloat16 gradient of a float16 weight, of the same size',
    dtype: 'float16',
    spoil: (lists, i) => {
      lists.grads[i] = zeros('bfloat16');
    },
    error: TypeError,
    message: (i) => `Expected float16 for grads[${i}] but received bfloat16`,
  },
  {
    title: 'a bfloat16 mean of a float16 weight, of the same size',
    dtype: 'float16',
    spoil: (lists, i) => {
      lists.states[i].mean = zeros('bfloat16');
    },
    error: TypeError,
    message: (i) => `Expected float16 or float32 for states[${i}].mean but received bfloat16`,
  },
  {
    title: 'a float64 gradient of a float16 weight with a master',
    dtype: 'float16',
    options: { multiPrecision: true },
    spoil: (lists, i) => {
      lists.grads[i] = zeros('float64');
    },
    error: TypeError,
    message: (i) => `Expected float16 or float32 for grads[${i}] but received float64`,
  },
  {
    title: 'a half-precision mean with a master',
    dtype: 'float16',
    options: { multiPrecision: true },
    spoil: (lists, i) => {
      lists.states[i].mean = zeros('float16');
    },
    error: TypeError,
    message: (i) => `Expected float32 for states[${i}].mean but received float16`,
  },
  {
    title: 'a master of a float32 weight',
    spoil: (lists, i) => {
      lists.states[i].master = zeros('float32');
    },
    error: TypeError,
    message: (i) => `Expected no master beside a float32 weight for states[${i}].master but received a Tensor`,
  },
  {
    title: 'a master of a float64 weight',
    dtype: 'float64',
    spoil: (lists, i) => {
      lists.states[i].master = new Float32Array(LENGTH);
    },
    error: TypeError,
    message: (i) => `Expected no master beside a float64 weight for states[${i}].master but received a Float32Array`,
  },
];

const ofLengths: Row[] = [
  ...[0, LENGTH - 1, LENGTH + 1].flatMap((length): Row[] =>
    ARRAYS.slice(1).map(({ name, put }) => ({
      title: `${name(0)} of length ${length}`,
      spoil: (lists, i) => put(lists, i, new Float32Array(length)),
      error: RangeError,
      message: (i) => `Expected length ${LENGTH} for ${name(i)} but received length ${length}`,
    })),
  ),
  {
    title: 'a master of another length',
    dtype: 'bfloat16',
    options: { multiPrecision: true },
    spoil: (lists, i) => MASTER.put(lists, i, new Float32Array(LENGTH + 1)),
    error: RangeError,
    message: (i) => `Expected length ${LENGTH} for states[${i}].master but received length ${LENGTH + 1}`,
  },
];

const ofMemory: Row[] = [
  ...[...ARRAYS, MASTER].flatMap(({ name, put }): Row[] => {
    // Only float16 tensors have masters here, and their weights and gradients are not Float32Arrays.
    const master = name(0).endsWith('master');
    const common = master
      ? { dtype: 'float16' as const, options: { multiPrecision: true }, error: RangeError }
      : { error: RangeError };
    return [
      {
        ...common,
        title: `${name(0)} whose memory is detached`,
        spoil: (lists, i) => {
          const array = new Float32Array(LENGTH);
          detach(array.buffer);
          put(lists, i, array);
        },
        message: (i) => `Expected memory that is still there for ${name(i)} but received a detached ArrayBuffer`,
      },
      {
        ...common,
        title: `${name(0)} as a Tensor whose memory is detached`,
        spoil: (lists, i) => {
          const array = new Float32Array(LENGTH);
          put(lists, i, Tensor.from(array));
          detach(array.buffer);
        },
        message: (i) => `Expected memory that is still there for ${name(i)} but received a detached ArrayBuffer`,
      },
      {
        ...common,
        title: `${name(0)} in a resizable ArrayBuffer`,
        spoil: (lists, i) => put(lists, i, new Float32Array(resizableBuffer(4 * LENGTH))),
        message: (i) => `Expected memory of a fixed size for ${name(i)} but received a resizable ArrayBuffer`,
      },
      {
        ...common,
        title: `${name(0)} in a part of a resizable ArrayBuffer`,
        spoil: (lists, i) => put(lists, i, new Float32Array(resizableBuffer(8 * LENGTH), 4, LENGTH)),
        message: (i) => `Expected memory of a fixed size for ${name(i)} but received a resizable ArrayBuffer`,
      },
      {
        ...common,
        title: `${name(0)} in a growable SharedArrayBuffer`,
        spoil: (lists, i) => put(lists, i, new Float32Array(growableBuffer(4 * LENGTH))),
        message: (i) => `Expected memory of a fixed size for ${name(i)} but received a growable SharedArrayBuffer`,
      },
      {
        ...common,
        title: `${name(0)} that was disposed of`,
        spoil: (lists, i) => {
          const tensor = zeros('float32');
          tensor.dispose();
          put(lists, i, tensor);
        },
        message: (i) => `Expected a live Tensor for ${name(i)} but received ${DISPOSED}`,
      },
    ];
  }),
];

const ofOverlaps: Row[] = [
  {
    title: 'a weight that comes twice',
    cases: [
      [2, 1],
      [3, 2],
      [40, 39],
    ],
    spoil: (lists, i) => {
      lists.weights[i] = lists.weights[0];
    },
    error: RangeError,
    message: (i) => shares(`weights[${i}]`, 'weights[0]'),
  },
  {
    title: 'a state that comes twice',
    cases: [
      [2, 1],
      [3, 2],
    ],
    spoil: (lists, i) => {
      // The message names the first overlap in memory, so only one array is shared.
      lists.states[i].mean = lists.states[0].mean;
    },
    error: RangeError,
    message: (i) => shares(`states[${i}].mean`, 'states[0].mean'),
  },
  {
    title: 'a mean that is the variance',
    spoil: (lists, i) => {
      lists.states[i].variance = lists.states[i].mean;
    },
    error: RangeError,
    message: (i) => shares(`states[${i}].variance`, `states[${i}].mean`),
  },
  {
    title: 'a gradient that is its weight',
    spoil: (lists, i) => {
      lists.grads[i] = lists.weights[i];
    },
    error: RangeError,
    message: (i) => shares(`weights[${i}]`, `grads[${i}]`),
  },
  {
    title: 'a gradient that is the weight of another tensor',
    cases: [
      [2, 1],
      [3, 2],
    ],
    spoil: (lists, i) => {
      lists.grads[i] = lists.weights[0];
    },
    error: RangeError,
    message: (i) => shares('weights[0]', `grads[${i}]`),
  },
  {
    title: 'a gradient that is a mean',
    spoil: (lists, i) => {
      lists.grads[i] = lists.states[i].mean;
    },
    error: RangeError,
    message: (i) => shares(`states[${i}].mean`, `grads[${i}]`),
  },
  {
    title: 'a master that is the mean',
    dtype: 'float16',
    options: { multiPrecision: true },
    spoil: (lists, i) => {
      lists.states[i].master = lists.states[i].mean;
    },
    error: RangeError,
    message: (i) => shares(`states[${i}].master`, `states[${i}].mean`),
  },
  {
    title: 'a weight and a gradient of one buffer that share one element',
    spoil: (lists, i) => {
      [lists.weights[i], lists.grads[i]] = viewsAt(new ArrayBuffer(100), LENGTH - 1, 0);
    },
    error: RangeError,
    message: (i) => shares(`weights[${i}]`, `grads[${i}]`),
  },
  {
    title: 'a gradient that reaches one element into the mean',
    spoil: (lists, i) => {
      [lists.weights[i], lists.grads[i], lists.states[i].mean] = viewsAt(new ArrayBuffer(100), 0, 6, 10);
    },
    error: RangeError,
    message: (i) => shares(`states[${i}].mean`, `grads[${i}]`),
  },
  {
    title: 'a gradient that begins in a long weight and ends after it',
    cases: [[2, 1]],
    spoil: (lists, i) => {
      [lists.weights[0], lists.weights[i], lists.grads[i]] = viewsAt(new ArrayBuffer(100), 0, 10, 4);
    },
    error: RangeError,
    message: (i) => shares('weights[0]', `grads[${i}]`),
  },
  {
    title: 'a weight of one buffer that begins in another weight',
    cases: [[2, 1]],
    spoil: (lists, i) => {
      [lists.weights[0], lists.weights[i]] = viewsAt(new ArrayBuffer(100), 0, LENGTH - 1);
    },
    error: RangeError,
    message: (i) => shares(`weights[${i}]`, 'weights[0]'),
  },
  {
    title: 'a float64 weight and a gradient that begins in its last element',
    dtype: 'float64',
    spoil: (lists, i) => {
      const buffer = new ArrayBuffer(100 * 8);
      lists.weights[i] = new Float64Array(buffer, 8, LENGTH);
      lists.grads[i] = new Float64Array(buffer, 8 * LENGTH, LENGTH);
    },
    error: RangeError,
    message: (i) => shares(`weights[${i}]`, `grads[${i}]`),
  },
  {
    title: 'a float16 weight that lies in its master',
    dtype: 'float16',
    options: { multiPrecision: true },
    spoil: (lists, i) => {
      const buffer = new ArrayBuffer(4 * LENGTH);
      lists.states[i].master = new Float32Array(buffer);
      lists.weights[i] = Tensor.from(buffer, { dtype: 'float16', byteOffset: 2 * LENGTH });
    },
    error: RangeError,
    message: (i) => shares(`weights[${i}]`, `states[${i}].master`),
  },
  {
    title: 'a weight and a variance of one SharedArrayBuffer that overlap',
    spoil: (lists, i) => {
      [lists.weights[i], lists.states[i].variance] = viewsAt(new SharedArrayBuffer(100), 0, 3);
    },
    error: RangeError,
    message: (i) => shares(`states[${i}].variance`, `weights[${i}]`),
  },
];

/** Options that the constructor accepts and a step in float32 refuses. */
interface ScalarRow {
  readonly title: string;
  readonly options: AdamWOptions;
  readonly prepare?: (optimizer: AdamW) => void;
  readonly error?: ErrorClass;
  readonly message: string;
  /** Whether float64 weights accept it. Default true. */
  readonly fineInFloat64?: boolean;
}

const ofScalars: ScalarRow[] = [
  {
    title: 'a learning rate',
    options: { learningRate: 1e39, correctBias: false },
    message: 'Expected a number that float32 can hold for learningRate but received 1e+39',
  },
  {
    title: 'a learning rate that was set later',
    options: { correctBias: false },
    prepare: (optimizer) => optimizer.setLearningRate(1e39),
    message: 'Expected a number that float32 can hold for learningRate but received 1e+39',
  },
  {
    title: 'a learning rate by its multiplier',
    options: { learningRate: 1e20, correctBias: false },
    prepare: (optimizer) => optimizer.setLrMult({ 0: 1e19, 1: 1e19, 2: 1e19 }),
    message: 'Expected a number that float32 can hold for learningRate but received 1e+39',
  },
  {
    title: 'a weight decay',
    options: { wd: 1e39 },
    message: 'Expected a number that float32 can hold for wd but received 1e+39',
  },
  {
    title: 'a weight decay by its multiplier',
    options: { wd: 1e20 },
    prepare: (optimizer) => optimizer.setWdMult({ 0: 1e19, 1: 1e19, 2: 1e19 }),
    message: 'Expected a number that float32 can hold for wd but received 1e+39',
  },
  {
    title: 'an epsilon',
    options: { epsilon: 1e39 },
    message: 'Expected a number that float32 can hold for epsilon but received 1e+39',
  },
  {
    title: 'a clipGradient',
    options: { clipGradient: 1e39 },
    message: 'Expected a number that float32 can hold for clipGradient but received 1e+39',
  },
  {
    title: 'a clipGradient that float32 rounds to 0',
    options: { clipGradient: 1e-50 },
    message: 'Expected a positive number in float32 for clipGradient but received 1e-50',
  },
  {
    title: 'a beta1 that float32 rounds to 1',
    options: { beta1: 1 - 1e-9 },
    message: 'Expected less than 1 in float32 for beta1 but received 0.999999999',
  },
  {
    title: 'a beta2 that float32 rounds to 1',
    options: { beta2: 1 - 1e-9 },
    message: 'Expected less than 1 in float32 for beta2 but received 0.999999999',
  },
  {
    title: "a product of learning rate and weight decay by the rule 'pytorch'",
    options: { rule: 'pytorch', learningRate: 1e20, wd: 1e20, correctBias: false },
    message: 'Expected a number that float32 can hold for learningRate * wd but received 1e+40',
  },
  ...(
    [
      [() => NaN, RangeError, 'NaN'],
      [() => -1, RangeError, '-1'],
      [() => Infinity, RangeError, 'Infinity'],
      [() => undefined as unknown as number, TypeError, 'undefined'],
      [() => '0.1' as unknown as number, TypeError, '"0.1"'],
    ] as const
  ).map(
    ([rate, error, received]): ScalarRow => ({
      title: `a scheduler that returns ${received}`,
      options: { lrScheduler: new Schedule(rate) },
      error,
      message: `Expected a finite number of at least 0 for the learning rate of lrScheduler but received ${received}`,
      fineInFloat64: false,
    }),
  ),
];

const ENTRIES = ['step', 'fusedStep', 'update', 'bind'] as const;

/** Calls a method with lists of any kind. */
function call(optimizer: AdamW, entry: (typeof ENTRIES)[number], lists: Lists): unknown {
  const { indices, weights, grads, states } = lists as unknown as Record<string, never>;
  return optimizer[entry](indices, weights, grads, states);
}

/** Tries every method, before and after a valid step, with the invalid tensor alone and as the last. */
function refuses({ dtype, options, cases = CASES, spoil, error, message }: Row): void {
  for (const [size, bad] of cases) {
    for (const entry of ENTRIES) {
      for (const warm of [false, true]) {
        const what = `${entry} of ${size} tensors, ${warm ? 'after another step' : 'at first'}`;
        const [scene, twin] = [new Scene(size, dtype, options), new Scene(size, dtype, options)];
        if (warm) for (const each of [scene, twin]) each.goodStep();
        const lists = scene.lists();
        spoil(lists, bad);
        const before = scene.snapshot(lists);
        expectError(
          () => call(scene.optimizer, entry, lists),
          error,
          typeof message === 'string' ? message : message(bad),
          what,
        );
        expect(scene.snapshot(lists), `${what}: what has changed`).to.deep.equal(before);
        expectGoodStep(scene, twin, what);
      }
    }
  }
}

function refusesScalars({ options, prepare, error = RangeError, message, fineInFloat64 = true }: ScalarRow): void {
  for (const dtype of ['float32', 'float16', 'bfloat16', 'float64'] as const) {
    for (const entry of [...ENTRIES, 'bound.setGrads'] as const) {
      const scene = new Scene(3, dtype, { ...options, multiPrecision: true });
      prepare?.(scene.optimizer);
      const { indices, weights, grads, states } = scene.good;
      const before = scene.snapshot();
      const step = (): unknown => {
        if (entry !== 'bind' && entry !== 'bound.setGrads') return call(scene.optimizer, entry, scene.lists());
        const boundStep = scene.optimizer.bind(indices, weights, grads, states);
        if (entry === 'bound.setGrads') boundStep.setGrads([...grads]);
        return boundStep.step();
      };
      if (dtype === 'float64' && fineInFloat64) {
        expect(step(), `${entry} of ${dtype}`).to.deep.equal(DONE);
        expect(scene.optimizer.numUpdate).to.equal(1);
      } else {
        expectError(step, error, message, `${entry} of ${dtype}`);
        expect(scene.snapshot(), `${entry} of ${dtype}: what has changed`).to.deep.equal(before);
      }
    }
  }
}

describeOnEachBackend('errors of step, fusedStep, update and bind', (run) => {
  const groups = {
    kind: ofKind,
    lists: ofLists,
    dtypes: ofDTypes,
    lengths: ofLengths,
    memory: ofMemory,
    overlaps: ofOverlaps,
  };
  for (const [group, rows] of Object.entries(groups)) {
    describe(group, () => {
      for (const row of rows) it(`should refuse ${row.title}`, () => run(() => refuses(row)));
    });
  }

  describe('scalars that the arithmetic type cannot hold', () => {
    for (const row of ofScalars) it(`should refuse ${row.title}`, () => run(() => refusesScalars(row)));
    it('should refuse them if only the last of several tensors is float32', () => {
      run(() => {
        const optimizer = new AdamW({ epsilon: 1e39 });
        const wide = [1, 2].map((value) => new Float64Array(LENGTH).fill(value));
        const weights = [...wide, new Float32Array(LENGTH).fill(3)];
        const grads = weights.map((weight) => weight.slice());
        const states = weights.map((weight, i) => optimizer.createState(i, weight));
        for (const entry of ['step', 'fusedStep', 'update'] as const) {
          expectError(
            () => optimizer[entry]([0, 1, 2], weights, grads, states),
            RangeError,
            'Expected a number that float32 can hold for epsilon but received 1e+39',
          );
        }
        expect(weights.map((weight) => weight[LENGTH - 1])).to.deep.equal([1, 2, 3]);
        expect([0, 1, 2].map((index) => optimizer.updateCount(index))).to.deep.equal([0, 0, 0]);
        expect(optimizer.fusedStep([0, 1], wide, grads.slice(0, 2), states.slice(0, 2))).to.deep.equal(DONE);
        expect([0, 1, 2].map((index) => optimizer.updateCount(index))).to.deep.equal([1, 1, 0]);
      });
    });

    it('should change nothing if only the multiplier of the last tensor is too large', () => {
      run(() => {
        const scene = new Scene(3, 'float32', { wd: 0.1 });
        scene.optimizer.setWdMult({ 2: 1e300 });
        const before = scene.snapshot();
        expectError(
          () => scene.goodStep(),
          RangeError,
          'Expected a number that float32 can hold for wd but received 1e+299',
        );
        expect(scene.snapshot()).to.deep.equal(before);
      });
    });

    it('should refuse a multiplier in paramDict that became invalid', () => {
      run(() => {
        const parameters: Record<number, { lrMult: unknown }> = { 0: { lrMult: 1 }, 2: { lrMult: 1 } };
        const [scene, twin] = [0, 1].map(() => new Scene(3, 'float32', { paramDict: parameters as never }));
        scene.goodStep();
        twin.goodStep();
        for (const [value, error, received] of [
          [-1, RangeError, '-1'],
          [NaN, RangeError, 'NaN'],
          ['1', TypeError, '"1"'],
        ] as const) {
          const before = scene.snapshot();
          parameters[2].lrMult = value;
          expectError(
            () => scene.goodStep(),
            error,
            `Expected a finite number of at least 0 for paramDict[2].lrMult but received ${received}`,
          );
          expect(scene.snapshot()).to.deep.equal(before);
        }
        parameters[2].lrMult = 1;
        expectGoodStep(scene, twin, 'paramDict');
      });
    });

    it('should pass on errors that a scheduler throws', () => {
      run(() => {
        let fails = true;
        const lrScheduler = new Schedule(() => {
          if (fails) throw new SyntaxError('out of order');
          return 0.1;
        });
        const scene = new Scene(3, 'float32', { lrScheduler });
        const before = scene.snapshot();
        expectError(() => scene.goodStep(), SyntaxError, 'out of order');
        expect(scene.snapshot()).to.deep.equal(before);
        fails = false;
        scene.goodStep();
        expect(scene.optimizer.numUpdate).to.equal(1);
      });
    });
  });

  describe('no errors', () => {
    it('should accept one gradient for two weights', () => {
      run(() => {
        const [scene, twin] = [new Scene(2), new Scene(2)];
        const { indices, weights, grads, states } = scene.good;
        scene.optimizer.fusedStep(indices, weights, [grads[0], grads[0]], states);
        const copy = Tensor.zeros(LENGTH).copyFrom(twin.good.grads[0]);
        twin.optimizer.fusedStep(indices, twin.good.weights, [twin.good.grads[0], copy], twin.good.states);
        expect(weights.map(({ data }) => [...data])).to.deep.equal(twin.good.weights.map(({ data }) => [...data]));
      });
    });

    it('should accept gradients that overlap each other, and adjacent arrays', () => {
      run(() => {
        const scene = new Scene(2);
        const { indices, states } = scene.good;
        const [first, second, third] = viewsAt(new ArrayBuffer(100), 0, LENGTH, LENGTH + 2);
        const result = scene.optimizer.fusedStep(indices, [first, new Float32Array(LENGTH)], [second, third], states);
        expect(result).to.deep.equal(DONE);
      });
    });

    it('should accept tensors of length 0, even in the same memory', () => {
      run(() => {
        const optimizer = new AdamW();
        const empty = new Float32Array(0);
        const state = { mean: empty, variance: empty };
        expect(optimizer.fusedStep([0, 1], [empty, empty], [empty, empty], [state, state])).to.deep.equal(DONE);
        expect(optimizer.numUpdate).to.equal(1);
        const inside = new Float32Array(4);
        const nothing = inside.subarray(2, 2);
        optimizer.fusedStep(2, inside, new Float32Array(4), optimizer.createState(2, inside));
        expect(optimizer.fusedStep(2, nothing, nothing, { mean: nothing, variance: nothing })).to.deep.equal(DONE);
      });
    });

    it('should accept empty lists', () => {
      run(() => {
        const optimizer = new AdamW();
        expect(optimizer.fusedStep([], [], [], [])).to.deep.equal(DONE);
        expect(optimizer.step([], [], [], [])).to.deep.equal(DONE);
        expect(optimizer.bind([], [], [], []).step()).to.deep.equal(DONE);
        const options = { etas: [], lrs: [], wds: [] };
        expect(multiAdamwUpdate([], [], [], [], options)).to.deep.equal(DONE);
        expect(optimizer.numUpdate).to.equal(0);
      });
    });
  });
});
