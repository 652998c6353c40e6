import { expect } from 'chai';
import {
  AdamW,
  type AdamWOptions,
  FactorScheduler,
  gradientStats,
  LossScaler,
  type StepOptions,
  Tensor,
  type TensorLike,
} from '../lib/index.js';
import { expectClose, expectSameBits } from './support/bits.js';
import { itUnless, noCuda } from './support/conditions.js';
import { deviceMemory } from './support/cuda.js';
import { environments, inEnvironment } from './support/environments.js';
import { expectError, itRefuses } from './support/errors.js';
import { decode, readScalerFixture, type ScalerCase } from './support/fixtures.js';
import { copyOf, OddMemory, type Place, tensorOf, valuesIn } from './support/memory.js';
import {
  cloneArrays,
  cloneModel,
  DTYPE_CONFIGS,
  expectSameModel,
  type Model,
  makeGrads,
  makeModel,
} from './support/model.js';
import { randomFrom } from './support/random.js';
import { said } from './support/steps.js';
import { quietly } from './support/warnings.js';

const SPECS = DTYPE_CONFIGS.flatMap((config, i) => [
  [config, 37] as const,
  [config, 5000] as const,
  [config, i % 4 === 0 ? 40000 : 300] as const,
]);
const OPTIONS: AdamWOptions = { learningRate: 0.01, wd: 0.1 };

interface Scene {
  readonly model: Model;
  readonly grads: TensorLike[];
}

function makeScene(place = new OddMemory().place): Scene {
  const model = makeModel(SPECS, randomFrom(1), place);
  return { model, grads: makeGrads(model, randomFrom(2), place) };
}

function update(optimizer: AdamW, { model, grads }: Scene, options?: StepOptions) {
  return quietly(() => optimizer.update(model.indices, model.weights, grads, model.states, options));
}

function isZero(array: TensorLike): boolean {
  return valuesIn(array).every((value) => value === 0 && !Object.is(value, -0));
}

/** The norm in double, in any order. */
function normOf(grads: readonly TensorLike[]): number {
  let sum = 0;
  for (const grad of grads) for (const value of tensorOf(grad).toArray()) sum += value * value;
  return Math.sqrt(sum);
}

describe('maxGradNorm', () => {
  for (const environment of environments({ threads: true })) {
    it(`should update by the clipped gradients, which stay as they are: ${environment.name}`, () => {
      inEnvironment(environment, () => {
        for (const useFusedStep of [true, false]) {
          const scene = makeScene();
          const before = scene.grads.map(copyOf);
          const clipped = new AdamW({ ...OPTIONS, useFusedStep, rescaleGrad: -0.5, maxGradNorm: 2 });
          const result = update(clipped, scene);
          const norm = 0.5 * normOf(scene.grads);
          expect(result.gradNorm).to.be.closeTo(norm, 1e-9 * norm);
          scene.grads.forEach((grad, i) => {
            expectSameBits(valuesIn(grad), before[i], `gradient ${i}`);
          });
          const byHand = makeScene();
          const rescaleGrad = -0.5 * (2 / ((result.gradNorm as number) + 1e-6));
          update(new AdamW({ ...OPTIONS, rescaleGrad }), byHand);
          expectSameModel(scene.model, byHand.model, 'clipped');
        }
      });
    });
  }

  it('should leave gradients below it alone, and only measure with Infinity', () => {
    for (const maxGradNorm of [1e9, Infinity]) {
      const [scene, plain] = [makeScene(), makeScene()];
      expect(update(new AdamW({ ...OPTIONS, maxGradNorm }), scene).gradNorm).to.be.closeTo(normOf(plain.grads), 1e-3);
      expect(update(new AdamW(OPTIONS), plain)).to.deep.equal({ skipped: false });
      expectSameModel(scene.model, plain.model, `maxGradNorm ${maxGradNorm}`);
    }
  });

  it('should be replaced by that of a call, with null for none', () => {
    const optimizer = new AdamW({ maxGradNorm: 1 });
    const [weight, grad] = [new Float32Array(2), Float32Array.of(3, 4)];
    const state = optimizer.createState(0, weight);
    expect(optimizer.update(0, weight, grad, state, { maxGradNorm: null })).to.deep.equal({ skipped: false });
    expect(optimizer.update(0, weight, grad, state)).to.deep.equal({ skipped: false, gradNorm: 5 });
    optimizer.maxGradNorm = null;
    expect(optimizer.update(0, weight, grad, state)).to.deep.equal({ skipped: false });
    expect(optimizer.update(0, weight, grad, state, { maxGradNorm: 2 })).to.deep.equal({ skipped: false, gradNorm: 5 });
  });

  for (const environment of environments()) {
    it(`should skip a step whose norm is not finite, counts included: ${environment.name}`, () => {
      inEnvironment(environment, () => {
        for (const value of [NaN, Infinity]) {
          const scene = makeScene();
          tensorOf(scene.grads[4]).set(new Float64Array(tensorOf(scene.grads[4]).length).fill(value));
          const before = cloneModel(scene.model);
          const optimizer = new AdamW({ ...OPTIONS, maxGradNorm: 1 });
          const result = update(optimizer, scene);
          expect(result).to.deep.equal({ skipped: true, reason: 'gradNorm', gradNorm: value });
          expectSameModel(scene.model, before, 'skipped');
          expect(optimizer.numUpdate).to.equal(0);
          tensorOf(scene.grads[4]).set(new Float64Array(tensorOf(scene.grads[4]).length));
          expect(update(optimizer, scene).skipped).to.equal(false);
          expect(optimizer.numUpdate).to.equal(1);
        }
      });
    });

    it(`should skip where the sum of float64 squares overflows: ${environment.name}`, () => {
      inEnvironment(environment, () => {
        const optimizer = new AdamW({ maxGradNorm: 1 });
        const [weight, grad] = [new Float64Array(2), Float64Array.of(1e200, 1)];
        const result = optimizer.update(0, weight, grad, optimizer.createState(0, weight));
        expect(result).to.deep.equal({ skipped: true, reason: 'gradNorm', gradNorm: Infinity });
      });
    });
  }
});

describe('zeroGrads', () => {
  for (const environment of environments({ threads: true })) {
    it(`should clear the gradients of an update, and no others: ${environment.name}`, () => {
      inEnvironment(environment, () => {
        for (const useFusedStep of [true, false]) {
          const memory = new OddMemory();
          const [scene, plain] = [makeScene(memory.place), makeScene()];
          const optimizer = new AdamW({ ...OPTIONS, useFusedStep });
          update(optimizer, scene, { zeroGrads: true });
          update(new AdamW(OPTIONS), plain);
          expectSameModel(scene.model, plain.model, 'updated');
          expect(scene.grads.every(isZero)).to.equal(true);
          memory.expectIntact();
          expect(plain.grads.every(isZero)).to.equal(false);
          // The next step of the same lists keeps what it is not asked to clear.
          scene.grads.forEach((grad, i) => {
            valuesIn(grad).set(valuesIn(plain.grads[i]));
          });
          update(optimizer, scene);
          expect(scene.grads.every(isZero)).to.equal(false);
        }
      });
    });

    it(`should clear the gradients of a skipped step: ${environment.name}`, () => {
      inEnvironment(environment, () => {
        for (const options of [{ rescaleGrad: NaN }, { maxGradNorm: 1 }]) {
          const scene = makeScene();
          valuesIn(scene.grads[0])[0] = NaN;
          const before = cloneModel(scene.model);
          expect(update(new AdamW(options), scene, { zeroGrads: true }).skipped).to.equal(true);
          expectSameModel(scene.model, before, 'skipped');
          expect(scene.grads.every(isZero)).to.equal(true);
        }
      });
    });

    it(`should refuse gradients that share memory: ${environment.name}`, () => {
      inEnvironment(environment, () => {
        const optimizer = new AdamW();
        const weights = [new Float32Array(2), new Float32Array(2)];
        const states = weights.map((weight, i) => optimizer.createState(i, weight));
        const grad = Float32Array.of(1, 2);
        const step = (options?: StepOptions) => optimizer.update([0, 1], weights, [grad, grad], states, options);
        expect(step()).to.deep.equal({ skipped: false });
        expectError(
          () => step({ zeroGrads: true }),
          RangeError,
          'Expected memory of its own (zeroGrads) for grads[1] but received memory shared with grads[0]',
        );
        expect([...grad]).to.deep.equal([1, 2]);
        expect(optimizer.numUpdate).to.equal(1);
      });
    });
  }

  it('should be an option of a bound step', () => {
    const optimizer = new AdamW();
    const [weight, grad] = [new Float32Array(2), Float32Array.of(1, 2)];
    const bound = optimizer.bind(0, weight, grad, optimizer.createState(0, weight));
    bound.step();
    expect([...grad]).to.deep.equal([1, 2]);
    bound.step({ zeroGrads: true });
    expect([...grad]).to.deep.equal([0, 0]);
  });
});

describe('LossScaler', () => {
  it('should have the defaults of torch.amp.GradScaler', () => {
    expect(new LossScaler()).to.include({
      scale: 65536,
      growthFactor: 2,
      backoffFactor: 0.5,
      growthInterval: 2000,
      dynamic: true,
    });
  });

  it('should grow after finite steps in a row, and back off after others', () => {
    const scaler = new LossScaler({ initialScale: 8, growthInterval: 3 });
    const scales = [true, true, false, true, true, true, true, true, true].map((finite) => {
      scaler.update(finite);
      return scaler.scale;
    });
    expect(scales).to.deep.equal([8, 8, 4, 4, 4, 8, 8, 8, 16]);
  });

  it('should stay positive and finite in float32', () => {
    const large = new LossScaler({ initialScale: 2 ** 127, growthInterval: 1 });
    large.update(true);
    expect(large.scale).to.equal(2 ** 127);
    const small = new LossScaler({ initialScale: 2 ** -149 });
    small.update(false);
    expect(small.scale).to.equal(2 ** -149);
  });

  it('should stay constant if it is not dynamic', () => {
    const scaler = new LossScaler({ initialScale: 1024, dynamic: false, growthInterval: 1 });
    for (const finite of [true, false, true]) scaler.update(finite);
    expect(scaler.scale).to.equal(1024);
  });

  it('should go on from what was saved', () => {
    const scaler = new LossScaler({ initialScale: 8, growthInterval: 3 });
    scaler.update(true);
    scaler.update(true);
    const resumed = new LossScaler({ growthInterval: 3 });
    resumed.loadStateDict(JSON.parse(JSON.stringify(scaler)));
    expect(resumed.stateDict()).to.deep.equal({ version: 1, scale: 8, growthTracker: 2 });
    resumed.update(true);
    expect(resumed.scale).to.equal(16);
  });

  const load = (stateDict: object) => () => {
    const scaler = new LossScaler();
    try {
      scaler.loadStateDict(stateDict as never);
    } finally {
      expect(scaler.stateDict()).to.deep.equal({ version: 1, scale: 65536, growthTracker: 0 });
    }
  };
  const step = (options: unknown) => () => {
    const optimizer = new AdamW();
    const weight = new Float32Array(1);
    try {
      optimizer.update(0, weight, new Float32Array(1), optimizer.createState(0, weight), options as never);
    } finally {
      expect(optimizer.numUpdate).to.equal(0);
    }
  };
  itRefuses([
    [
      'an unknown option',
      () => new LossScaler({ initScale: 2 } as never),
      TypeError,
      'Expected a known option for options but received "initScale"; did you mean initialScale?',
    ],
    [
      'a scale of 0',
      () => new LossScaler({ initialScale: 0 }),
      RangeError,
      'Expected a positive number that float32 can hold for initialScale but received 0',
    ],
    [
      'a scale that float32 cannot hold',
      () => new LossScaler({ initialScale: 1e39 }),
      RangeError,
      'Expected a positive number that float32 can hold for initialScale but received 1e+39',
    ],
    [
      'a growth factor below 1',
      () => new LossScaler({ growthFactor: 0.5 }),
      RangeError,
      'Expected a number of at least 1 for growthFactor but received 0.5',
    ],
    ...[0, 1.5].map(
      (backoffFactor) =>
        [
          `a backoff factor of ${backoffFactor}`,
          () => new LossScaler({ backoffFactor }),
          RangeError,
          `Expected a number in (0, 1] for backoffFactor but received ${backoffFactor}`,
        ] as const,
    ),
    [
      'a growth interval of 0',
      () => new LossScaler({ growthInterval: 0 }),
      RangeError,
      'Expected an integer of at least 1 for growthInterval but received 0',
    ],
    [
      'a state of another version',
      load({ version: 2, scale: 1, growthTracker: 0 }),
      RangeError,
      'Expected 1 for stateDict.version but received 2',
    ],
    [
      'a state whose scale was lost',
      load({ version: 1, scale: null, growthTracker: 0 }),
      TypeError,
      'Expected a finite number of at least 0 for stateDict.scale but received null',
    ],
    [
      'a state with a fraction of a step',
      load({ version: 1, scale: 1, growthTracker: 0.5 }),
      RangeError,
      'Expected an integer of at least 0 for stateDict.growthTracker but received 0.5',
    ],
    [
      'an unknown option of a step',
      step({ zeroGrad: true }),
      TypeError,
      'Expected a known option for options but received "zeroGrad"; did you mean zeroGrads?',
    ],
    ['options of a step that are null', step(null), TypeError, 'Expected an object for options but received null'],
    [
      'a scaler that is a number',
      step({ lossScaler: 1024 }),
      TypeError,
      'Expected a LossScaler for lossScaler but received 1024',
    ],
    [
      'zeroGrads that is no boolean',
      step({ zeroGrads: 1 }),
      TypeError,
      'Expected a boolean for zeroGrads but received 1',
    ],
    [
      'a maxGradNorm of 0',
      step({ maxGradNorm: 0 }),
      RangeError,
      'Expected a positive number, or null for none, for maxGradNorm but received 0',
    ],
  ]);

  for (const environment of environments()) {
    it(`should divide the gradients, and skip for all tensors what is not finite: ${environment.name}`, () => {
      inEnvironment(environment, () => {
        const [scene, plain] = [makeScene(), makeScene()];
        const scaler = new LossScaler({ initialScale: 4, growthInterval: 2 });
        const optimizer = new AdamW({ ...OPTIONS, rescaleGrad: 0.5 });
        expect(update(optimizer, scene, { lossScaler: scaler }).skipped).to.equal(false);
        update(new AdamW({ ...OPTIONS, rescaleGrad: 0.125 }), plain);
        expectSameModel(scene.model, plain.model, 'unscaled');

        const last = scene.grads.length - 1;
        const kept = copyOf(scene.grads[last]);
        tensorOf(scene.grads[last]).set(new Float64Array(tensorOf(scene.grads[last]).length).fill(Infinity));
        const before = cloneModel(scene.model);
        const skipped = update(optimizer, scene, { lossScaler: scaler });
        expect(skipped).to.deep.equal({ skipped: true, reason: 'gradNorm', gradNorm: Infinity });
        expectSameModel(scene.model, before, 'skipped');
        expect(optimizer.numUpdate).to.equal(1);
        expect(scaler.scale).to.equal(2);

        valuesIn(scene.grads[last]).set(kept);
        update(optimizer, scene, { lossScaler: scaler });
        update(optimizer, scene, { lossScaler: scaler });
        expect(optimizer.numUpdate).to.equal(3);
        expect(scaler.scale).to.equal(4);
      });
    });
  }

  it('should stay as it is if rescaleGrad skips the step or an error ends it', () => {
    const scaler = new LossScaler({ growthInterval: 1 });
    const optimizer = new AdamW({ rescaleGrad: NaN });
    const [weight, grad] = [new Float32Array(2), Float32Array.of(1, 2)];
    const state = optimizer.createState(0, weight);
    expect(optimizer.update(0, weight, grad, state, { lossScaler: scaler })).to.deep.equal({
      skipped: true,
      reason: 'rescaleGrad',
    });
    optimizer.rescaleGrad = 1;
    structuredClone(grad.buffer, { transfer: [grad.buffer] });
    expect(() => optimizer.update(0, weight, grad, state, { lossScaler: scaler })).to.throw(RangeError);
    expect(scaler.scale).to.equal(65536);
  });
});

describe('Options that the caller assigns', () => {
  it('should count for the step whose scheduler assigns them', () => {
    class Clipping extends FactorScheduler {
      optimizer: AdamW | undefined;
      override learningRateAt(numUpdate: number, baseLr?: number): number {
        if (this.optimizer && numUpdate === 2) this.optimizer.maxGradNorm = 1;
        return super.learningRateAt(numUpdate, baseLr);
      }
    }
    const scheduler = new Clipping({ step: 1, baseLr: 0.1 });
    const optimizer = new AdamW({ lrScheduler: scheduler });
    scheduler.optimizer = optimizer;
    const weight = new Float32Array(2);
    const state = optimizer.createState(0, weight);
    const results = [1, 2].map(() => optimizer.update(0, weight, Float32Array.of(3, 4), state));
    expect(results).to.deep.equal([{ skipped: false }, { skipped: false, gradNorm: 5 }]);
  });

  it('should not be those of a LossScaler, which a GPU may be using', () => {
    const lossScaler = new LossScaler();
    for (const name of ['growthFactor', 'backoffFactor', 'growthInterval', 'dynamic']) {
      expectError(
        () => Object.assign(lossScaler, { [name]: 1 }),
        TypeError,
        `Expected an option of the constructor for ${name} but received an assignment, which cannot change it`,
      );
    }
  });
});

describe('LossScaler, maxGradNorm and zeroGrads together', () => {
  const fixture = readScalerFixture();
  for (const environment of environments()) {
    for (const test of fixture.cases) {
      const title = ["PyTorch's GradScaler, clip_grad_norm_ and AdamW", ...Object.keys(test.options)].join(', ');
      it(`should match ${title}: ${environment.name}`, () => inEnvironment(environment, () => expectCase(test)));
    }
  }

  function expectCase(test: ScalerCase): void {
    const { learningRate } = fixture.options;
    const optimizer = new AdamW({ ...fixture.options, ...test.options, rule: 'pytorch' });
    const scaler = new LossScaler(fixture.scaler);
    const weights = test.initial.map((text) => decode(text, 'float32') as Float32Array);
    const states = weights.map((weight, i) => optimizer.createState(i, weight));
    const indices = weights.map((_, i) => i);
    let updates = 0;
    let compared = 0;
    for (const [i, step] of test.steps.entries()) {
      expect(scaler.scale, `scale of step ${i + 1}`).to.equal(step.scale);
      const grads = step.grads.map((text) => decode(text, 'float32') as Float32Array);
      const result = optimizer.update(indices, weights, grads, states, { lossScaler: scaler, zeroGrads: true });
      expect(grads.every(isZero)).to.equal(true);
      expect(result.skipped, `step ${i + 1}`).to.equal(fixture.infinite.includes(i + 1));
      if (step.norm !== null) expect(result.gradNorm).to.be.closeTo(step.norm, 1e-5 * step.norm);
      if (!result.skipped) updates++;
      expect(optimizer.numUpdate).to.equal(updates);
      const expectArrays = (
        name: string,
        texts: readonly string[] | undefined,
        actual: (k: number) => TensorLike,
        bound: (expected: number) => number,
      ): void => {
        texts?.forEach((text, k) => {
          const expected = decode(text, 'float32');
          expectClose(valuesIn(actual(k)), expected, (e) => bound(expected[e]), `step ${i + 1}, ${name}[${k}]`);
          compared++;
        });
      };
      // Of 8 units in the last place of a weight, and of what 2e-6 of the learning rate adds up to.
      const ofWeight = (value: number): number => 2e-6 * learningRate * updates + 8 * 2 ** -23 * Math.abs(value);
      const ofVariance = (value: number): number => 1e-5 * value;
      expectArrays('weights', step.weights, (k) => weights[k], ofWeight);
      expectArrays('variances', step.variances, (k) => states[k].variance, ofVariance);
      expectArrays('maxVariances', step.maxVariances, (k) => states[k].maxVariance as Tensor, ofVariance);
    }
    expect(updates).to.equal(197);
    expect(compared).to.equal((test.options.amsgrad ? 3 : 2) * 3 * 12);
    expect(scaler.scale).to.equal(test.scale);
  }
});

describe('The options of a step on a GPU', () => {
  /** A step on the CPU and the same on a GPU, with the gradients after it. */
  function both(options: AdamWOptions, stepOptions: () => StepOptions, poison?: number) {
    const run = (place?: Place) => {
      const host = makeScene();
      if (poison !== undefined) tensorOf(host.grads[4]).data?.fill(poison);
      const model = place ? cloneModel(host.model, place) : host.model;
      const grads = place ? cloneArrays(host.grads, place) : host.grads;
      const optimizer = new AdamW({ ...OPTIONS, ...options });
      const given = stepOptions();
      const results = [0, 1].map(() => {
        const result = update(optimizer, { model, grads }, given);
        if (given.zeroGrads) for (const [k, grad] of grads.entries()) refill(grad, k);
        return result;
      });
      return { model, grads, results, scale: given.lossScaler?.scale, count: optimizer.numUpdate };
    };
    return { onHost: run(), onDevice: run(deviceMemory) };
  }

  /** Expects zeros, and writes others. */
  function refill(grad: TensorLike, k: number): void {
    expect(isZero(tensorOf(grad).to('cpu')), `gradient ${k} is cleared`).to.equal(true);
    const { length } = tensorOf(grad);
    tensorOf(grad).set(Float32Array.from({ length }, (_, i) => (((i + k) % 7) - 3) / 4));
  }

  for (const [name, options, stepOptions, poison] of [
    ['zeroGrads', {}, () => ({ zeroGrads: true }), undefined],
    ['maxGradNorm', { maxGradNorm: 2, rescaleGrad: -0.5 }, () => ({}), undefined],
    ['a LossScaler', {}, () => ({ lossScaler: new LossScaler({ initialScale: 8 }), zeroGrads: true }), undefined],
    ['a LossScaler and a gradient of NaN', {}, () => ({ lossScaler: new LossScaler(), zeroGrads: true }), NaN],
    ['maxGradNorm and a gradient of NaN', { maxGradNorm: 1 }, () => ({}), NaN],
  ] as const) {
    itUnless(noCuda, `should give the results of the CPU: ${name}`, () => {
      const { onHost, onDevice } = both(options, stepOptions, poison);
      expect(onDevice.results.map(said)).to.deep.equal(onHost.results);
      expect([onDevice.scale, onDevice.count]).to.deep.equal([onHost.scale, onHost.count]);
      expectSameModel(cloneModel(onDevice.model), onHost.model, name);
      onDevice.grads.forEach((grad, k) => {
        expectSameBits(valuesIn(tensorOf(grad).to('cpu')), valuesIn(onHost.grads[k]), `gradient ${k}`);
      });
    });
  }

  itUnless(noCuda, 'should measure tensors on a GPU and on the CPU together, with the same bits', () => {
    const { grads } = makeScene();
    const mixed = grads.map((grad, i) => (i % 2 === 0 ? grad : cloneArrays([grad], deviceMemory)[0]));
    const expected = gradientStats(grads, { scale: 3 });
    expect(gradientStats(mixed, { scale: 3 })).to.deep.equal(expected);
    expect(gradientStats(cloneArrays(grads, deviceMemory), { scale: 3 })).to.deep.equal(expected);
    expect(gradientStats(Tensor.zeros(0, { device: 'cuda' }))).to.deep.equal({ norm: 0, finite: true });
    // And so does a step over both.
    const { model } = makeScene();
    const onDevice = cloneModel(model, deviceMemory);
    const pick = <T>(host: readonly T[], device: readonly T[]): T[] => host.map((v, i) => (i % 2 ? device[i] : v));
    const together: Model = {
      indices: model.indices,
      weights: pick(model.weights, onDevice.weights),
      states: pick(model.states, onDevice.states),
    };
    expect(update(new AdamW({ maxGradNorm: 1 }), { model: together, grads: mixed })).to.deep.equal({
      skipped: false,
      gradNorm: gradientStats(grads).norm,
    });
  });

  itUnless(noCuda, 'should refuse to clear gradients that share memory', () => {
    const grad = Tensor.zeros(8, { device: 'cuda' });
    const weights = [Tensor.zeros(8, { device: 'cuda' }), Tensor.zeros(8, { device: 'cuda' })];
    const optimizer = new AdamW();
    const states = weights.map((weight, i) => optimizer.createState(i, weight));
    expectError(
      () => optimizer.update([0, 1], weights, [grad, grad], states, { zeroGrads: true }),
      RangeError,
      'Expected memory of its own (zeroGrads) for grads[1] but received memory shared with grads[0]',
    );
  });
});
