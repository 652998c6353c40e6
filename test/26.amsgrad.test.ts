import { expect } from 'chai';
import { AdamW, type AdamWOptions, type AdamWState, Tensor, type TensorLike } from '../lib/index.js';
import { expectSameBits } from './support/bits.js';
import { environments, inEnvironment } from './support/environments.js';
import { expectError } from './support/errors.js';
import { tensorOf, valuesIn } from './support/memory.js';
import { cloneArrays, DTYPE_CONFIGS, dtypesOf, makeGrads, makeModel } from './support/model.js';
import { randomFrom } from './support/random.js';
import { quietly } from './support/warnings.js';

const CONFIGS = DTYPE_CONFIGS.filter((config) => dtypesOf(config).hasMaximum);
const LENGTHS = [1, 257, 6000];

const RULES: readonly AdamWOptions[] = [
  { rule: 'mxnet', wd: 0.1 },
  { rule: 'mxnet', wd: 0.1, correctBias: false, coupledWeightDecay: true },
  { rule: 'pytorch', wd: 0.1 },
];

/** The greater of two variances, element by element; a NaN is the greatest. */
function maximumOf(a: TensorLike, b: TensorLike): number[] {
  const others = valuesIn(b);
  return Array.from(valuesIn(a), (value, k) => Math.max(value, others[k]));
}

describe('amsgrad', () => {
  it('should be of six dtype configurations', () => {
    expect(CONFIGS).to.have.lengthOf(6);
  });

  for (const environment of environments({ threads: true })) {
    it(`should keep the greatest variances, and leave moments as they are: ${environment.name}`, () => {
      inEnvironment(environment, () => {
        for (const options of RULES) {
          const specs = CONFIGS.flatMap((config) => LENGTHS.map((length) => [config, length] as const));
          const model = makeModel(specs, randomFrom(1));
          const plain = makeModel(specs, randomFrom(1)).states.map(({ mean, variance }) => ({ mean, variance }));
          const weights = model.weights.map((weight) => tensorOf(weight));
          const optimizer = new AdamW({ ...options, amsgrad: true });
          const other = new AdamW(options);
          const random = randomFrom(2);
          for (let t = 0; t < 4; t++) {
            const grads = makeGrads(model, random);
            // Smaller from step to step, so that variances fall.
            for (const grad of grads)
              tensorOf(grad).set(
                tensorOf(grad)
                  .toArray()
                  .map((g) => g / 10 ** t),
              );
            if (t === 2) tensorOf(grads[0]).set(tensorOf(grads[0]).toArray().fill(NaN));
            const before = cloneArrays(model.states.map(({ maxVariance }) => maxVariance as Tensor));
            // The same weights, which the coupled rule adds to the gradients.
            const copies = cloneArrays(weights);
            const withMasters = plain.map((state, i) => {
              const { master } = model.states[i];
              return master ? { ...state, master: cloneArrays([master])[0] } : state;
            });
            quietly(() => {
              optimizer.update(model.indices, weights, grads, model.states);
              other.update(model.indices, copies, grads, withMasters);
            });
            model.states.forEach(({ mean, variance, maxVariance }, i) => {
              const what = `${JSON.stringify(options)}, step ${t}, tensor ${i}`;
              expectSameBits(valuesIn(mean), valuesIn(plain[i].mean), what);
              expectSameBits(valuesIn(variance), valuesIn(plain[i].variance), what);
              const maximums = tensorOf(maxVariance as Tensor);
              const expected = maximumOf(variance, before[i]);
              expect(Array.from(maximums.toArray()), what).to.deep.equal(expected);
            });
          }
        }
      });
    });

    it(`should divide by the root of the greatest variance: ${environment.name}`, () => {
      inEnvironment(environment, () => {
        for (const options of RULES) {
          const model = makeModel([['float64, amsgrad', 1000]], randomFrom(3));
          const [{ mean, maxVariance }] = model.states;
          tensorOf(maxVariance as Tensor).set(new Float64Array(1000).fill(9)); // greater than any variance
          const before = tensorOf(model.weights[0]).toArray();
          const [learningRate, wd, epsilon] = [0.25, 0.125, 0.5];
          const optimizer = new AdamW({ ...options, correctBias: false, learningRate, wd, epsilon });
          optimizer.update([0], model.weights, makeGrads(model, randomFrom(4)), model.states);
          const m = valuesIn(mean);
          tensorOf(model.weights[0])
            .toArray()
            .forEach((w, k) => {
              const expected = before[k] - learningRate * (m[k] / (3 + epsilon) + wd * before[k]);
              expect(w, JSON.stringify(options)).to.be.closeTo(expected, 1e-12);
            });
        }
      });
    });
  }

  it('should give new states a greatest variance', () => {
    const optimizer = new AdamW({ amsgrad: true, multiPrecision: true });
    expect(optimizer.amsgrad).to.equal(true);
    expect(new AdamW().amsgrad).to.equal(false);
    const half = optimizer.createState(0, Tensor.zeros(3, { dtype: 'bfloat16' }));
    expect([half.maxVariance?.dtype, half.maxVariance?.length, half.master?.dtype]).to.deep.equal([
      'float32',
      3,
      'float32',
    ]);
    expect(optimizer.createState(1, new Float64Array(2)).maxVariance?.dtype).to.equal('float64');
    expect(new AdamW().createState(0, new Float32Array(2))).to.have.all.keys('mean', 'variance');
  });

  it('should use the greatest variance of a state that has one, as a master', () => {
    const run = (amsgrad: boolean): Float32Array => {
      const weight = Float32Array.of(1, 2);
      const state = new AdamW({ amsgrad: true }).createState(0, weight);
      const optimizer = new AdamW({ amsgrad });
      optimizer.update(0, weight, Float32Array.of(3, 4), state);
      optimizer.update(0, weight, Float32Array.of(0.1, 0.1), state);
      return weight;
    };
    expect(run(false)).to.deep.equal(run(true));
  });

  it('should notice a greatest variance that was replaced in its state', () => {
    const weight = new Float32Array(1);
    const optimizer = new AdamW({ amsgrad: true });
    const state: { -readonly [K in keyof AdamWState]: AdamWState[K] } = { ...optimizer.createState(0, weight) };
    const grad = Float32Array.of(1);
    optimizer.update(0, weight, grad, state);
    const first = state.maxVariance as Tensor;
    const value = first.toArray()[0];
    state.maxVariance = new Float32Array(1);
    optimizer.update(0, weight, grad, state);
    expect(first.toArray()[0]).to.equal(value);
    expect((state.maxVariance as Float32Array)[0]).to.be.above(0);
  });

  it('should need a greatest variance in each state', () => {
    const optimizer = new AdamW({ amsgrad: true });
    const weight = Float32Array.of(1);
    const plain = new AdamW().createState(0, weight);
    expectError(
      () => optimizer.update(0, weight, Float32Array.of(1), plain),
      TypeError,
      'Expected a greatest variance (amsgrad) for states[0].maxVariance but received undefined',
    );
    expect([...weight, optimizer.updateCount(0)]).to.deep.equal([1, 0]);
  });

  it('should refuse greatest variances of another dtype or length, and gradients of another dtype', () => {
    const optimizer = new AdamW({ amsgrad: true });
    const weight = Float32Array.of(1);
    const state = optimizer.createState(0, weight);
    const grad = Float32Array.of(1);
    const refuses = (change: Partial<AdamWState>, kind: typeof TypeError | typeof RangeError, message: string): void =>
      expectError(() => optimizer.update(0, weight, grad, { ...state, ...change }), kind, message);
    refuses(
      { maxVariance: new Float64Array(1) },
      TypeError,
      'Expected float32 for states[0].maxVariance but received float64',
    );
    refuses(
      { maxVariance: new Float32Array(2) },
      RangeError,
      'Expected length 1 for states[0].maxVariance but received length 2',
    );
    refuses(
      { maxVariance: state.variance },
      RangeError,
      'Expected memory of its own for states[0].maxVariance but received memory shared with states[0].variance',
    );
    expectError(
      () => optimizer.update(0, weight, Tensor.zeros(1, { dtype: 'float16' }), state),
      TypeError,
      'Expected float32 for grads[0] but received float16',
    );
    expect(optimizer.updateCount(0)).to.equal(0);
  });

  it('should refuse states in half precision', () => {
    for (const [weight, stateDtype] of [
      [Tensor.zeros(1, { dtype: 'bfloat16' }), 'bfloat16'],
      [Tensor.zeros(1, { dtype: 'float16' }), 'float16'],
      [new Float32Array(1), 'bfloat16'],
    ] as const) {
      expectError(
        () => new AdamW({ amsgrad: true, stateDtype }).createState(0, weight),
        RangeError,
        'Expected false beside states in half precision for amsgrad but received true',
      );
      const moments = {
        mean: Tensor.zeros(1, { dtype: stateDtype }),
        variance: Tensor.zeros(1, { dtype: stateDtype }),
      };
      const maxVariance = new Float32Array(1);
      const { dtype } = tensorOf(weight);
      expectError(
        () => quietly(() => new AdamW().update(0, weight, Tensor.zeros(1, { dtype }), { ...moments, maxVariance })),
        TypeError,
        `Expected no greatest variance beside ${stateDtype} states for states[0].maxVariance but received a Float32Array`,
      );
    }
  });
});
