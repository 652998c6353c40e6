import { expect } from 'chai';
import { AdamW, type AdamWOptions, type TensorLike } from '../lib/index.js';
import { expectSameBits } from './support/bits.js';
import { environments, inEnvironment } from './support/environments.js';
import { expectError } from './support/errors.js';
import { decode, readFixture } from './support/fixtures.js';
import { tensorOf, valuesIn } from './support/memory.js';
import { cloneArrays, cloneModel, DTYPE_CONFIGS, expectSameModel, makeGrads, makeModel } from './support/model.js';
import { randomFrom } from './support/random.js';
import { quietly } from './support/warnings.js';

const LENGTHS = [1, 257, 5000];

/** The gradients that PyTorch's `maximize` computes with. */
function negated(grads: readonly TensorLike[]): TensorLike[] {
  return cloneArrays(grads).map((grad) => {
    const tensor = tensorOf(grad);
    tensor.set(tensor.toArray().map((value) => -value));
    return grad;
  });
}

const RULES: readonly AdamWOptions[] = [
  { rule: 'mxnet', wd: 0.1 },
  { rule: 'mxnet', wd: 0.1, correctBias: false, coupledWeightDecay: true },
  { rule: 'pytorch', wd: 0.1 },
];

describe('maximize', () => {
  for (const environment of environments({ threads: true })) {
    it(`should be a step with negated gradients, for every rule and configuration: ${environment.name}`, () => {
      inEnvironment(environment, () => {
        for (const rule of RULES) {
          const options = { ...rule, learningRate: 0.01, clipGradient: 0.5, rescaleGrad: 0.75 };
          const random = randomFrom(1);
          const model = makeModel(
            DTYPE_CONFIGS.flatMap((config) => LENGTHS.map((length) => [config, length] as const)),
            random,
          );
          const byHand = cloneModel(model);
          const optimizer = new AdamW({ ...options, maximize: true });
          const other = new AdamW(options);
          quietly(() => {
            for (let t = 0; t < 3; t++) {
              const grads = makeGrads(model, random);
              optimizer.update(model.indices, model.weights, grads, model.states);
              other.update(byHand.indices, byHand.weights, negated(grads), byHand.states);
            }
          });
          expectSameModel(model, byHand, JSON.stringify(rule));
        }
      });
    });
  }

  it("should walk PyTorch's recorded steps backwards from negated gradients", () => {
    for (const test of readFixture('pytorch-adamw').optimizer) {
      const dtype = test.dtype === 'float64' ? 'float64' : 'float32';
      const run = (maximize: boolean) => {
        const model = { weights: test.initial.map((text) => decode(text, dtype)) };
        const optimizer = new AdamW({ ...test.options, rule: 'pytorch', maximize });
        const indices = model.weights.map((_, i) => i);
        const states = model.weights.map((weight, i) => optimizer.createState(i, weight as TensorLike));
        for (const { grads } of test.steps) {
          const arrays = grads.map((text) => decode(text, dtype) as TensorLike);
          optimizer.update(indices, model.weights as TensorLike[], maximize ? negated(arrays) : arrays, states);
        }
        return [...model.weights, ...states.map(({ mean }) => valuesIn(mean))];
      };
      const expected = run(false);
      for (const [i, values] of run(true).entries()) expectSameBits(values, expected[i], `${test.name}, ${i}`);
    }
  });

  it('should climb', () => {
    const weight = Float32Array.of(1);
    const optimizer = new AdamW({ maximize: true, learningRate: 0.5 });
    const state = optimizer.createState(0, weight);
    optimizer.update(0, weight, Float32Array.of(3), state);
    expect(weight[0]).to.be.closeTo(1.5, 1e-5);
    expect(optimizer.maximize).to.equal(true);
    expect(new AdamW().maximize).to.equal(false);
  });

  it('should leave the norm of the gradients as it is', () => {
    const weight = new Float32Array(2);
    const optimizer = new AdamW({ maximize: true, maxGradNorm: 1 });
    const state = optimizer.createState(0, weight);
    expect(optimizer.update(0, weight, Float32Array.of(3, 4), state)).to.deep.equal({ skipped: false, gradNorm: 5 });
    expect(valuesIn(state.mean)[0]).to.be.below(0);
  });

  it('should be a boolean of the constructor', () => {
    expectError(
      () => new AdamW({ maximize: 1 as unknown as boolean }),
      TypeError,
      'Expected a boolean for maximize but received 1',
    );
    expectError(
      () => Object.assign(new AdamW(), { maximize: true }),
      TypeError,
      'Expected an option of the constructor for maximize but received an assignment, which cannot change it',
    );
  });
});
