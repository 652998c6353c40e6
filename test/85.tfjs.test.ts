/** AdamW as an optimizer of tf.js. */
import { createRequire } from 'node:module';
import * as layers from '@tensorflow/tfjs-layers';
import { expect } from 'chai';
import * as imported from 'fused-adamw/tfjs';
import { AdamWOptimizer, type AdamWOptimizerOptions, adamw } from '../adapters/tfjs.js';
import { AdamW, CosineScheduler } from '../lib/index.js';
import { expectSameBits } from './support/bits.js';
import { reportOf } from './support/child.js';
import { type ErrorClass, expectError, itRefuses } from './support/errors.js';
import { TF_BACKENDS, tf, useBackend } from './support/tensorflow.js';
import { warningsOf } from './support/warnings.js';

const TORCH = { rule: 'pytorch', wd: 0, epsilon: 1e-7, learningRate: 0.01 } as const;

/** Numbers that repeat from run to run. */
function numbers(length: number, seed: number): Float32Array {
  return Float32Array.from({ length }, (_, i) => Math.sin((i + 1) * 12.9898 + seed * 78.233));
}

function makeModel(names: readonly string[] = ['first', 'second']): layers.Sequential {
  const model = layers.sequential();
  model.add(layers.layers.dense({ units: 8, activation: 'tanh', inputShape: [4], name: names[0] }));
  model.add(layers.layers.dense({ units: 1, name: names[1] }));
  const initial = [numbers(32, 1), numbers(8, 2), numbers(8, 3), numbers(1, 4)];
  tf.tidy(() => {
    model.setWeights(model.getWeights().map((weight, i) => tf.tensor(initial[i], weight.shape)));
  });
  return model;
}

const valuesOf = (of: tf.Tensor): Float32Array => of.dataSync<'float32'>();

/** The weights of a model or a layer as bits. */
function bitsOf(model: Pick<layers.LayersModel, 'getWeights'>): Uint32Array[] {
  return model.getWeights().map((weight) => new Uint32Array(valuesOf(weight).slice().buffer));
}

/** The losses of a number of steps on the same batch. */
async function losses(model: layers.LayersModel, steps: number): Promise<number[]> {
  const inputs = tf.tensor2d(numbers(64, 5), [16, 4]);
  const targets = tf.tensor2d(numbers(16, 6), [16, 1]);
  const result: number[] = [];
  for (let step = 0; step < steps; step++) result.push((await model.trainOnBatch(inputs, targets)) as number);
  tf.dispose([inputs, targets]);
  return result;
}

function compile(model: layers.LayersModel, optimizer: tf.Optimizer): void {
  model.compile({ optimizer, loss: 'meanSquaredError' });
}

async function rejectionOf(promise: Promise<unknown>): Promise<() => never> {
  try {
    await promise;
  } catch (error) {
    return () => {
      throw error;
    };
  }
  return expect.fail('nothing was thrown');
}

describe('AdamW of tf.js', () => {
  it('should be one class for require() and import', async () => {
    const required: typeof imported = createRequire(import.meta.url)('fused-adamw/tfjs');
    expect(required.AdamWOptimizer).to.equal(imported.AdamWOptimizer).and.to.equal(AdamWOptimizer);
    expect(required.adamw).to.equal(imported.adamw);
  });

  it('should not be loaded by the package itself', () => {
    const source = `
      import { createRequire } from 'node:module';
      await import(libraryUrl);
      const files = Object.keys(createRequire(libraryUrl).cache);
      report([files.length > 5, files.filter((file) => file.includes('tensorflow'))]);`;
    expect(reportOf(source)).to.deep.equal([true, []]);
  });

  for (const name of TF_BACKENDS) {
    describe(`on the ${name} backend`, () => {
      const owned: { dispose(): void }[] = [];
      let tensors: number;

      function keep<T extends { dispose(): void }>(disposable: T): T {
        owned.push(disposable);
        return disposable;
      }

      function variable(values: readonly number[] | Float32Array, shape?: number[], dtype?: 'int32'): tf.Variable {
        const initial = tf.tensor(values, shape, dtype);
        const made = keep(tf.variable(initial));
        initial.dispose();
        return made;
      }

      const make = (options?: AdamWOptimizerOptions): AdamWOptimizer => keep(adamw(options));

      function apply(optimizer: AdamWOptimizer, gradients: Readonly<Record<string, Float32Array>>): void {
        const named = Object.fromEntries(Object.entries(gradients).map(([key, values]) => [key, tf.tensor1d(values)]));
        try {
          optimizer.applyGradients(named);
        } finally {
          tf.dispose(named);
        }
      }

      before(() => useBackend(name));

      beforeEach(() => {
        tensors = tf.memory().numTensors;
      });

      afterEach(() => {
        for (const each of owned.splice(0).reverse()) each.dispose();
        expect(tf.memory().numTensors, 'tensors left').to.equal(tensors);
      });

      it('should have the losses of tf.train.adam with rule pytorch and no decay, to 1e-4 of them', async () => {
        const ours = keep(makeModel());
        const theirs = keep(makeModel());
        compile(ours, make(TORCH));
        compile(theirs, keep(tf.train.adam(0.01, 0.9, 0.999, 1e-7)));
        // tf.js computes 1 - beta2 ** t in float32, which is 1.3e-5 off at the first step.
        const [actual, expected] = [await losses(ours, 100), await losses(theirs, 100)];
        expect(expected[99]).to.be.lessThan(expected[0] / 2);
        actual.forEach((loss, i) => void expect(Math.abs(loss - expected[i])).to.be.at.most(1e-4 * expected[i]));
      });

      it('should have the weights of torch.optim.AdamW in double precision, to 2e-6', () => {
        const optimizer = make({ rule: 'pytorch', learningRate: 0.01, wd: 0.1 });
        const weight = variable([0.5, -1, 2, 0]);
        let expected = [0.5, -1, 2, 0];
        const [means, variances] = [expected.map(() => 0), expected.map(() => 0)];
        for (let t = 1; t <= 50; t++) {
          const gradient = numbers(4, t);
          apply(optimizer, { [weight.name]: gradient });
          expected = expected.map((value, i) => {
            means[i] = 0.9 * means[i] + 0.1 * gradient[i];
            variances[i] = 0.999 * variances[i] + 0.001 * gradient[i] ** 2;
            const root = Math.sqrt(variances[i] / (1 - 0.999 ** t)) + 1e-8;
            return value * (1 - 0.01 * 0.1) - (0.01 * (means[i] / (1 - 0.9 ** t))) / root;
          });
        }
        weight.dataSync().forEach((value, i) => void expect(value).to.be.closeTo(expected[i], 2e-6));
        expect(optimizer.iterations).to.equal(50);
      });

      it('should have the bits of AdamW itself', () => {
        const options = { learningRate: 0.01, wd: 0.1, clipGradient: 0.5 };
        const optimizer = make(options);
        const weights = [numbers(7, 1), numbers(70_000, 2)];
        const variables = weights.map((values) => variable(values.slice()));
        const reference = new AdamW(options);
        const states = weights.map((weight, i) => reference.createState(i, weight));
        for (let step = 0; step < 3; step++) {
          const gradients = weights.map(({ length }, i) => numbers(length, step + i));
          reference.update([0, 1], weights, gradients, states);
          apply(optimizer, Object.fromEntries(variables.map((each, i) => [each.name, gradients[i]])));
        }
        variables.forEach((each, i) => void expectSameBits(valuesOf(each), weights[i], each.name));
      });

      it(`should ${name === 'cpu' ? 'update in place' : 'write weights back'}`, () => {
        const optimizer = make();
        const weight = variable(numbers(6, 1), [2, 3]);
        apply(optimizer, { [weight.name]: numbers(6, 2) });
        const first = weight.dataSync();
        const copy = first.slice();
        apply(optimizer, { [weight.name]: numbers(6, 3) });
        expect(weight.dataSync() === first).to.equal(name === 'cpu');
        expect([...weight.dataSync()]).not.to.deep.equal([...copy]);
        expect(weight.shape).to.deep.equal([2, 3]);
      });

      it('should leave tensors alone that share the data of a variable', () => {
        const optimizer = make();
        const initial = keep(tf.tensor1d([1, 2, 3]));
        const weight = keep(tf.variable(initial));
        apply(optimizer, { [weight.name]: numbers(3, 1) });
        expect([...initial.dataSync()]).to.deep.equal([1, 2, 3]);
        for (let step = 0; step < 3; step++) {
          const shared = keep(weight.clone());
          const values = [...weight.dataSync()];
          apply(optimizer, { [weight.name]: numbers(3, step) });
          expect([...shared.dataSync()]).to.deep.equal(values);
          expect([...weight.dataSync()]).not.to.deep.equal(values);
        }
      });

      it('should go on from values that were assigned', () => {
        const optimizer = make({ learningRate: 0.001 });
        const weight = variable([1, 2, 3]);
        apply(optimizer, { [weight.name]: numbers(3, 1) });
        const assigned = tf.tensor1d([10, 20, 30]);
        weight.assign(assigned);
        apply(optimizer, { [weight.name]: numbers(3, 1) });
        expect([...assigned.dataSync()]).to.deep.equal([10, 20, 30]);
        assigned.dispose();
        [10, 20, 30].forEach((value, i) => void expect(weight.dataSync()[i]).to.be.closeTo(value, 0.01));
      });

      it('should have the same bits when the backend changes in between', async () => {
        const other = name === 'cpu' ? 'wasm' : 'cpu';
        const weights = [variable(numbers(5, 1)), variable(numbers(5, 1))];
        const optimizers = [make(), make()];
        for (const [i, weight] of weights.entries()) {
          for (let step = 0; step < 6; step++) {
            if (i === 1) await useBackend(step % 2 === 0 ? other : name);
            const doubled = tf.mul(weight, 2); // moves the data of the variable
            apply(optimizers[i], { [weight.name]: doubled.dataSync<'float32'>().slice() });
            doubled.dispose();
          }
        }
        await useBackend(name);
        expectSameBits(valuesOf(weights[1]), valuesOf(weights[0]), 'weight');
      });

      it('should minimize', () => {
        const optimizer = make({ learningRate: 0.1 });
        const weight = variable([5]);
        for (let step = 0; step < 200; step++)
          optimizer.minimize(() => tf.sum(tf.square(tf.sub(weight, 3))), false, [weight]);
        expect(weight.dataSync()[0]).to.be.closeTo(3, 0.05);
      });

      it('should take scalars and empty variables, inside tidy()', () => {
        const optimizer = make({ learningRate: 0.1 });
        const [scalar, empty] = [variable([5], []), variable([], [0, 3])];
        const cost = (): tf.Scalar => tf.add(tf.square(scalar), tf.sum(empty));
        for (let step = 0; step < 2; step++) tf.tidy(() => void optimizer.minimize(cost, false, [scalar, empty]));
        optimizer.applyGradients({});
        expect(scalar.dataSync()[0]).to.be.lessThan(5);
        expect([scalar.shape, empty.shape]).to.deep.equal([[], [0, 3]]);
        expect(optimizer.iterations).to.equal(3);
      });

      it('should leave a frozen layer alone, and count its updates from when it is not', async () => {
        const model = keep(makeModel());
        const optimizer = make({ wd: 0.1 });
        model.layers[0].trainable = false;
        compile(model, optimizer);
        const [first, second] = model.layers.map(bitsOf);
        await losses(model, 2);
        expect(bitsOf(model.layers[0])).to.deep.equal(first);
        expect(bitsOf(model.layers[1])).not.to.deep.equal(second);
        model.layers[0].trainable = true;
        compile(model, optimizer);
        await losses(model, 1);
        const names = model.weights.map((weight) => weight.name);
        expect(names.map((each) => optimizer.adamw.updateCount(each))).to.deep.equal([1, 1, 3, 3]);
      });

      it('should have one state for a variable that two models use', async () => {
        const shared = layers.layers.dense({ units: 4, name: 'shared' });
        const models = ['one', 'two'].map((head) => {
          const input = layers.input({ shape: [4] });
          const output = layers.layers.dense({ units: 1, name: head }).apply(shared.apply(input));
          return layers.model({ inputs: input, outputs: output as layers.SymbolicTensor });
        });
        const optimizer = make();
        for (const model of models) compile(model, optimizer);
        for (let step = 0; step < 3; step++) for (const model of models) await losses(model, 1);
        const countsOf = (layer: string): number[] =>
          models[1].getLayer(layer).weights.map((weight) => optimizer.adamw.updateCount(weight.name));
        expect([countsOf('shared'), countsOf('two')]).to.deep.equal([
          [6, 6],
          [3, 3],
        ]);
        for (const model of models) keep(model);
      });

      it('should not need more tensors at later steps', async () => {
        const model = keep(makeModel());
        compile(model, make());
        await losses(model, 1);
        const { numTensors, numBytes } = tf.memory();
        await losses(model, 3);
        expect(tf.memory()).to.include({ numTensors, numBytes });
      });

      it('should take lists, and leave alone what has no gradient', () => {
        const optimizer = make();
        const [one, other] = [variable([1, 2]), variable([3, 4])];
        const gradient = tf.tensor1d([1, 1]);
        optimizer.applyGradients([
          { name: one.name, tensor: gradient },
          { name: other.name, tensor: undefined as unknown as tf.Tensor },
        ]);
        gradient.dispose();
        expect([...other.dataSync()]).to.deep.equal([3, 4]);
        expect(one.dataSync()[0]).to.be.lessThan(1);
      });

      it('should not decay what is excluded by name', () => {
        const optimizer = make({ wd: 0.5, learningRate: 0.1, excludeFromWeightDecay: ['(a', /norm$/i] });
        const names = ['layer(a)', 'block/NORM', 'layer/kernel'];
        const variables = names.map((each) => keep(tf.tidy(() => tf.variable(tf.tensor1d([1]), true, each))));
        apply(optimizer, Object.fromEntries(names.map((each) => [each, new Float32Array(1)])));
        const [a, norm, kernel] = variables.map((each) => each.dataSync()[0]);
        expect([a, norm]).to.deep.equal([1, 1]);
        expect(kernel).to.be.lessThan(1);
      });

      it('should tell a pattern that matches nothing', () => {
        const weight = variable([1]);
        const warnings = warningsOf(() => {
          const optimizer = make({ excludeFromWeightDecay: ['no such', weight.name] });
          for (let step = 0; step < 3; step++) apply(optimizer, { [weight.name]: numbers(1, 1) });
        });
        expect(warnings).to.deep.equal([
          'wdMult has an entry for /no such/, but no parameter of that index or name was updated',
        ]);
      });

      it('should follow a scheduler, or a learning rate that is assigned', () => {
        const weight = variable([1]);
        const scheduled = make({ lrScheduler: new CosineScheduler({ baseLr: 0.1, maxUpdate: 2 }) });
        for (let step = 0; step < 2; step++) apply(scheduled, { [weight.name]: numbers(1, 1) });
        expect(scheduled.learningRate).to.equal(0);
        const values = [...weight.dataSync()];
        const assigned = make();
        assigned.learningRate = 0;
        apply(assigned, { [weight.name]: numbers(1, 1) });
        expect([...weight.dataSync()]).to.deep.equal(values);
        expectError(
          () => scheduled.getConfig(),
          Error,
          'Expected no lrScheduler for getConfig but received one: a scheduler cannot be written down',
        );
      });

      it('should give weights from which another optimizer goes on with the same bits', async () => {
        const [whole, resumed] = [variable(numbers(5, 1)), variable(numbers(5, 1))];
        const [first, second, third] = [make({ wd: 0.1 }), make({ wd: 0.1 }), make({ wd: 0.1 })];
        const step = (optimizer: AdamWOptimizer, weight: tf.Variable, seed: number): void =>
          apply(optimizer, { [weight.name]: numbers(5, seed) });
        for (let i = 0; i < 6; i++) step(first, whole, i);
        for (let i = 0; i < 3; i++) step(second, resumed, i);
        const saved = await second.getWeights();
        expect(saved.map((each) => each.name)).to.deep.equal([
          'iter',
          ...['count', 'mean', 'variance'].map((part) => `${resumed.name}/${part}`),
        ]);
        await third.setWeights(saved);
        expect(third.iterations).to.equal(3);
        for (let i = 3; i < 6; i++) step(third, resumed, i);
        expectSameBits(valuesOf(resumed), valuesOf(whole), 'weight');
        expect(await second.getWeights()).to.deep.equal(saved); // the same tensors
      });

      it('should be saved and loaded with a model, and go on with the same bits', async () => {
        const model = keep(makeModel());
        const optimizer = make({
          ...TORCH,
          wd: 0.1,
          clipGradient: 1,
          excludeFromWeightDecay: ['bias', /FIRST\/(kernel|some_Name)/i],
        });
        compile(model, optimizer);
        await losses(model, 3);
        let artifacts: tf.io.ModelArtifacts | undefined;
        const handler = tf.io.withSaveHandler(async (given) => {
          artifacts = given;
          return { modelArtifactsInfo: { dateSaved: new Date(0), modelTopologyType: 'JSON' } };
        });
        await model.save(handler, { includeOptimizer: true });
        const loaded = keep(await layers.loadLayersModel(tf.io.fromMemory(artifacts as tf.io.ModelArtifacts)));
        const loadedOptimizer = keep(loaded.optimizer as AdamWOptimizer);
        expect(loadedOptimizer.getConfig()).to.deep.equal(optimizer.getConfig());
        expect(await losses(loaded, 3)).to.deep.equal(await losses(model, 3));
        expect(bitsOf(loaded)).to.deep.equal(bitsOf(model));
      });

      it('should not take moments of other variables', async () => {
        const [one, other] = [variable([1, 2]), variable([1, 2, 3])];
        const [saved, optimizer] = [make(), make()];
        apply(saved, { [one.name]: numbers(2, 1) });
        await optimizer.setWeights(await saved.getWeights());
        expectError(
          () => apply(optimizer, { [other.name]: numbers(3, 1) }),
          RangeError,
          `Expected the variables whose moments were loaded (${one.name}) for variableGradients but received ${other.name}`,
        );
      });

      it('should refuse weights of another optimizer', async () => {
        const weight = variable([1]);
        const adam = keep<tf.Optimizer>(tf.train.adam(0.1));
        const gradient = keep(tf.tensor1d([1]));
        adam.applyGradients({ [weight.name]: gradient });
        const weights = await adam.getWeights();
        keep(weights[0].tensor);
        expectError(
          await rejectionOf(make().setWeights(weights)),
          RangeError,
          `Expected ${weight.name}/m/count for weightValues[1] but received "${weight.name}/m"`,
        );
        expectError(
          await rejectionOf(make().setWeights(weights.slice(1))),
          RangeError,
          `Expected iter, as getWeights() gives it, for weightValues[0] but received "${weight.name}/m"`,
        );
      });

      it('should refuse variables that it cannot update, and change nothing', () => {
        const whole = variable([1, 2], [2], 'int32');
        const weight = variable([1, 2]);
        const optimizer = make();
        const rows: [name: string, length: number, kind: ErrorClass, message: string][] = [
          [whole.name, 2, TypeError, `Expected float32 for ${whole.name} but received int32`],
          ['nobody', 2, RangeError, 'Expected the name of a variable for variableGradients but received "nobody"'],
          [weight.name, 3, RangeError, 'Expected length 2 for grads[0] but received length 3'],
        ];
        for (const [of, length, kind, message] of rows) {
          expect(() => apply(optimizer, { [of]: numbers(length, 1) })).to.throw(kind, message);
        }
        expect([...weight.dataSync(), optimizer.iterations]).to.deep.equal([1, 2, 0]);
      });

      it('should refuse everything once it was disposed of', async () => {
        const optimizer = adamw();
        optimizer.dispose();
        const message = 'Expected a live optimizer for this but received one that was disposed of';
        expectError(() => optimizer.applyGradients({}), RangeError, message);
        expectError(await rejectionOf(optimizer.getWeights()), RangeError, message);
        expectError(await rejectionOf(optimizer.setWeights([])), RangeError, message);
      });
    });
  }

  itRefuses([
    [
      'an unknown option',
      () => adamw({ weightDecay: 0.1 } as never),
      TypeError,
      'Expected a known option for options but received "weightDecay"; did you mean wd?',
    ],
    [
      'an option of no use here',
      () => adamw({ multiPrecision: true } as never),
      TypeError,
      'Expected a known option for options but received "multiPrecision"; known are learningRate, lrScheduler, beta1, beta2, epsilon, wd, correctBias, rule, coupledWeightDecay, clipGradient, rescaleGrad, useFusedStep, excludeFromWeightDecay',
    ],
    ['a beta of 1', () => adamw({ beta1: 1 }), RangeError, 'Expected a number in [0, 1) for beta1 but received 1'],
    [
      'a pattern that is no list',
      () => adamw({ excludeFromWeightDecay: 'bias' } as never),
      TypeError,
      'Expected a list for excludeFromWeightDecay but received "bias"',
    ],
    [
      'a pattern that is no string',
      () => adamw({ excludeFromWeightDecay: [1] } as never),
      TypeError,
      'Expected a part of a name or a RegExp for excludeFromWeightDecay[0] but received 1',
    ],
  ]);
});
