import { expect } from 'chai';
import { AdamW, type AdamWOptions, Tensor } from '../lib/index.js';
import { valuesIn } from './support/memory.js';
import { arraysOf, type DTypeConfig, expectSameModel, type Model } from './support/model.js';
import { randomFrom, randomGrads, randomWeights } from './support/random.js';
import { quietly } from './support/warnings.js';

/** MXNet's own grid for AdamW (tests/python/unittest/test_optimizer.py). */
const SHAPES = [[3, 4, 5], [10, 4], [7]];
const BETA1: readonly AdamWOptions[] = [{}, { beta1: 0.5 }, { beta1: 0.7 }];
const BETA2: readonly AdamWOptions[] = [{}, { beta2: 0.8 }, { beta2: 0.9 }];
const CLIP: readonly AdamWOptions[] = [{}, { clipGradient: 0.4 }, { clipGradient: 0.5 }];
const RESCALE: readonly AdamWOptions[] = [{}, { rescaleGrad: 0.14 }, { rescaleGrad: 0.8 }];
const DECAY: readonly AdamWOptions[] = [{}, { wd: 0.03 }, { wd: 0.05 }, { wd: 0.07 }];
const AGGREGATE = [0, 1, 4, Infinity];
const STEPS = 2;

function product(...axes: readonly (readonly AdamWOptions[])[]): AdamWOptions[] {
  return axes.reduce<AdamWOptions[]>(
    (points, axis) => points.flatMap((point) => axis.map((more) => ({ ...point, ...more }))),
    [{}],
  );
}

type Sized = readonly { readonly shape: number[]; readonly values: Float64Array }[];

function draw(from: (random: () => number, length: number) => Float64Array, random: () => number): Sized {
  return SHAPES.map((shape) => ({
    shape,
    values: from(
      random,
      shape.reduce((a, b) => a * b),
    ),
  }));
}

function tensors(of: Sized, dtype: 'float16' | 'float32'): Tensor[] {
  return of.map(({ shape, values }) => Tensor.zeros(shape, { dtype }).set(values));
}

const random = randomFrom(21);
const weights = draw(randomWeights, random);
const grads = Array.from({ length: STEPS }, () => draw(randomGrads, random));

/** A few steps of a new optimizer from the same weights. */
function train(options: AdamWOptions, dtype: 'float16' | 'float32', gradsOfSteps: readonly Tensor[][]): Model {
  const optimizer = new AdamW(options);
  const model = {
    indices: SHAPES.map((_, i) => i),
    weights: tensors(weights, dtype),
  };
  const states = quietly(() => model.weights.map((weight, i) => optimizer.createState(i, weight)));
  for (const stepGrads of gradsOfSteps) {
    const result = quietly(() => optimizer.update(model.indices, model.weights, stepGrads, states));
    expect(result).to.deep.equal({ skipped: false });
  }
  return { ...model, states };
}

describe("MXNet's grid of options", () => {
  const grid = product(BETA1, BETA2, CLIP, RESCALE, DECAY);
  const configs: readonly { config: DTypeConfig; dtype: 'float16' | 'float32'; multiPrecision: boolean }[] = [
    { config: 'float32', dtype: 'float32', multiPrecision: false },
    { config: 'float32', dtype: 'float32', multiPrecision: true },
    { config: 'float16', dtype: 'float16', multiPrecision: false },
    { config: 'float16+master', dtype: 'float16', multiPrecision: true },
  ];

  it('should have 324 points', () => {
    expect(grid.length).to.equal(324);
    expect(new Set(grid.map((point) => JSON.stringify(point))).size).to.equal(324);
  });

  for (const { config, dtype, multiPrecision } of configs) {
    for (const correctBias of [true, false]) {
      const title = `should give the same bits fused and per tensor: ${config}, multiPrecision: ${multiPrecision}, correctBias: ${correctBias}`;

      it(title, () => {
        const gradsOfSteps = grads.map((step) => tensors(step, dtype));
        const results = new Set<string>();
        for (const point of grid) {
          const options = { ...point, multiPrecision, correctBias };
          const single = train({ ...options, useFusedStep: false }, dtype, gradsOfSteps);
          const arrays = arraysOf(single).map(([, array]) => valuesIn(array).join());
          expect(arrays.length).to.equal(SHAPES.length * (config === 'float16+master' ? 4 : 3));
          results.add(arrays.join());
          for (const aggregateNum of AGGREGATE) {
            const fused = train({ ...options, aggregateNum, useFusedStep: true }, dtype, gradsOfSteps);
            expectSameModel(fused, single, `${JSON.stringify(options)}, aggregateNum ${aggregateNum}`);
          }
        }
        // Every option changes the result, except that so little decay may not change float16 weights.
        expect(results.size).to.be.at.least(config === 'float16' ? grid.length / DECAY.length : grid.length);
      });
    }
  }
});
