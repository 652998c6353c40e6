import { expect } from 'chai';
import type { TensorLike } from '../lib/index.js';
import { expectClose, expectSameBits } from './support/bits.js';
import { environments, inEnvironment } from './support/environments.js';
import { decode, type FixtureCase, readFixture } from './support/fixtures.js';
import { OddMemory, ownMemory, type Place, valuesIn } from './support/memory.js';
import { replay } from './support/replay.js';
import { CALLS, type Call } from './support/steps.js';

const cases = readFixture('coupled-adamw').optimizer;

/**
 * Tolerances against the formula as it is printed, evaluated in float64:
 * relative to the learning rate for weights, to the value for variances, and to
 * the largest gradient with its decay for means. The variance in float32 needs
 * so much because beta2 * (v - q) + q cancels with beta2 = 0.999, and the
 * weight follows from it.
 */
const TOLERANCES = {
  float32: { weight: 1e-3, variance: 2e-4, mean: 5e-6 },
  float64: { weight: 1e-11, variance: 1e-11, mean: 1e-11 },
};

function expectCase(test: FixtureCase, call: Call, place: Place): void {
  const { dtype } = test;
  if (dtype === 'float16') throw new Error(`no tolerance for ${dtype}`);
  const tolerance = TOLERANCES[dtype];
  const { learningRate, wd, rescaleGrad, clipGradient } = test.options as Record<string, number>;
  const largest = test.initial.map((text) => new Float64Array(decode(text, dtype).length));
  replay(test, { call, place }, ({ weights, states }, golden, t) => {
    golden.grads.forEach((text, i) => {
      const grads = decode(text, dtype);
      largest[i].forEach((value, k) => {
        const grad = Math.min(Math.abs(rescaleGrad * grads[k]), clipGradient ?? Infinity);
        largest[i][k] = Math.max(value, grad);
      });
    });
    const expectArrays = (
      name: string,
      actual: readonly TensorLike[],
      exact: string[] | null,
      printed: string[] | undefined,
      bound: (expected: number, i: number, k: number) => number,
    ) => {
      if (!exact || !printed) throw new Error(`no golden ${name} in ${test.name}`);
      actual.forEach((array, i) => {
        const what = `${test.name}, step ${t}, ${name}[${i}]`;
        expectSameBits(valuesIn(array), decode(exact[i], dtype), what);
        const expected = decode(printed[i], 'float64');
        expectClose(valuesIn(array), expected, (k) => bound(expected[k], i, k), `${what} as printed`);
      });
    };
    expectArrays('weights', weights, golden.weights, golden.weightsReference, () => tolerance.weight * learningRate);
    expectArrays(
      'means',
      states.map(({ mean }) => mean),
      golden.means,
      golden.meansReference,
      (_, i, k) => tolerance.mean * (largest[i][k] + 3 * wd),
    );
    expectArrays(
      'variances',
      states.map(({ variance }) => variance),
      golden.variances,
      golden.variancesReference,
      (expected) => tolerance.variance * expected,
    );
  });
}

describe('coupledWeightDecay', () => {
  it('should have cases in the fixture', () => {
    expect(cases.length).to.equal(13);
    for (const { options } of cases) expect(options).to.include({ correctBias: false, coupledWeightDecay: true });
    expect(new Set(cases.map(({ dtype }) => dtype))).to.deep.equal(new Set(['float32', 'float64']));
  });

  for (const environment of environments()) {
    for (const call of CALLS) {
      it(`should follow the formula as it is printed: ${call}, ${environment.name}`, () => {
        inEnvironment(environment, () => {
          for (const test of cases) expectCase(test, call, ownMemory);
        });
      });
    }

    it(`should give the same results at odd offsets: ${environment.name}`, () => {
      inEnvironment(environment, () => {
        for (const test of cases) {
          const memory = new OddMemory();
          expectCase(test, 'fusedStep()', memory.place);
          memory.expectIntact();
        }
      });
    });
  }

  it('should decay the gradient as well as the weight', () => {
    const [decayed] = cases.filter(({ name }) => name === 'wd 0.3');
    const withoutIt = { ...decayed, options: { ...decayed.options, coupledWeightDecay: false } };
    expect(() => expectCase(withoutIt, 'fusedStep()', ownMemory)).to.throw(/wd 0.3, step 1, weights\[0\]/);
  });
});
