/** `rounding: 'stochastic'`: which weights it rounds, its statistics, and every backend's bits. */
import { expect } from 'chai';
import { AdamW, type AdamWOptions, type Index, Tensor, type TensorLike } from '../lib/index.js';
import {
  keyOfWeights,
  randomBits,
  randomKey,
  tensorKey,
  toBfloat16Stochastic,
} from '../lib/numerics/stochastic-rounding.js';
import { expectSameBits } from './support/bits.js';
import { environments, inEnvironment, TYPESCRIPT } from './support/environments.js';
import { expectError } from './support/errors.js';
import { OddMemory, tensorOf, valuesIn } from './support/memory.js';
import {
  cloneModel,
  DTYPE_CONFIGS,
  dtypesOf,
  expectSameModel,
  type Model,
  makeGrads,
  makeModel,
} from './support/model.js';
import { randomFrom } from './support/random.js';
import { quietly, warningsOf } from './support/warnings.js';

/** The configurations whose weights are rounded stochastically, and those that have no weights to round. */
const ROUNDED = DTYPE_CONFIGS.filter((name) => dtypesOf(name).dtype === 'bfloat16' && !dtypesOf(name).hasMaster);
const OTHERS = DTYPE_CONFIGS.filter((name) => !dtypesOf(name).dtype.includes('float16') || dtypesOf(name).hasMaster);
const LENGTHS = [1, 2, 255, 257, 3001, 40_001];

const RULES: readonly AdamWOptions[] = [
  { rule: 'mxnet', wd: 0.1 },
  { rule: 'mxnet', wd: 0.1, correctBias: false, coupledWeightDecay: true, clipGradient: 0.5 },
  { rule: 'pytorch', wd: 0.1, rescaleGrad: 0.5 },
];

function makeRounded(): Model {
  const specs = ROUNDED.flatMap((config) => LENGTHS.map((length) => [config, length] as const));
  return makeModel(specs, randomFrom(1), new OddMemory().place);
}

function train(options: AdamWOptions, model: Model, steps: number): void {
  const random = randomFrom(2);
  const optimizer = new AdamW({ ...options, learningRate: 0.01, rounding: 'stochastic', seed: 5 });
  for (let t = 0; t < steps; t++) {
    optimizer.update(model.indices, model.weights, makeGrads(model, random), model.states);
  }
}

describe("rounding: 'stochastic'", () => {
  it('should be of four dtype configurations', () => {
    expect(ROUNDED).to.have.lengthOf(4);
  });

  for (const options of RULES) {
    const expected = makeRounded();
    before(() => inEnvironment(TYPESCRIPT, () => train(options, expected, 3)));

    for (const environment of environments({ threads: true })) {
      it(`should have the bits of TypeScript: ${JSON.stringify(options)}, ${environment.name}`, () => {
        inEnvironment(environment, () => {
          const model = makeRounded();
          train(options, model, 3);
          expectSameModel(model, expected, environment.name);
        });
      });
    }
  }

  for (const environment of environments()) {
    it(`should leave all other weights and the states as they are: ${environment.name}`, () => {
      inEnvironment(environment, () => {
        const specs = OTHERS.map((config, i) => [config, 300 + i] as const);
        const model = makeModel(specs, randomFrom(3));
        const other = cloneModel(model);
        const grads = makeGrads(model, randomFrom(4));
        new AdamW({ rounding: 'stochastic' }).update(model.indices, model.weights, grads, model.states);
        new AdamW().update(other.indices, other.weights, grads, other.states);
        expectSameModel(model, other, 'not rounded stochastically');
      });
    });

    it(`should take the numbers of the seed, the index, the count and the element: ${environment.name}`, () => {
      inEnvironment(environment, () => {
        const length = 5000;
        for (const [seed, index, begin] of [
          [0, 0, 0],
          [9, 'layers.1.weight', 41],
        ] as const) {
          const { weight, exact } = decayed(length, { seed, beginNumUpdate: begin }, index);
          const key = keyOfWeights(randomKey(tensorKey(seed, index), begin + 1, 0));
          const rounded = Uint16Array.from({ length }, (_, i) => toBfloat16Stochastic(exact, randomBits(key, i)));
          expectSameBits(valuesIn(weight), rounded, `${index}`);
        }
      });
    });
  }

  /** Weights of 1 that one step of decay alone takes to `exact`, which lies between two values of bfloat16. */
  function decayed(length: number, options: AdamWOptions, index: Index): { weight: Tensor; exact: number } {
    const weight = Tensor.zeros(length, { dtype: 'bfloat16' }).set(new Float32Array(length).fill(1));
    const optimizer = new AdamW({ learningRate: 0.001, wd: 1, rounding: 'stochastic', correctBias: false, ...options });
    optimizer.update(index, weight, Tensor.zeros(length, { dtype: 'bfloat16' }), optimizer.createState(index, weight));
    return { weight, exact: Math.fround(1 - Math.fround(0.001)) };
  }

  const N = 100_000;
  const [BELOW, ABOVE] = [1 - 2 ** -8, 1]; // the neighbours of `exact` in bfloat16

  /** Whether each weight was rounded up. */
  function roundedUp(options: AdamWOptions, index: Index): number[] {
    return Array.from(decayed(N, options, index).weight.toArray(), (value) => (value === ABOVE ? 1 : 0));
  }

  it('should give both neighbours and nothing else, and keep the mean within four standard errors', () => {
    for (const [seed, index] of [
      [0, 0],
      [1, 'w'],
      [2 ** 32 - 1, 7],
    ] as const) {
      const { weight, exact } = decayed(N, { seed }, index);
      const values = Array.from(weight.toArray());
      expect(new Set(values)).to.deep.equal(new Set([BELOW, ABOVE]));
      const mean = values.reduce((sum, value) => sum + value, 0) / N;
      const up = (exact - BELOW) / (ABOVE - BELOW);
      const standardError = (ABOVE - BELOW) * Math.sqrt((up * (1 - up)) / N);
      expect(mean).to.be.closeTo(exact, 4 * standardError);
    }
  });

  it('should round tensors, steps and seeds independently', () => {
    const runs = [
      roundedUp({}, 0),
      roundedUp({}, 1),
      roundedUp({}, 'w'),
      roundedUp({ beginNumUpdate: 1 }, 0),
      roundedUp({ seed: 1 }, 0),
    ];
    const shifted = [...runs[0].slice(1), runs[0][0]]; // and neighbouring elements
    for (const [i, a] of [...runs, shifted].entries()) {
      for (const b of runs.slice(i + 1)) expect(Math.abs(correlation(a, b))).to.be.below(4 / Math.sqrt(N));
    }
    expect(Math.abs(correlation(runs[0], shifted))).to.be.below(4 / Math.sqrt(N));
    expect(correlation(runs[0], runs[0])).to.be.closeTo(1, 1e-9);
  });

  it('should round a weight independently of its variance', () => {
    const weight = Tensor.zeros(N, { dtype: 'bfloat16' }).set(new Float32Array(N).fill(1));
    const grad = Tensor.zeros(N, { dtype: 'bfloat16' }).set(new Float32Array(N).fill(0.7));
    const optimizer = new AdamW({ learningRate: 0.001, rounding: 'stochastic', stateDtype: 'bfloat16' });
    const state = optimizer.createState(0, weight);
    optimizer.update(0, weight, grad, state);
    const upper = (array: TensorLike): number[] => {
      const values = Array.from(tensorOf(array).toArray());
      const greatest = Math.max(...new Set(values));
      expect(new Set(values).size).to.equal(2);
      return values.map((value) => (value === greatest ? 1 : 0));
    };
    expect(Math.abs(correlation(upper(weight), upper(state.variance)))).to.be.below(4 / Math.sqrt(N));
  });

  it('should follow float32 weights where rounding to nearest stands still', () => {
    const steps = 300;
    const run = (dtype: 'bfloat16' | 'float32', options: AdamWOptions): number => {
      const weight = Tensor.zeros(2000, { dtype }).set(new Float32Array(2000).fill(1));
      const grad = Tensor.zeros(2000, { dtype }).set(new Float32Array(2000).fill(0.5));
      const optimizer = new AdamW({ learningRate: 0.0003, multiPrecision: dtype === 'float32', ...options });
      const state = optimizer.createState(0, weight);
      for (let t = 0; t < steps; t++) optimizer.update(0, weight, grad, state);
      return weight.toArray().reduce((sum, value) => sum + value, 0) / 2000;
    };
    const exact = run('float32', {});
    expect(exact).to.be.closeTo(0.91, 1e-3);
    expect(run('bfloat16', { rounding: 'stochastic' })).to.be.closeTo(exact, 2e-3);
    expect(run('bfloat16', { rounding: 'stochastic', stateDtype: 'bfloat16' })).to.be.closeTo(exact, 2e-3);
    expect(quietly(() => run('bfloat16', { rounding: 'nearest' }))).to.equal(1);
  });

  it('should keep NaN and infinities, and not round up to one', () => {
    const weight = Tensor.zeros(4, { dtype: 'bfloat16' });
    const { data } = weight as { data: Uint16Array };
    data.set([0x7f7f, 0x7f80, 0xff80, 0x7fc1]);
    const optimizer = new AdamW({ rounding: 'stochastic', rule: 'pytorch', learningRate: 0 });
    const state = optimizer.createState(0, weight);
    for (let t = 0; t < 50; t++) optimizer.update(0, weight, Tensor.zeros(4, { dtype: 'bfloat16' }), state);
    expect(Array.from(data)).to.deep.equal([0x7f7f, 0x7f80, 0xff80, 0x7fc0]);
  });

  it('should warn of nothing, and refuse float16 weights without masters', () => {
    const warnings = warningsOf(() => {
      const optimizer = new AdamW({ rounding: 'stochastic' });
      optimizer.createState(0, Tensor.zeros(1, { dtype: 'bfloat16' }));
      const half = Tensor.zeros(1, { dtype: 'float16' });
      const message = "bfloat16, or a master beside it (rounding: 'stochastic')";
      expectError(
        () => optimizer.createState(0, half),
        RangeError,
        `Expected ${message} for weight but received float16`,
      );
      const state = { mean: new Float32Array(1), variance: new Float32Array(1) };
      expectError(
        () => optimizer.update(0, half, Tensor.zeros(1, { dtype: 'float16' }), state),
        RangeError,
        `Expected ${message} for weights[0] but received float16`,
      );
      expect(optimizer.updateCount(0)).to.equal(0);
      optimizer.update(0, half, Tensor.zeros(1, { dtype: 'float16' }), { ...state, master: new Float32Array(1) });
    });
    expect(warnings).to.deep.equal([]);
  });
});

/** Pearson's coefficient. */
function correlation(a: readonly number[], b: readonly number[]): number {
  const mean = (values: readonly number[]): number => values.reduce((sum, value) => sum + value, 0) / values.length;
  const [ma, mb] = [mean(a), mean(b)];
  let [ab, aa, bb] = [0, 0, 0];
  for (let i = 0; i < a.length; i++) {
    ab += (a[i] - ma) * (b[i] - mb);
    aa += (a[i] - ma) ** 2;
    bb += (b[i] - mb) ** 2;
  }
  return ab / Math.sqrt(aa * bb);
}
