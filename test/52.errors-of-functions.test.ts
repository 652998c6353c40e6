/** Invalid calls of multiAdamwUpdate, syncMaster and createState, and invalid options. */
import { expect } from 'chai';
import {
  AdamW,
  type DType,
  type MultiAdamwUpdateOptions,
  multiAdamwUpdate,
  syncMaster,
  type Tensor,
  type TensorLike,
} from '../lib/index.js';
import { describeOnEachBackend } from './support/backends.js';
import { bytesOf, detach, growableBuffer, resizableBuffer } from './support/buffers.js';
import { type ErrorClass, expectError } from './support/errors.js';
import { AT_LEAST_0, DISPOSED, NAME_DTYPE, shares, TENSOR, UINT16, WRONG_KINDS } from './support/messages.js';
import { callersTensor, LENGTH, type Lists, Scene, zeros } from './support/scene.js';
import { DONE } from './support/steps.js';

interface MultiArguments {
  weights: unknown;
  grads: unknown;
  means: unknown;
  variances: unknown;
  options: unknown;
}

interface MultiRow {
  readonly title: string;
  readonly dtype?: 'float32' | 'float64' | 'float16';
  readonly spoil: (args: Record<keyof MultiArguments, never>) => object;
  readonly error: ErrorClass;
  readonly message: string;
}

/** A list with another last entry. */
function withLast(list: readonly unknown[], value: unknown): unknown[] {
  return [...list.slice(0, -1), value];
}

function withOptions(changes: Record<string, unknown>): MultiRow['spoil'] {
  return ({ options }) => ({ options: { ...(options as object), ...changes } });
}

/** Dtypes that arrays beside float32 weights may have other than float32. */
const others = { grads: ' or float16 or bfloat16', means: ' or bfloat16', variances: '' };

const ofMulti: MultiRow[] = [
  ...(['grads', 'means', 'variances'] as const).flatMap((name): MultiRow[] => [
    {
      title: `${name} that is not a list`,
      spoil: () => ({ [name]: undefined }),
      error: TypeError,
      message: `Expected a list, as of weights, for ${name} but received undefined`,
    },
    {
      title: `${name} that are too few`,
      spoil: (args) => ({ [name]: (args[name] as unknown[]).slice(1) }),
      error: RangeError,
      message: `Expected a list of length 3 for ${name} but received one of length 2`,
    },
    {
      title: `an entry of ${name} that is null`,
      spoil: (args) => ({ [name]: withLast(args[name], null) }),
      error: TypeError,
      message: `Expected ${TENSOR} for ${name}[2] but received null`,
    },
    {
      title: `an entry of ${name} of another length`,
      spoil: (args) => ({ [name]: withLast(args[name], new Float32Array(LENGTH - 1)) }),
      error: RangeError,
      message: `Expected length ${LENGTH} for ${name}[2] but received length ${LENGTH - 1}`,
    },
    {
      title: `an entry of ${name} of another dtype`,
      spoil: (args) => ({ [name]: withLast(args[name], new Float64Array(LENGTH)) }),
      error: TypeError,
      message: `Expected float32${others[name]} for ${name}[2] but received float64`,
    },
  ]),
  {
    title: 'weights that is not a list',
    spoil: () => ({ weights: new Float32Array(LENGTH) }),
    error: TypeError,
    message: 'Expected a list for weights but received a Float32Array',
  },
  {
    title: 'options that is undefined',
    spoil: () => ({ options: undefined }),
    error: TypeError,
    message: 'Expected an object for options but received undefined',
  },
  {
    title: 'a weight that is a bare Uint16Array',
    spoil: ({ weights }) => ({ weights: withLast(weights, new Uint16Array(LENGTH)) }),
    error: TypeError,
    message: `Expected ${NAME_DTYPE} for weights[2] but received ${UINT16}`,
  },
  {
    title: 'the same weight twice',
    spoil: ({ weights }) => ({ weights: withLast(weights, weights[0]) }),
    error: RangeError,
    message: shares('weights[2]', 'weights[0]'),
  },
  {
    title: 'a gradient that is a variance',
    spoil: ({ grads, variances }) => ({ grads: withLast(grads, variances[0]) }),
    error: RangeError,
    message: shares('variances[0]', 'grads[2]'),
  },
  {
    title: 'a detached mean',
    spoil: ({ means }) => {
      const gone = new Float32Array(LENGTH);
      detach(gone.buffer);
      return { means: withLast(means, gone) };
    },
    error: RangeError,
    message: 'Expected memory that is still there for means[2] but received a detached ArrayBuffer',
  },
  {
    title: 'a disposed weight',
    spoil: ({ weights }) => {
      const gone = zeros('float32');
      gone.dispose();
      return { weights: withLast(weights, gone) };
    },
    error: RangeError,
    message: `Expected a live Tensor for weights[2] but received ${DISPOSED}`,
  },
  ...(['etas', 'lrs', 'wds'] as const).flatMap((name): MultiRow[] => [
    {
      title: `${name} that is a number`,
      spoil: withOptions({ [name]: 0.1 }),
      error: TypeError,
      message: `Expected a list, as of weights, for ${name} but received 0.1`,
    },
    {
      title: `${name} that are too many`,
      spoil: withOptions({ [name]: [1, 1, 1, 1] }),
      error: RangeError,
      message: `Expected a list of length 3 for ${name} but received one of length 4`,
    },
    {
      title: `an entry of ${name} that is a string`,
      spoil: withOptions({ [name]: [1, 1, '1'] }),
      error: TypeError,
      message: `Expected ${AT_LEAST_0} for ${name}[2] but received "1"`,
    },
    {
      title: `an entry of ${name} that is NaN`,
      spoil: withOptions({ [name]: [1, 1, NaN] }),
      error: RangeError,
      message: `Expected ${AT_LEAST_0} for ${name}[2] but received NaN`,
    },
    {
      title: `an entry of ${name} that is negative`,
      spoil: withOptions({ [name]: [1, 1, -1] }),
      error: RangeError,
      message: `Expected ${AT_LEAST_0} for ${name}[2] but received -1`,
    },
    {
      title: `an entry of ${name} that float32 cannot hold`,
      spoil: withOptions({ [name]: [1, 1, 1e39] }),
      error: RangeError,
      message: `Expected a number that float32 can hold for ${name}[2] but received 1e+39`,
    },
  ]),
  ...(['beta1', 'beta2', 'epsilon'] as const).flatMap((name): MultiRow[] => [
    {
      title: `a ${name} that is a string`,
      spoil: withOptions({ [name]: '0.5' }),
      error: TypeError,
      message: `Expected ${AT_LEAST_0} for ${name} but received "0.5"`,
    },
    {
      title: `a ${name} that is NaN`,
      spoil: withOptions({ [name]: NaN }),
      error: RangeError,
      message: `Expected ${AT_LEAST_0} for ${name} but received NaN`,
    },
    {
      title: `a ${name} that is negative`,
      spoil: withOptions({ [name]: -1 }),
      error: RangeError,
      message: `Expected ${AT_LEAST_0} for ${name} but received -1`,
    },
  ]),
  ...(['beta1', 'beta2'] as const).flatMap((name): MultiRow[] =>
    (['float32', 'float64'] as const).flatMap((dtype): MultiRow[] =>
      [1, 1.5].map((value) => ({
        title: `a ${name} of ${value} with ${dtype}`,
        dtype,
        spoil: withOptions({ [name]: value }),
        error: RangeError,
        message: `Expected a number in [0, 1) for ${name} but received ${value}`,
      })),
    ),
  ),
  {
    title: 'a beta1 that float32 rounds to 1',
    spoil: withOptions({ beta1: 1 - 1e-9 }),
    error: RangeError,
    message: 'Expected less than 1 in float32 for beta1 but received 0.999999999',
  },
  {
    title: 'an epsilon that float32 cannot hold',
    spoil: withOptions({ epsilon: 1e39 }),
    error: RangeError,
    message: 'Expected a number that float32 can hold for epsilon but received 1e+39',
  },
  {
    title: 'a clipGradient that float32 cannot hold',
    spoil: withOptions({ clipGradient: 1e39 }),
    error: RangeError,
    message: 'Expected a number that float32 can hold for clipGradient but received 1e+39',
  },
  {
    title: 'a clipGradient of 0',
    spoil: withOptions({ clipGradient: 0 }),
    error: RangeError,
    message: 'Expected a positive number, or null for none, for clipGradient but received 0',
  },
  {
    title: 'a rescaleGrad that is a string',
    spoil: withOptions({ rescaleGrad: '1' }),
    error: TypeError,
    message: 'Expected a number for rescaleGrad but received "1"',
  },
  {
    title: 'a seed that is negative',
    spoil: withOptions({ seed: -1 }),
    error: RangeError,
    message: 'Expected an integer of at least 0 for seed but received -1',
  },
  {
    title: 'an updateCount that is fractional',
    spoil: withOptions({ updateCount: 0.5 }),
    error: RangeError,
    message: 'Expected an integer of at least 0 for updateCount but received 0.5',
  },
  {
    title: 'masters that are too few',
    dtype: 'float16',
    spoil: withOptions({ masters: [zeros('float32')] }),
    error: RangeError,
    message: 'Expected a list of length 3 for masters but received one of length 1',
  },
  {
    title: 'masters of float32 weights',
    spoil: withOptions({ masters: [null, null, zeros('float32')] }),
    error: TypeError,
    message: 'Expected no master beside a float32 weight for masters[2] but received a Tensor',
  },
];

function multiArguments(dtype: DType): MultiArguments & { weights: Tensor[] } {
  const { weights, grads, states } = new Scene(3, dtype).good;
  return {
    weights,
    grads,
    means: states.map(({ mean }) => mean),
    variances: states.map(({ variance }) => variance),
    options: { etas: [1, 1, 1], lrs: [0.1, 0.1, 0.1], wds: [0, 0, 0] },
  };
}

function callMulti({ weights, grads, means, variances, options }: MultiArguments): unknown {
  return multiAdamwUpdate(
    weights as TensorLike[],
    grads as TensorLike[],
    means as TensorLike[],
    variances as TensorLike[],
    options as MultiAdamwUpdateOptions,
  );
}

describeOnEachBackend('errors of multiAdamwUpdate', (run) => {
  const bytes = (tensors: unknown): string[] => (tensors as Tensor[]).map(({ data }) => bytesOf(data.buffer));

  for (const { title, dtype = 'float32', spoil, error, message } of ofMulti) {
    it(`should refuse ${title}`, () => {
      run(() => {
        const args = multiArguments(dtype);
        const all = (): string[] => [args.weights, args.grads, args.means, args.variances].flatMap(bytes);
        const bad = { ...args, ...spoil(args as unknown as Parameters<typeof spoil>[0]) };
        const before = all();
        expectError(() => callMulti(bad), error, message);
        expect(all()).to.deep.equal(before);
        expect(callMulti(args)).to.deep.equal(DONE);
        expect(all()).not.to.deep.equal(before);
      });
    });
  }

  it('should read each element of a list once, whatever its iterator says', () => {
    run(() => {
      const weight = Float32Array.of(1);
      const [grads, means, variances] = [1, 0, 0].map((value) => [Float32Array.of(value)]);
      const etas = new Proxy([1], {
        get: (list, key, receiver) => (key === Symbol.iterator ? () => [].values() : Reflect.get(list, key, receiver)),
      });
      const twin = Float32Array.of(1);
      multiAdamwUpdate([weight], grads, means, variances, { etas, lrs: [1], wds: [0] });
      multiAdamwUpdate([twin], grads, [Float32Array.of(0)], [Float32Array.of(0)], { etas: [1], lrs: [1], wds: [0] });
      expect([...weight]).to.deep.equal([...twin]);
    });
  });

  it('should throw if memory is detached while the options are read', () => {
    run(() => {
      for (const role of ['weight', 'grad', 'mean', 'variance'] as const) {
        const { arrays, state } = callersTensor(false);
        const { weight, grad } = arrays as Record<string, Float32Array>;
        const held = bytesOf(arrays[role].buffer);
        let taken: ArrayBuffer | undefined;
        const etas = Object.defineProperty([1], 0, {
          get: () => {
            taken ??= detach(arrays[role].buffer);
            return 1;
          },
        });
        expectError(
          () => multiAdamwUpdate([weight], [grad], [state.mean], [state.variance], { etas, lrs: [1], wds: [0] }),
          RangeError,
          `Expected memory that is still there for ${role}s[0] but received a detached ArrayBuffer`,
        );
        if (taken) expect(bytesOf(taken), `the ${role} that was taken`).to.equal(held);
      }
    });
  });
});

describeOnEachBackend('errors of syncMaster', (run) => {
  const withLists = () => {
    const scene = new Scene(3, 'bfloat16', { multiPrecision: true });
    return { good: scene.good, lists: scene.lists() };
  };
  const rows: readonly [string, (lists: Lists) => void, ErrorClass, string][] = [
    [
      'a last weight that is null',
      ({ weights }) => (weights[2] = null),
      TypeError,
      `Expected ${TENSOR} for weights[2] but received null`,
    ],
    [
      'a last weight that is a bare Uint16Array',
      ({ weights }) => (weights[2] = new Uint16Array(LENGTH)),
      TypeError,
      `Expected ${NAME_DTYPE} for weights[2] but received ${UINT16}`,
    ],
    [
      'states that are too few',
      ({ states }) => states.pop(),
      RangeError,
      'Expected a list of length 3 for states but received one of length 2',
    ],
    [
      'a last state that is null',
      ({ states }) => (states[2] = null as never),
      TypeError,
      'Expected a state with mean and variance for states[2] but received null',
    ],
    [
      'a last state that is a number',
      ({ states }) => (states[2] = 5 as never),
      TypeError,
      'Expected a state with mean and variance for states[2] but received 5',
    ],
    [
      'states that are undefined',
      (lists) => ((lists as { states: unknown }).states = undefined),
      RangeError,
      'Expected a list of length 3 for states but received one of length 1',
    ],
    [
      'a last master that is a number',
      ({ states }) => (states[2].master = 5),
      TypeError,
      `Expected ${TENSOR} for states[2].master but received 5`,
    ],
    [
      'a last master that is float64',
      ({ states }) => (states[2].master = zeros('float64')),
      TypeError,
      'Expected float32 for states[2].master but received float64',
    ],
    [
      'a last master of another length',
      ({ states }) => (states[2].master = new Float32Array(4)),
      RangeError,
      `Expected length ${LENGTH} for states[2].master but received length 4`,
    ],
    [
      'a last master that was disposed of',
      ({ states }) => {
        const tensor = zeros('float32');
        tensor.dispose();
        states[2].master = tensor;
      },
      RangeError,
      `Expected a live Tensor for states[2].master but received ${DISPOSED}`,
    ],
    [
      'a last master whose memory is detached',
      ({ states }) => {
        const array = new Float32Array(LENGTH);
        detach(array.buffer);
        states[2].master = array;
      },
      RangeError,
      'Expected memory that is still there for states[2].master but received a detached ArrayBuffer',
    ],
    [
      'a last weight that was disposed of',
      ({ weights }) => {
        const tensor = zeros('bfloat16');
        tensor.dispose();
        weights[2] = tensor;
      },
      RangeError,
      `Expected a live Tensor for weights[2] but received ${DISPOSED}`,
    ],
  ];
  for (const [title, spoil, error, message] of rows) {
    it(`should refuse ${title}`, () => {
      run(() => {
        const { good, lists: spoiled } = withLists();
        // Masters that differ from the weights, so that a copy would show.
        for (const { master } of good.states) master?.set([9, 9, 9, 9, 9]);
        spoil(spoiled);
        expectError(() => syncMaster(spoiled.weights as TensorLike[], spoiled.states as never), error, message);
        for (const { master } of good.states) expect([...(master as Tensor).data]).to.deep.equal([9, 9, 9, 9, 9]);
      });
    });
  }

  it('should refuse one state that is null or undefined', () => {
    run(() => {
      for (const state of [null, undefined]) {
        expectError(
          () => syncMaster(new Float32Array(1), state as never),
          TypeError,
          `Expected a state with mean and variance for states[0] but received ${state}`,
        );
      }
    });
  });
});

describeOnEachBackend('errors of createState', (run) => {
  for (const [value, received] of WRONG_KINDS) {
    it(`should refuse a weight that is ${received}`, () => {
      run(() =>
        expectError(
          () => new AdamW().createState(0, value as never),
          TypeError,
          `Expected ${TENSOR} for weight but received ${received}`,
        ),
      );
    });
  }
  const rows: readonly [string, () => [unknown, unknown], ErrorClass, string][] = [
    [
      'a bare Uint16Array',
      () => [0, new Uint16Array(1)],
      TypeError,
      `Expected ${NAME_DTYPE} for weight but received ${UINT16}`,
    ],
    [
      'an index that is negative',
      () => [-1, new Float32Array(1)],
      TypeError,
      'Expected a whole number of at least 0 or a string for index but received -1',
    ],
    [
      'an index that is undefined',
      () => [undefined, new Float32Array(1)],
      TypeError,
      'Expected a whole number of at least 0 or a string for index but received undefined',
    ],
    [
      'a weight that was disposed of',
      () => {
        const tensor = zeros('float32');
        tensor.dispose();
        return [0, tensor];
      },
      RangeError,
      `Expected a live Tensor for weight but received ${DISPOSED}`,
    ],
    [
      'a weight whose memory is detached',
      () => {
        const array = new Float32Array(1);
        detach(array.buffer);
        return [0, array];
      },
      RangeError,
      'Expected memory that is still there for weight but received a detached ArrayBuffer',
    ],
    [
      'a weight in a resizable ArrayBuffer',
      () => [0, new Float32Array(resizableBuffer(8))],
      RangeError,
      'Expected memory of a fixed size for weight but received a resizable ArrayBuffer',
    ],
    [
      'a weight in a growable SharedArrayBuffer',
      () => [0, new Float32Array(growableBuffer(8))],
      RangeError,
      'Expected memory of a fixed size for weight but received a growable SharedArrayBuffer',
    ],
  ];
  for (const [title, make, error, message] of rows) {
    it(`should refuse ${title}`, () => {
      run(() => {
        const optimizer = new AdamW();
        const [index, weight] = make();
        expectError(() => optimizer.createState(index as number, weight as TensorLike), error, message);
        expect(optimizer.numUpdate).to.equal(0);
      });
    });
  }

  it('should refuse a stateDtype that the weight cannot have', () => {
    run(() => {
      expectError(
        () => new AdamW({ stateDtype: 'float16' }).createState(0, zeros('bfloat16')),
        RangeError,
        'Expected float32 or bfloat16 beside a bfloat16 weight for stateDtype but received float16',
      );
    });
  });
});

/** Options that are refused when they are set. */
describe('errors of the constructor and setters', () => {
  const positive = 'a positive number, or null for none,';
  const rows: readonly [string, unknown, ErrorClass, string, string][] = [
    ...(['learningRate', 'wd', 'beta1', 'beta2', 'epsilon'] as const).flatMap(
      (name): [string, unknown, ErrorClass, string, string][] => [
        [name, NaN, RangeError, AT_LEAST_0, 'NaN'],
        [name, -0.1, RangeError, AT_LEAST_0, '-0.1'],
        [name, Infinity, RangeError, AT_LEAST_0, 'Infinity'],
        [name, '0.1', TypeError, AT_LEAST_0, '"0.1"'],
        [name, {}, TypeError, AT_LEAST_0, 'an object'],
      ],
    ),
    ['beta1', 1, RangeError, 'a number in [0, 1)', '1'],
    ['beta2', 1, RangeError, 'a number in [0, 1)', '1'],
    ['beta2', 1.5, RangeError, 'a number in [0, 1)', '1.5'],
    ['clipGradient', 0, RangeError, positive, '0'],
    ['clipGradient', -1, RangeError, positive, '-1'],
    ['clipGradient', NaN, RangeError, positive, 'NaN'],
    ['clipGradient', Infinity, RangeError, positive, 'Infinity'],
    ['clipGradient', '1', TypeError, positive, '"1"'],
    ['rescaleGrad', '1', TypeError, 'a number', '"1"'],
    ['correctBias', 1, TypeError, 'a boolean', '1'],
    ['useFusedStep', 'yes', TypeError, 'a boolean', '"yes"'],
    ['multiPrecision', 0, TypeError, 'a boolean', '0'],
    ['rule', 'adam', RangeError, "'mxnet' or 'pytorch'", '"adam"'],
    ['rule', 1, TypeError, "'mxnet' or 'pytorch'", '1'],
    ['stateDtype', 'float64', RangeError, "'float32' or 'float16' or 'bfloat16'", '"float64"'],
    ['seed', 2 ** 32, RangeError, 'a whole number below 2**32', '4294967296'],
    ['seed', 0.5, RangeError, 'an integer of at least 0', '0.5'],
    ['beginNumUpdate', -1, RangeError, 'an integer of at least 0', '-1'],
    ['aggregateNum', 1.5, RangeError, 'an integer of at least 0', '1.5'],
    ['lrScheduler', {}, TypeError, 'an LRScheduler', 'an object'],
    ['paramIdx2name', [], TypeError, 'a Map or an object', 'an array of length 0'],
    ['coupledWeightDecay', true, RangeError, "false unless correctBias is false and rule is 'mxnet'", 'true'],
  ];
  for (const [name, value, error, expected, received] of rows) {
    it(`should refuse ${name} ${received}`, () => {
      const message = `Expected ${expected} for ${name} but received ${received}`;
      expectError(() => new AdamW({ [name]: value }), error, message);
    });
  }

  it('should refuse options that are not an object', () => {
    expectError(() => new AdamW(null as never), TypeError, 'Expected an object for options but received null');
    expectError(() => new AdamW(1 as never), TypeError, 'Expected an object for options but received 1');
  });

  it('should leave the optimizer unchanged if a setter throws', () => {
    const optimizer = new AdamW({ learningRate: 0.5, rescaleGrad: 2 });
    expectError(
      () => optimizer.setLearningRate(-1),
      RangeError,
      `Expected ${AT_LEAST_0} for learningRate but received -1`,
    );
    expectError(
      () => optimizer.setLearningRate(NaN),
      RangeError,
      `Expected ${AT_LEAST_0} for learningRate but received NaN`,
    );
    expectError(
      () => {
        optimizer.rescaleGrad = '1' as never;
      },
      TypeError,
      'Expected a number for rescaleGrad but received "1"',
    );
    expectError(
      () => optimizer.setLrMult({ a: -1 }),
      RangeError,
      `Expected ${AT_LEAST_0} for lrMult["a"] but received -1`,
    );
    expectError(
      () => optimizer.setWdMult({ 0: NaN }),
      RangeError,
      `Expected ${AT_LEAST_0} for wdMult[0] but received NaN`,
    );
    expect([optimizer.learningRate, optimizer.rescaleGrad]).to.deep.equal([0.5, 2]);
  });
});
