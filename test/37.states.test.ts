/** States of tensors: createState(), the warning of half precision, and syncMaster(). */
import { expect } from 'chai';
import {
  AdamW,
  type AdamWOptions,
  type AdamWState,
  type DType,
  syncMaster,
  Tensor,
  type TensorLike,
} from '../lib/index.js';
import { expectSameBits } from './support/bits.js';
import { expectError, itRefuses } from './support/errors.js';
import { copyOf, tensorOf, valuesIn } from './support/memory.js';
import { type DTypeConfig, expectSameModel, type Model, makeGrads, makeModel } from './support/model.js';
import { randomFrom } from './support/random.js';
import { CALLS, stepper } from './support/steps.js';
import { quietly, warningsOf } from './support/warnings.js';

const loss = (dtype: DType): string =>
  `${dtype} weights without float32 masters lose updates below half a unit of their last place. Use multiPrecision: true` +
  (dtype === 'bfloat16' ? " or rounding: 'stochastic'" : '');
const FLOAT16_STATES =
  'float16 weights without float32 masters lose updates below half a unit of their last place. Their float16 variances ' +
  'underflow for gradients below about 1e-3, and steps then become up to 30 times too large. Use multiPrecision: true';

describe('createState', () => {
  const weightOf = (config: DTypeConfig) => makeModel([[config, 6]], randomFrom(5)).weights[0];

  it("should be zeros of the weight's dtype and shape", () => {
    for (const dtype of ['float32', 'float64'] as const) {
      const { mean, variance, master } = new AdamW({ multiPrecision: true }).createState(
        0,
        Tensor.zeros([2, 3], { dtype }),
      );
      for (const moment of [mean, variance]) {
        expect(moment).to.be.an.instanceOf(Tensor);
        expect(tensorOf(moment)).to.include({ dtype, length: 6 });
        expect(tensorOf(moment).shape).to.deep.equal([2, 3]);
        expect([...valuesIn(moment)]).to.deep.equal([0, 0, 0, 0, 0, 0]);
      }
      expect(master).to.equal(undefined);
      expect(mean).not.to.equal(variance);
    }
  });

  it('should include a master of a half-precision weight with multiPrecision', () => {
    for (const dtype of ['float16', 'bfloat16'] as const) {
      const weight = Tensor.zeros([2, 3], { dtype }).set([1, -2, 0.1, NaN, Infinity, 1e-7]);
      const warnings = warningsOf(() => {
        const { mean, variance, master } = new AdamW({ multiPrecision: true }).createState('w', weight);
        if (!master) throw new Error('no master');
        for (const array of [mean, variance, master]) {
          expect(tensorOf(array).dtype).to.equal('float32');
          expect(tensorOf(array).shape).to.deep.equal([2, 3]);
        }
        expectSameBits(valuesIn(master), weight.toArray(), 'master');
      });
      expect(warnings).to.deep.equal([]);
    }
  });

  const dtypes: readonly [weight: DTypeConfig, stateDtype: AdamWOptions['stateDtype'], expected: string][] = [
    ['float16', undefined, 'float32'],
    ['float16', 'float16', 'float16'],
    ['float16', 'float32', 'float32'],
    ['bfloat16', undefined, 'float32'],
    ['bfloat16', 'bfloat16', 'bfloat16'],
    ['bfloat16', 'float32', 'float32'],
    ['float32', undefined, 'float32'],
    ['float32', 'float16', 'float32'],
    ['float32', 'bfloat16', 'bfloat16'],
    ['float64', 'bfloat16', 'float64'],
  ];
  for (const [config, stateDtype, expected] of dtypes) {
    it(`should be ${expected} for ${config} without a master if stateDtype is ${stateDtype}`, () => {
      const { mean, variance, master } = quietly(() => new AdamW({ stateDtype }).createState(0, weightOf(config)));
      expect([tensorOf(mean).dtype, tensorOf(variance).dtype, master]).to.deep.equal([expected, expected, undefined]);
    });
  }

  it('should be the same as createStateMultiPrecision', () => {
    const optimizer = new AdamW({ multiPrecision: true });
    const weight = weightOf('float16');
    const state = optimizer.createStateMultiPrecision(0, weight);
    const other = optimizer.createState(0, weight);
    const model = (one: AdamWState): Model => ({ indices: [0], weights: [weight], states: [one] });
    expectSameModel(model(state), model(other), 'state');
  });

  itRefuses([
    [
      'an invalid index',
      () => new AdamW().createState(-1, new Float32Array(1)),
      TypeError,
      'Expected a whole number of at least 0 or a string for index but received -1',
    ],
    [
      'a weight that is a plain array',
      () => new AdamW().createState(0, [1] as never),
      TypeError,
      'Expected a Tensor, Float32Array, Float64Array or Float16Array for weight but received an array of length 1',
    ],
    [
      'a Uint16Array',
      () => new AdamW().createState(0, new Uint16Array(1) as never),
      TypeError,
      "Expected a Tensor (make one with Tensor.from(array, { dtype: 'float16' }) or 'bfloat16') for weight " +
        'but received a Uint16Array, which does not say its dtype',
    ],
    [
      'bfloat16 states of a float16 weight',
      () => new AdamW({ stateDtype: 'bfloat16' }).createState(0, weightOf('float16')),
      RangeError,
      'Expected float32 or float16 beside a float16 weight for stateDtype but received bfloat16',
    ],
    [
      'float16 states of a bfloat16 weight',
      () => new AdamW({ stateDtype: 'float16' }).createState(0, weightOf('bfloat16')),
      RangeError,
      'Expected float32 or bfloat16 beside a bfloat16 weight for stateDtype but received float16',
    ],
  ]);
});

describe('The warning of half precision', () => {
  const rows: readonly (readonly [DTypeConfig, AdamWOptions['stateDtype'], string])[] = [
    ['float16', 'float16', FLOAT16_STATES],
    ['float16+float32 states', undefined, loss('float16')],
    ['bfloat16', 'bfloat16', loss('bfloat16')],
    ['bfloat16+float32 states', undefined, loss('bfloat16')],
  ];
  for (const [config, stateDtype, warning] of rows) {
    it(`should be emitted once per optimizer, and say what happens: ${config}`, () => {
      const model = makeModel(
        [
          [config, 3],
          [config, 4],
        ],
        randomFrom(8),
      );
      const grads = makeGrads(model, randomFrom(9));
      expect(
        warningsOf(() => {
          const optimizer = new AdamW({ stateDtype });
          optimizer.createState(0, model.weights[0]);
          optimizer.createState(1, model.weights[1]);
          for (const call of CALLS) stepper(optimizer, model, call)(grads);
        }),
      ).to.deep.equal([warning]);
      for (const call of CALLS) {
        expect(warningsOf(() => stepper(new AdamW(), model, call)(grads))).to.deep.equal([warning]);
      }
    });
  }

  it('should say of float16 states what was measured: 30 learning rates a step, where float32 states give one', () => {
    const walked = (stateDtype: 'float16' | 'float32'): number => {
      // The weight is float16, so its own steps must be large enough to count: a rate of 1/64 from 0.
      const weight = Tensor.zeros(1, { dtype: 'float16' });
      const grad = Tensor.zeros(1, { dtype: 'float16' }).set([1e-3]);
      const optimizer = quietly(() => new AdamW({ learningRate: 2 ** -6, stateDtype }));
      const state = quietly(() => optimizer.createState(0, weight));
      for (let step = 0; step < 3000; step++) {
        weight.set([0]);
        optimizer.update(0, weight, grad, state);
      }
      return Math.abs(weight.toArray()[0]) * 2 ** 6;
    };
    expect(quietly(() => walked('float16'))).to.be.closeTo(29.8, 0.1);
    expect(quietly(() => walked('float32'))).to.be.closeTo(1, 0.01);
  });

  it('should be about variances that gradients below 0.0055 add nothing to', () => {
    const variances = [0.0054, 0.0056].map((value) => {
      const weight = Tensor.zeros(1, { dtype: 'float16' });
      const optimizer = new AdamW({ stateDtype: 'float16' });
      const state = quietly(() => optimizer.createState(0, weight));
      quietly(() => optimizer.update(0, weight, Tensor.zeros(1, { dtype: 'float16' }).set([value]), state));
      return state.variance.toArray()[0];
    });
    expect(variances).to.deep.equal([0, 2 ** -24]);
  });

  it('should not be emitted for weights with masters or wider dtypes', () => {
    const configs: readonly DTypeConfig[] = ['float32', 'float64', 'float16+master', 'bfloat16+master'];
    const model = makeModel(
      configs.map((config) => [config, 3]),
      randomFrom(8),
    );
    const grads = makeGrads(model, randomFrom(9));
    const warnings = warningsOf(() => {
      const optimizer = new AdamW({ multiPrecision: true });
      model.weights.forEach((weight, i) => {
        optimizer.createState(i, weight);
      });
      // The state decides, not the option.
      for (const multiPrecision of [true, false]) stepper(new AdamW({ multiPrecision }), model, 'fusedStep()')(grads);
    });
    expect(warnings).to.deep.equal([]);
  });
});

describe('syncMaster', () => {
  for (const config of ['float16+master', 'bfloat16+master'] as const) {
    it(`should set the masters to the weights: ${config}`, () => {
      const model = makeModel(
        [
          [config, 3],
          [config, 2],
          ['float32', 2],
        ],
        randomFrom(80),
      );
      const [first, second, third] = model.weights;
      tensorOf(first).set([1, -2, 0.1]);
      tensorOf(second).set([NaN, Infinity]);
      const [mean, variance] = [copyOf(model.states[0].mean), copyOf(model.states[0].variance)];
      syncMaster(model.weights, model.states);
      model.states.slice(0, 2).forEach(({ master }, i) => {
        if (!master) throw new Error('no master');
        expectSameBits(valuesIn(master), tensorOf(model.weights[i]).toArray(), `master ${i}`);
      });
      expectSameBits(valuesIn(model.states[0].mean), mean, 'mean');
      expectSameBits(valuesIn(model.states[0].variance), variance, 'variance');
      expect(model.states[2].master).to.equal(undefined);
      expect(third).to.equal(model.weights[2]);
    });

    it(`should accept one weight with one state: ${config}`, () => {
      const { weights, states } = makeModel([[config, 2]], randomFrom(81));
      tensorOf(weights[0]).set([3, 4]);
      syncMaster(weights[0], states[0]);
      expect([...valuesIn(states[0].master as TensorLike)]).to.deep.equal([3, 4]);
    });
  }

  const half = (length = 2) => Tensor.zeros(length, { dtype: 'float16' });
  const state = (master: TensorLike): AdamWState => ({
    mean: new Float32Array(2),
    variance: new Float32Array(2),
    master,
  });
  itRefuses([
    [
      'lists of different lengths',
      () => syncMaster([half(), half()], [state(new Float32Array(2))]),
      RangeError,
      'Expected a list of length 2 for states but received one of length 1',
    ],
    [
      'a master of another dtype',
      () => syncMaster([half()], [state(new Float64Array(2))]),
      TypeError,
      'Expected float32 for states[0].master but received float64',
    ],
    [
      'a master of another length',
      () => syncMaster([half(3)], [state(new Float32Array(2))]),
      RangeError,
      'Expected length 3 for states[0].master but received length 2',
    ],
    [
      'a state that is null',
      () => syncMaster([half()], [null as never]),
      TypeError,
      'Expected a state with mean and variance for states[0] but received null',
    ],
  ]);

  it('should change nothing if it throws', () => {
    const master = Float32Array.of(5, 6);
    expectError(
      () => syncMaster([half(), half(3)], [state(master), state(new Float32Array(2))]),
      RangeError,
      'Expected length 3 for states[1].master but received length 2',
    );
    expect([...master]).to.deep.equal([5, 6]);
  });
});
