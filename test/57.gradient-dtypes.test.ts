import { expect } from 'chai';
import { AdamW, type DType, Tensor, type TensorLike } from '../lib/index.js';
import { expectSameBits } from './support/bits.js';
import { environments, inEnvironment } from './support/environments.js';
import { expectError } from './support/errors.js';
import { OddMemory, type Place, tensorOf, valuesIn } from './support/memory.js';
import { cloneModel, type DTypeConfig, expectSameModel, makeModel } from './support/model.js';
import { randomFrom, randomGrads } from './support/random.js';
import { quietly } from './support/warnings.js';

const LENGTHS = [1, 255, 256, 257, 5000, 70001];

/** Gradients of a dtype. */
function gradsOf(dtype: DType, place: Place, seed: number): TensorLike[] {
  const random = randomFrom(seed);
  return LENGTHS.map((length) => {
    const grad = place(dtype, length);
    tensorOf(grad).set(randomGrads(random, length));
    return grad;
  });
}

/** The same values in another dtype, which holds all of them. */
function converted(grads: readonly TensorLike[], dtype: DType): Tensor[] {
  return grads.map((grad) => Tensor.zeros(tensorOf(grad).length, { dtype }).set(tensorOf(grad).toArray()));
}

/** Configurations whose gradients have another dtype than the weights, beside those of the same arithmetic where they do not. */
const ROWS: readonly (readonly [mixed: DTypeConfig, grad: DType, same: DTypeConfig, sameGrad: DType])[] = [
  ['float32, float16 gradients', 'float16', 'float32', 'float32'],
  ['float32, bfloat16 gradients', 'bfloat16', 'float32', 'float32'],
];
const HALVES: readonly (readonly [mixed: DTypeConfig, same: DTypeConfig, half: DType])[] = [
  ['float16+float32 states, float32 gradients', 'float16+float32 states', 'float16'],
  ['float16+master, float32 gradients', 'float16+master', 'float16'],
  ['bfloat16+float32 states, float32 gradients', 'bfloat16+float32 states', 'bfloat16'],
  ['bfloat16+master, float32 gradients', 'bfloat16+master', 'bfloat16'],
];

describe('Gradients of another dtype than the weights', () => {
  for (const environment of environments({ threads: true })) {
    it(`should be taken as the values that they are: ${environment.name}`, () => {
      inEnvironment(environment, () => {
        for (const useFusedStep of [true, false]) {
          const update = (config: DTypeConfig, grads: readonly TensorLike[]) => {
            const model = makeModel(
              LENGTHS.map((length) => [config, length]),
              randomFrom(1),
              memory.place,
            );
            const optimizer = new AdamW({ learningRate: 0.01, wd: 0.1, clipGradient: 5, useFusedStep });
            for (let t = 0; t < 2; t++) {
              quietly(() => optimizer.update(model.indices, model.weights, grads, model.states));
            }
            return model;
          };
          const memory = new OddMemory();
          for (const [mixed, dtype, same, sameDType] of ROWS) {
            const grads = gradsOf(dtype, memory.place, 2);
            expectSameModel(update(mixed, grads), update(same, converted(grads, sameDType)), mixed);
          }
          for (const [mixed, same, half] of HALVES) {
            const grads = gradsOf(half, memory.place, 3);
            expectSameModel(update(mixed, converted(grads, 'float32')), update(same, grads), mixed);
          }
          memory.expectIntact();
        }
      });
    });

    it(`should not be rounded to the weight's dtype first: ${environment.name}`, () => {
      inEnvironment(environment, () => {
        const grad = Float32Array.of(1 + 2 ** -20);
        const weight = Tensor.zeros(1, { dtype: 'float16' });
        const optimizer = new AdamW({ multiPrecision: true, beta1: 0 });
        const state = optimizer.createState(0, weight);
        optimizer.update(0, weight, grad, state);
        expectSameBits(valuesIn(state.mean), grad, 'mean');
      });
    });
  }

  it('may change from call to call of a step over the same lists', () => {
    const model = makeModel([['float32', 100]], randomFrom(1));
    const byHand = cloneModel(model);
    const half = Tensor.zeros(100, { dtype: 'bfloat16' }).set(randomGrads(randomFrom(2), 100));
    const optimizer = new AdamW();
    const other = new AdamW();
    for (const grad of [half, Float32Array.from(half.toArray()), half]) {
      optimizer.update(model.indices, model.weights, [grad], model.states);
      other.update(byHand.indices, byHand.weights, [Float32Array.from(half.toArray())], byHand.states);
    }
    expectSameModel(model, byHand, 'three steps');
    expect(optimizer.numUpdate).to.equal(3);
  });

  it('should stay as they were bound in a bound step', () => {
    const model = makeModel([['float32, float16 gradients', 3]], randomFrom(1));
    const grad = Tensor.zeros(3, { dtype: 'float16' });
    const bound = new AdamW().bind(model.indices, model.weights, [grad], model.states);
    expectError(
      () => bound.setGrads([new Float32Array(3)]),
      TypeError,
      'Expected float16 for grads[0] but received float32',
    );
    expect(bound.step()).to.deep.equal({ skipped: false });
  });
});
