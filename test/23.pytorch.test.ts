import { expect } from 'chai';
import { AdamW, type AdamWOptions, type TensorLike } from '../lib/index.js';
import { expectClose, expectSameBits, type Values } from './support/bits.js';
import { environments, inEnvironment, TYPESCRIPT } from './support/environments.js';
import { decode, type FixtureCase, readFixture } from './support/fixtures.js';
import { copyOf, valuesIn } from './support/memory.js';
import { arraysOf } from './support/model.js';
import { randomFrom } from './support/random.js';
import { type ReplayOptions, replay } from './support/replay.js';
import { CALLS, type Call } from './support/steps.js';

const cases = readFixture('pytorch-adamw').optimizer;
const options: AdamWOptions = { rule: 'pytorch' };

/** Tolerances, since PyTorch's last bits depend on its instruction set. */
const OF_WEIGHT = 2e-6; // of the learning rate, for each step
const ULPS_OF_WEIGHT = 8;
const OF_VARIANCE = 1e-5; // of the variance
const OF_MEAN = 1e-6; // of the largest gradient so far, of which beta1 below one half leaves less
const ULPS_OF_MEAN = 2;
/** The mantissa of float64 has 29 bits more than that of float32. */
const FINER = 2 ** -29;

/** The unit in the last place of a number. */
function ulp(value: number, dtype: 'float32' | 'float64'): number {
  const [digits, least] = dtype === 'float32' ? [23, -149] : [52, -1074];
  const exponent = value === 0 ? least : Math.floor(Math.log2(Math.abs(value))) - digits;
  return 2 ** Math.max(exponent, least);
}

function expectCase(test: FixtureCase): void {
  const dtype = test.dtype === 'float64' ? 'float64' : 'float32';
  expect(dtype).to.equal(test.dtype);
  const scale = dtype === 'float64' ? FINER : 1;
  const { learningRate, beta1 } = test.options as Record<string, number>;
  const largest = test.initial.map((text) => new Float64Array(decode(text, dtype).length));
  let compared = 0;
  replay(test, { options }, ({ weights, states }, golden, t) => {
    golden.grads.forEach((text, i) => {
      const grads = decode(text, dtype);
      largest[i].forEach((value, k) => {
        largest[i][k] = Math.max(value, Math.abs(grads[k]));
      });
    });
    const expectArrays = (
      name: string,
      texts: string[] | null,
      actual: (i: number) => TensorLike,
      bound: (expected: Values, i: number) => (k: number) => number,
    ) => {
      texts?.forEach((text, i) => {
        const expected = decode(text, dtype);
        const what = `${test.implementation}, ${test.name}, step ${t}, ${name}[${i}]`;
        expectClose(valuesIn(actual(i)), expected, bound(expected, i), what);
        compared++;
      });
    };
    const ofStep = OF_WEIGHT * learningRate * t * scale;
    expectArrays(
      'weights',
      golden.weights,
      (i) => weights[i],
      (expected) => (k) => ofStep + ULPS_OF_WEIGHT * ulp(expected[k], dtype),
    );
    expectArrays(
      'means',
      golden.means,
      (i) => states[i].mean,
      (expected, i) => (k) =>
        OF_MEAN * scale * Math.min(1, 2 * beta1) * largest[i][k] + ULPS_OF_MEAN * ulp(expected[k], dtype),
    );
    expectArrays(
      'variances',
      golden.variances,
      (i) => states[i].variance,
      (expected) => (k) => OF_VARIANCE * scale * expected[k],
    );
  });
  expect(compared, `arrays compared in ${test.name}`).to.be.at.least(3 * test.shapes.length);
}

/** Copies of all arrays after each step of a case. */
function trace(test: FixtureCase, replayOptions: ReplayOptions): Values[] {
  const values: Values[] = [];
  replay(test, { options, ...replayOptions }, (model) => {
    for (const [, array] of arraysOf(model)) values.push(copyOf(array));
  });
  return values;
}

describe("PyTorch's results", () => {
  it('should be in the fixture', () => {
    expect(cases.length).to.equal(40);
    expect(new Set(cases.map(({ implementation }) => implementation))).to.deep.equal(
      new Set(['single-tensor', 'foreach', 'fused']),
    );
  });

  for (const test of cases) {
    it(`should be matched by rule 'pytorch': ${test.implementation}, ${test.name}`, () => expectCase(test));
  }

  it("should differ from those of rule 'mxnet'", () => {
    const [test] = cases;
    const weights: Values[] = [];
    for (const rule of ['pytorch', 'mxnet'] as const) {
      replay(test, { options: { rule } }, (model, _, t) => {
        if (t === test.steps.length) weights.push(copyOf(model.weights[0]));
      });
    }
    expect(() => expectSameBits(weights[0], weights[1], 'weights')).to.throw();
  });
});

/** The float32 mean after a step with each of some gradients. */
function meanAfter(grads: readonly Float32Array[], options: AdamWOptions): Float32Array {
  const weight = new Float32Array(grads[0].length);
  const state = { mean: new Float32Array(weight.length), variance: new Float32Array(weight.length) };
  const optimizer = new AdamW(options);
  for (const grad of grads) optimizer.fusedStep([0], [weight], [grad], [state]);
  return state.mean;
}

describe("Rule 'pytorch'", () => {
  const expected = new Map<FixtureCase, Values[]>();

  before(() => {
    inEnvironment(TYPESCRIPT, () => {
      for (const test of cases) expected.set(test, trace(test, {}));
    });
  });

  for (const environment of environments()) {
    for (const call of CALLS as readonly Call[]) {
      it(`should have the same bits as in TypeScript: ${call}, ${environment.name}`, () => {
        inEnvironment(environment, () => {
          for (const test of cases) {
            const arrays = expected.get(test) ?? [];
            const actual = trace(test, { call });
            expect(actual.length).to.equal(arrays.length);
            actual.forEach((array, k) => {
              expectSameBits(array, arrays[k], `${test.name}, array ${k}`);
            });
          }
        });
      });
    }
  }

  for (const environment of environments()) {
    it(`should take both branches of torch.lerp, by the weight as float32: ${environment.name}`, () => {
      const random = randomFrom(23);
      const [first, second] = [0, 1].map(() =>
        Float32Array.from({ length: 100 }, () => random() * 10 ** (9 * random() - 7)),
      );
      first.set([1, 1e-9, -1]);
      second.set([1e-9, 1, 3e-8]);
      const r = Math.fround;
      // With a beta1 that is closer to one half than float32 can tell, the weight is one half.
      for (const beta1 of [0, 0.3, 0.4999999, 0.5 - 1e-9, 0.5, 0.5 + 1e-9, 0.5000001, 0.9]) {
        const lerp = (mean: number, grad: number): number => {
          const weight = r(1 - beta1);
          return weight < 0.5 ? r(mean + r(weight * r(grad - mean))) : r(grad - r(r(grad - mean) * r(1 - weight)));
        };
        const expected = first.map((grad, i) => lerp(lerp(0, grad), second[i]));
        inEnvironment(environment, () => {
          const mean = meanAfter([first, second], { rule: 'pytorch', beta1 });
          expectSameBits(mean, expected, `mean with beta1 ${beta1}`);
          if (beta1 === 0) expectSameBits(mean, second, 'mean with beta1 0');
        });
      }
    });
  }
});

describe("Rules 'mxnet' and 'pytorch'", () => {
  interface Run {
    readonly steps?: number;
    readonly weight?: number;
    /** At each step, or what gives it. */
    readonly grad: number | (() => number);
    readonly options?: AdamWOptions;
  }

  /** How far apart they leave a float32 weight, in learning rates. */
  function distance({ steps = 1, weight = 0, grad, options }: Run): number {
    const learningRate = 0.001;
    const grads = Array.from({ length: steps }, () => Float32Array.of(typeof grad === 'number' ? grad : grad()));
    const [mxnet, pytorch] = (['mxnet', 'pytorch'] as const).map((rule) => {
      const optimizer = new AdamW({ rule, learningRate, epsilon: 1e-6, wd: 0, ...options });
      const weights = Float32Array.of(weight);
      const state = { mean: new Float32Array(1), variance: new Float32Array(1) };
      for (const each of grads) optimizer.fusedStep([0], [weights], [each], [state]);
      return weights[0];
    });
    return Math.abs(mxnet - pytorch) / learningRate;
  }

  it('should differ by as much as docs/differences.md says', () => {
    // MXNet's bias correction scales what epsilon and the decay are next to.
    const figures: readonly (readonly [Run, number])[] = [
      [{ grad: 1e-6 }, 0.47],
      [{ grad: 1e-4 }, 0.23],
      [{ grad: 1 }, 2.4e-5],
      [{ grad: 1, weight: 1, options: { wd: 0.1 } }, 0.068],
      [{ grad: 1, weight: 1, steps: 1000, options: { wd: 0.01 } }, 2.5],
      [{ grad: 0, weight: 1, steps: 1000, options: { wd: 0.01 } }, 4.2],
    ];
    for (const [run, figure] of figures) {
      expect(distance(run), JSON.stringify(run)).to.be.closeTo(figure, 0.02 * figure);
    }
  });

  it('should differ by as little as docs/differences.md says where neither epsilon nor decay counts', () => {
    const random = randomFrom(200);
    const gradient = (): number => 10 ** (9 * random() - 7);
    let most = 0;
    for (let round = 0; round < 100; round++) {
      const [same, options] = [gradient(), { epsilon: 1e-30 }];
      most = Math.max(most, distance({ grad: () => gradient(), steps: 200, options }));
      most = Math.max(most, distance({ grad: () => same, steps: 200, options }));
    }
    expect(most).to.be.within(1e-3, 2e-3);
  });

  it('should decay, and weigh epsilon, in the shares that docs/differences.md gives', () => {
    const changeOf = (rule: 'mxnet' | 'pytorch', t: number, options: AdamWOptions, grad: number): number => {
      const weight = Float64Array.of(1);
      const state = { mean: Float64Array.of(0), variance: Float64Array.of(0) };
      const optimizer = new AdamW({ rule, beginNumUpdate: t - 1, epsilon: 1, ...options });
      optimizer.update(0, weight, Float64Array.of(grad), state);
      return weight[0] - 1;
    };
    for (const [t, share] of [
      [1, 0.32],
      [12, 0.15],
      [1000, 0.8],
    ]) {
      const [mxnet, pytorch] = (['mxnet', 'pytorch'] as const).map((rule) => changeOf(rule, t, { wd: 0.1 }, 0));
      expect(mxnet / pytorch, `decay of step ${t}`).to.be.closeTo(share, 0.005);
    }
    // Where epsilon is far above the root of the variance, the step is in inverse proportion to it.
    const [mxnet, pytorch] = (['mxnet', 'pytorch'] as const).map((rule) => changeOf(rule, 1, { wd: 0 }, 1e-6));
    expect(pytorch / mxnet).to.be.closeTo(32, 0.5);
  });

  it('should make float64 NaN from 2 ** 512 on, by the rule of MXNet', () => {
    for (const [grad, overflows] of [
      [2 ** 511, false],
      [2 ** 512, true],
    ] as const) {
      const weight = Float64Array.of(1);
      const state = { mean: Float64Array.of(0), variance: Float64Array.of(0) };
      new AdamW().update(0, weight, Float64Array.of(grad), state);
      expect([Number.isNaN(weight[0]), Number.isNaN(state.variance[0])]).to.deep.equal([overflows, overflows]);
    }
  });

  for (const environment of environments()) {
    it(`should treat float32 gradients above 2 ** 64 differently: ${environment.name}`, () => {
      inEnvironment(environment, () => {
        for (const [grad, variance] of [
          [2 ** 64, Math.fround(2 ** 128 * 0.001)],
          [2 ** 66, Math.fround(2 ** 132 * 0.001)],
          [5.8e20, Math.fround(5.8e20 * 5.8e20 * 0.001)],
          [2 ** 69, Infinity],
        ]) {
          const step = (options: AdamWOptions): [number, number] => {
            const weight = Float32Array.of(1);
            const state = { mean: new Float32Array(1), variance: new Float32Array(1) };
            new AdamW({ learningRate: 0.1, wd: 0, ...options }).fusedStep(
              [0],
              [weight],
              [Float32Array.of(grad)],
              [state],
            );
            return [weight[0], state.variance[0]];
          };
          expect(step({ rule: 'mxnet' })).to.deep.equal([NaN, NaN]);
          const [weight, actual] = step({ rule: 'pytorch' });
          // Where the variance overflows too, the weight stays.
          expect(weight, `weight after ${grad}`).to.be.closeTo(variance === Infinity ? 1 : 0.9, 1e-6);
          if (variance === Infinity) expect(actual).to.equal(Infinity);
          else expect(actual / variance).to.be.closeTo(1, 1e-6);
        }
      });
    });
  }
});
