/** Optimizers by name, and custom optimizers. */
import { expect } from 'chai';
import { AdamW, createOptimizer, Optimizer, type OptimizerOptions, register } from '../lib/index.js';
import { expectSameBits } from './support/bits.js';
import { expectError, itRefuses } from './support/errors.js';
import { copyOf, valuesIn } from './support/memory.js';
import { cloneModel } from './support/model.js';
import { InverseRoot } from './support/schedulers.js';
import { SGD } from './support/sgd.js';
import { gradsOf, start } from './support/small-model.js';
import { DONE } from './support/steps.js';
import { warningsOf } from './support/warnings.js';

describe('The registry', () => {
  it('should create an optimizer by name, ignoring case', () => {
    for (const name of ['adamw', 'AdamW', 'ADAMW']) {
      for (const create of [createOptimizer, Optimizer.createOptimizer]) {
        const optimizer = create(name, { learningRate: 0.25, beta1: 0.5 });
        expect(optimizer).to.be.an.instanceOf(AdamW);
        expect(optimizer).to.include({ learningRate: 0.25, beta1: 0.5 });
        expect(create(name).learningRate).to.equal(0.001);
      }
    }
  });

  it('should register a class under its own name or a given one', () => {
    const warnings = warningsOf(() => {
      class RegisteredOne extends SGD {}
      class RegisteredTwo extends SGD {}
      class RegisteredThree extends SGD {}
      expect(register(RegisteredOne)).to.equal(RegisteredOne);
      expect(Optimizer.register(RegisteredTwo)).to.equal(RegisteredTwo);
      expect(register(RegisteredThree, 'Another-Name')).to.equal(RegisteredThree);
      expect(createOptimizer('registeredone')).to.be.an.instanceOf(RegisteredOne);
      expect(createOptimizer('REGISTEREDTWO')).to.be.an.instanceOf(RegisteredTwo);
      expect(createOptimizer('another-name', { wd: 0.5 }))
        .to.be.an.instanceOf(RegisteredThree)
        .with.property('wd', 0.5);
      expectError(
        () => createOptimizer('RegisteredThree'),
        RangeError,
        /^Expected one of .* for name but received "RegisteredThree"$/,
      );
    });
    expect(warnings).to.deep.equal([]);
  });

  it('should warn if a class takes the name of another', () => {
    class Overridden extends SGD {}
    class Overriding extends SGD {}
    register(Overridden, 'contested');
    expect(warningsOf(() => register(Overridden, 'Contested'))).to.deep.equal([]);
    expect(warningsOf(() => register(Overriding, 'Contested'))).to.deep.equal([
      'New optimizer Overriding is overriding existing optimizer Overridden',
    ]);
    expect(createOptimizer('contested')).to.be.an.instanceOf(Overriding);
  });

  it('should list the known names for an unknown one', () => {
    expectError(
      () => createOptimizer('nobody'),
      RangeError,
      /^Expected one of adamw(, [a-z-]+)* for name but received "nobody"$/,
    );
  });

  itRefuses([
    [
      'a name of the wrong type',
      () => createOptimizer(3 as never),
      TypeError,
      'Expected a name for name but received 3',
    ],
    [
      'options that are null',
      () => createOptimizer('adamw', null as never),
      TypeError,
      'Expected an object for options but received null',
    ],
    [
      'a class that is not an optimizer',
      () => register(class Foreign {} as never),
      TypeError,
      'Expected a subclass of Optimizer for optimizer but received the function Foreign',
    ],
    [
      'undefined instead of a class',
      () => register(undefined as never),
      TypeError,
      'Expected a subclass of Optimizer for optimizer but received undefined',
    ],
    ['an empty name', () => register(SGD, ''), TypeError, 'Expected a name for name but received ""'],
  ]);
});

describe('A custom optimizer', () => {
  function byHand(
    weights: readonly Float32Array[],
    lrs: readonly number[],
    wds: readonly number[],
    rescale: number,
    t: number,
  ) {
    weights.forEach((w, i) => {
      const g = valuesIn(gradsOf[t][i]);
      w.forEach((value, k) => {
        w[k] = value - lrs[i] * (rescale * g[k] + wds[i] * value);
      });
    });
  }

  for (const call of ['step', 'fusedStep', 'update', 'updateMultiPrecision'] as const) {
    it(`should support rates, decays and counts: ${call}()`, () => {
      const options: OptimizerOptions = { learningRate: 0.5, wd: 0.1, rescaleGrad: 0.25, paramIdx2name: { 1: 'bias' } };
      const optimizer = new SGD(options);
      optimizer.setLrMult({ 0: 2 });
      optimizer.setWdMult({ bias: 0 });
      const { indices, weights } = cloneModel(start);
      const expected = start.weights.map((weight) => copyOf(weight) as Float32Array);
      const states = weights.map(() => optimizer.createState());
      for (let t = 0; t < 3; t++) {
        expect(optimizer[call](indices, weights, gradsOf[t], states)).to.deep.equal(DONE);
        byHand(expected, [1, 0.5, 0.5], [0.1, 0, 0.1], 0.25, t);
      }
      weights.forEach((weight, i) => {
        expectSameBits(valuesIn(weight), expected[i], `weights[${i}]`);
      });
      expect(optimizer.numUpdate).to.equal(3);
      expect(optimizer.updateCount(2)).to.equal(3);
    });
  }

  it('should follow a scheduler', () => {
    const lrScheduler = new InverseRoot({ baseLr: 0.5, warmupSteps: 2 });
    const optimizer = new SGD({ lrScheduler });
    const { weights } = cloneModel(start);
    const expected = start.weights.map((weight) => copyOf(weight) as Float32Array);
    for (let t = 0; t < 4; t++) {
      optimizer.step([0, 1, 2], weights, gradsOf[t], [null, null, null]);
      const rate = lrScheduler.learningRateAt(t + 1);
      byHand(expected, [rate, rate, rate], [0, 0, 0], 1, t);
      expect(optimizer.learningRate).to.equal(rate);
    }
    weights.forEach((weight, i) => {
      expectSameBits(valuesIn(weight), expected[i], `weights[${i}]`);
    });
  });

  it('should default to single steps', () => {
    expect(new SGD().useFusedStep).to.equal(false);
    expect(new AdamW().useFusedStep).to.equal(true);
  });
});
