/** Steps about which a GPU decides: whether they take place, by its gradients, and with which scalars. */
import { inspect } from 'node:util';
import { expect } from 'chai';
import {
  AdamW,
  type AdamWOptions,
  FactorScheduler,
  LossScaler,
  type StepOptions,
  type StepResult,
  synchronize,
  Tensor,
} from '../lib/index.js';
import { itUnless, noCuda } from './support/conditions.js';
import { deviceMemory, noSecondGpu, noStandIn, useDriverCalls } from './support/cuda.js';
import { expectError } from './support/errors.js';
import { tensorOf } from './support/memory.js';
import { cloneArrays, cloneModel, DTYPE_CONFIGS, expectSameModel, makeGrads, makeModel } from './support/model.js';
import { randomFrom } from './support/random.js';
import { said } from './support/steps.js';
import { quietly } from './support/warnings.js';

const driverCalls = useDriverCalls();
const SPECS = DTYPE_CONFIGS.flatMap((config, i) => [
  [config, 40 + i] as const,
  [config, i % 6 === 0 ? 5000 : 600] as const,
]);

/** A weight on a GPU with its gradient and state, and steps of it. */
function makeOne(options: AdamWOptions = {}) {
  const weight = Tensor.zeros(8, { device: 'cuda' }).set(new Float32Array(8).fill(1));
  const grad = Tensor.zeros(8, { device: 'cuda' });
  const optimizer = new AdamW(options);
  const state = optimizer.createState(0, weight);
  const step = (value: number, stepOptions?: StepOptions): StepResult => {
    grad.set(new Float32Array(8).fill(value));
    return optimizer.update(0, weight, grad, state, stepOptions);
  };
  return { weight, grad, state, optimizer, step };
}

describe('A step about which a GPU decides', () => {
  for (const [name, options, ofScaler] of [
    ['maxGradNorm', { maxGradNorm: 3 }, null],
    ['a LossScaler', {}, { initialScale: 64, growthInterval: 3 }],
    ['both', { maxGradNorm: 3, rule: 'pytorch', maximize: true }, { initialScale: 64, growthInterval: 2 }],
    ['both, of odd factors', { maxGradNorm: 0.5 }, { growthFactor: 1.37, backoffFactor: 0.77, growthInterval: 1 }],
    ['a constant LossScaler', { rule: 'pytorch', correctBias: true }, { initialScale: 3, dynamic: false }],
    ['a norm that is only measured', { maxGradNorm: Infinity, aggregateNum: 3 }, null],
    ['multipliers of every tensor', { maxGradNorm: 2, multipliers: true }, { initialScale: 4, growthInterval: 4 }],
  ] as const) {
    itUnless(noCuda, `should have the bits, results and counts of the CPU over 40 steps: ${name}`, () => {
      const { multipliers = false, ...ofOptimizer } = options as typeof options & { multipliers?: boolean };
      const host = makeModel(SPECS, randomFrom(1));
      const run = (model: typeof host, isOnDevice: boolean) => {
        const optimizer = new AdamW({
          wd: 0.05,
          lrScheduler: new FactorScheduler({ step: 3, factor: 0.9, baseLr: 0.02 }),
          ...ofOptimizer,
        });
        if (multipliers) optimizer.setLrMult(new Map(model.indices.map((index, i) => [index, 1 + i / 8])));
        const lossScaler = ofScaler && new LossScaler(ofScaler);
        const random = randomFrom(2);
        const results = Array.from({ length: 40 }, (_, t) => {
          const grads = makeGrads(host, random);
          // Among the first steps, twice in a row, and on its own.
          if ([1, 11, 12, 30].includes(t)) tensorOf(grads[0]).set(new Float32Array(40).fill(t % 2 ? Infinity : NaN));
          const there = isOnDevice ? cloneArrays(grads, deviceMemory) : grads;
          const zeroGrads = t % 3 === 0;
          const { indices, weights, states } = model;
          const result = quietly(() => optimizer.update(indices, weights, there, states, { lossScaler, zeroGrads }));
          return { result, there, zeroGrads };
        });
        return { optimizer, lossScaler, results, model };
      };
      const onHost = run(cloneModel(host), false);
      const onDevice = run(cloneModel(host, deviceMemory), true);
      expectSameModel(onDevice.model, onHost.model, name);
      expect(onDevice.results.map(({ result }) => said(result))).to.deep.equal(onHost.results.map((r) => r.result));
      expect(onHost.results.filter(({ result }) => result.skipped)).to.have.length(4);
      expect(onDevice.lossScaler?.stateDict()).to.deep.equal(onHost.lossScaler?.stateDict());
      expect(onDevice.optimizer.updateCount(0, 'cuda:0')).to.equal(36);
      expect(onDevice.optimizer.learningRate).to.equal(onHost.optimizer.learningRate);
      for (const { there, zeroGrads } of onDevice.results) {
        const isZero = there.every((grad) =>
          tensorOf(grad)
            .toArray()
            .every((value) => value === 0),
        );
        expect(isZero).to.equal(zeroGrads);
      }
    });
  }

  itUnless(noStandIn, 'should not wait for it: eight steps may be undecided', () => {
    const { weight, grad, state, optimizer, step } = makeOne({ maxGradNorm: 1 });
    const lossScaler = new LossScaler({ initialScale: 8, growthInterval: 3 });
    const { scaleTensor } = lossScaler;
    step(1, { lossScaler }); // allocates
    expect(optimizer.numUpdate).to.equal(1);
    driverCalls().pause(1n); // whatever waits now never returns
    const results = Array.from({ length: 8 }, () => optimizer.update(0, weight, grad, state, { lossScaler }));
    driverCalls().pause(0n);
    expect(results.map(({ skipped }) => skipped)).to.deep.equal(new Array(8).fill(false));
    expect(optimizer.numUpdate).to.equal(9);
    expect(lossScaler.scale).to.equal(64);
    expect([...scaleTensor.toArray()]).to.deep.equal([64]);
  });

  itUnless(noCuda, 'should count for whoever asks, whatever is asked', () => {
    const asked: ((one: ReturnType<typeof makeOne>, lossScaler: LossScaler) => unknown)[] = [
      ({ optimizer }) => optimizer.numUpdate,
      ({ optimizer }) => optimizer.updateCount(0, 'cuda:0'),
      ({ optimizer }) => optimizer.stateDict().counts['cuda:0']['0'],
      ({ optimizer }) => JSON.parse(JSON.stringify(optimizer)).numUpdate,
      ({ optimizer }, scaler) => (scaler.scale === 8 ? optimizer.numUpdate : scaler.scale),
      ({ optimizer }, scaler) => (scaler.stateDict().scale === 8 ? optimizer.numUpdate : scaler.stateDict()),
      ({ optimizer }) => {
        optimizer.dispose(); // lets go of the tensors
        return optimizer.numUpdate;
      },
      ({ optimizer }) => {
        const weight = new Float32Array(3);
        optimizer.update('cpu', weight, new Float32Array(3), optimizer.createState('cpu', weight));
        return optimizer.numUpdate;
      },
    ];
    for (const ask of asked) {
      const one = makeOne();
      const lossScaler = new LossScaler({ initialScale: 16, growthInterval: 2 });
      for (const value of [1, NaN, 1, 1, NaN, NaN, 1, 1]) one.step(value, { lossScaler });
      // The scale is 16, 8, 16, 8, 4 and 8.
      expect(ask(one, lossScaler), ask.toString()).to.equal(5);
      expect(lossScaler.scale).to.equal(8);
    }
  });

  itUnless(noCuda, 'should show its result to whoever prints it', () => {
    const { step } = makeOne({ maxGradNorm: 100 });
    expect(inspect(step(2))).to.equal(`{ skipped: false, reason: undefined, gradNorm: ${Math.sqrt(32)} }`);
    expect(JSON.stringify(step(2))).to.equal(`{"skipped":false,"gradNorm":${Math.sqrt(32)}}`);
    const { skipped, reason, gradNorm } = step(NaN);
    expect([skipped, reason, gradNorm]).to.deep.equal([true, 'gradNorm', NaN]);
  });

  itUnless(noCuda, 'should go on from what is assigned and loaded in between', () => {
    const one = makeOne();
    const lossScaler = new LossScaler({ initialScale: 16, growthInterval: 100 });
    one.step(NaN, { lossScaler });
    one.step(1, { lossScaler });
    lossScaler.update(false); // 4
    one.step(NaN, { lossScaler }); // 2
    expect(lossScaler.stateDict()).to.deep.equal({ version: 1, scale: 2, growthTracker: 0 });
    one.step(NaN, { lossScaler });
    lossScaler.loadStateDict({ version: 1, scale: 1024, growthTracker: 99 });
    expect(one.step(1, { lossScaler }).gradNorm).to.equal(Math.sqrt(8) / 1024);
    expect(lossScaler.scale).to.equal(2048);
    const { counts, ...stateDict } = one.optimizer.stateDict();
    one.step(1, { lossScaler });
    one.optimizer.loadStateDict({ ...stateDict, numUpdate: 41, counts: { 'cuda:0': { 0: 41 } } });
    expect(counts).to.deep.equal({ 'cuda:0': { 0: 2 } });
    one.step(1, { lossScaler });
    one.optimizer.rescaleGrad = 0;
    expect(said(one.step(1, { lossScaler }))).to.deep.equal({ skipped: true, reason: 'rescaleGrad' });
    expect(one.optimizer.updateCount(0, 'cuda:0')).to.equal(42);
    // A scaler that two optimizers share.
    const other = makeOne();
    one.optimizer.rescaleGrad = 1;
    for (const { step } of [one, other, one, one, other]) step(NaN, { lossScaler });
    expect(lossScaler.scale).to.equal(2048 / 32);
  });

  itUnless(noCuda, 'should be skipped where the scale makes the factor of the gradients 0, as on the CPU', () => {
    const run = (device: 'cpu' | 'cuda'): [object, number, number] => {
      const optimizer = new AdamW({ rescaleGrad: 1e-30 });
      const weight = Tensor.zeros(4, { device });
      const lossScaler = new LossScaler({ initialScale: 2 ** 60 });
      const grad = Tensor.zeros(4, { device }).set([1, 2, 3, 4]);
      const result = optimizer.update(0, weight, grad, optimizer.createState(0, weight), { lossScaler });
      return [said(result), optimizer.numUpdate, lossScaler.stateDict().growthTracker];
    };
    expect(run('cuda')).to.deep.equal([{ skipped: true, reason: 'rescaleGrad' }, 0, 0]);
    expect(run('cpu')).to.deep.equal(run('cuda'));
  });

  itUnless(noCuda, 'should take the scalars of the right count where a scheduler asks for counts', () => {
    const rates = (optimizer: AdamW, log: number[]) =>
      new (class extends FactorScheduler {
        override learningRateAt(numUpdate: number, baseLr?: number): number {
          log.push(optimizer.numUpdate);
          return super.learningRateAt(numUpdate, baseLr);
        }
      })({ step: 1, factor: 0.5, baseLr: 1 });
    const log: number[] = [];
    const one = makeOne({ maxGradNorm: 100 });
    const plain = new AdamW({ maxGradNorm: 100 });
    const curious = new AdamW({ maxGradNorm: 100, lrScheduler: rates(plain, log) });
    const weights = [plain, curious].map(() => one.weight.to('cpu').to('cuda'));
    [plain, curious].forEach((optimizer, i) => {
      const state = optimizer.createState(0, weights[i]);
      for (let t = 0; t < 5; t++) optimizer.update(0, weights[i], one.grad, state);
    });
    expect(curious.numUpdate).to.equal(5);
    expect(log.length).to.be.at.least(5);
  });

  itUnless(noCuda, 'should be waited for by the host where several devices or a subclass have a say', () => {
    class Halving extends LossScaler {
      override update(finite: boolean): void {
        super.update(finite);
        super.update(false);
      }
    }
    const one = makeOne();
    const lossScaler = new Halving({ initialScale: 8, growthInterval: 1 });
    one.step(1, { lossScaler });
    expect(lossScaler.scale).to.equal(8);
    one.step(NaN, { lossScaler });
    expect(lossScaler.scale).to.equal(2);
    const onHost = new LossScaler({ initialScale: 8, device: 'cpu' });
    const { scaleTensor } = onHost;
    one.step(NaN, { lossScaler: onHost });
    expect([...scaleTensor.data]).to.deep.equal([4]);
    const weights = [one.weight, Tensor.zeros(2)];
    const grads = [one.grad, Tensor.zeros(2).set([3, 4])];
    one.grad.set(new Float32Array(8));
    const states = weights.map((weight, i) => one.optimizer.createState(i, weight));
    expect(one.optimizer.update([0, 1], weights, grads, states, { lossScaler: onHost }).gradNorm).to.equal(5 / 4);
  });

  itUnless(noStandIn, 'should not wait in updateAsync() either, nor with a paramDict', async () => {
    const { weight, grad, state } = makeOne();
    const optimizer = new AdamW({ maxGradNorm: 1, paramDict: { 0: { lrMult: 2 } } });
    optimizer.update(0, weight, grad, state);
    expect(optimizer.numUpdate).to.equal(1);
    driverCalls().pause(1n);
    const results = [1, 2, 3].map(() => optimizer.update(0, weight, grad, state));
    const last = await optimizer.updateAsync(0, weight, grad, state);
    driverCalls().pause(0n);
    expect([...results, last].map(({ skipped }) => skipped)).to.deep.equal([false, false, false, false]);
    expect(optimizer.numUpdate).to.equal(5);
  });

  itUnless(noCuda, 'should lose nothing if the stack overflows while somebody looks', () => {
    const isOverflow = (call: () => unknown): boolean => {
      try {
        call();
      } catch (error) {
        expect(error).to.be.an.instanceOf(RangeError);
        return true;
      }
      return false;
    };
    const deepest = (depth: number, call: () => unknown): unknown => (depth === 0 ? call() : deepest(depth - 1, call));
    // The depth at which nothing more can be called.
    let limit = 0;
    for (let step = 4096; step >= 1; step /= 2) {
      while (!isOverflow(() => deepest(limit + step, () => 0))) limit += step;
    }
    let overflows = 0;
    for (let depth = limit - 60; depth <= limit; depth += 2) {
      const { step, optimizer } = makeOne();
      const lossScaler = new LossScaler({ initialScale: 64, growthInterval: 2 });
      const results = [NaN, 1, NaN, 1, 1].map((value) => step(value, { lossScaler }));
      if (isOverflow(() => deepest(depth, () => results[4].skipped))) overflows++;
      if (isOverflow(() => deepest(depth, () => lossScaler.scale))) overflows++;
      expect(results.map(({ skipped }) => skipped)).to.deep.equal([true, false, true, false, false]);
      expect([optimizer.numUpdate, lossScaler.scale]).to.deep.equal([3, 32]);
    }
    expect(overflows).to.be.above(0);
  });

  itUnless(noCuda, 'should ask a scheduler of its own kind as on the CPU, whatever it assigns', () => {
    const run = (device: 'cpu' | 'cuda'): unknown => {
      class Assigning extends FactorScheduler {
        optimizer: AdamW | undefined;
        override learningRateAt(numUpdate: number, baseLr?: number): number {
          if (this.optimizer) {
            this.optimizer.wd = numUpdate / 10;
            this.optimizer.clipGradient = 1 / numUpdate;
          }
          return super.learningRateAt(numUpdate, baseLr);
        }
      }
      const scheduler = new Assigning({ step: 1, factor: 0.5, baseLr: 0.1 });
      const optimizer = new AdamW({ lrScheduler: scheduler, maxGradNorm: 10 });
      scheduler.optimizer = optimizer;
      const weight = Tensor.zeros(1, { device }).set([1]);
      const grad = Tensor.zeros(1, { device });
      const state = optimizer.createState(0, weight);
      for (const value of [1, NaN, NaN, 1, 1]) optimizer.update(0, weight, grad.set([value]), state);
      return [...weight.toArray(), ...(state.mean as Tensor).toArray(), optimizer.wd];
    };
    expect(run('cuda')).to.deep.equal(run('cpu'));
  });

  itUnless(noStandIn, 'should report a device that fails to whoever looks at the result', () => {
    const one = makeOne({ maxGradNorm: 1 });
    one.step(1);
    synchronize();
    one.grad.set(new Float32Array(8).fill(2));
    // What it needs before its work fails: then nothing has changed.
    driverCalls().fail('cuLaunchKernel', 0);
    expect(() => one.optimizer.update(0, one.weight, one.grad, one.state)).to.throw('cuLaunchKernel');
    const [before] = one.weight.toArray();
    expect(one.optimizer.numUpdate).to.equal(1);
    expect(one.step(NaN).skipped).to.equal(true);
    expect(one.step(1).skipped).to.equal(false);
    expect(one.optimizer.numUpdate).to.equal(2);
    expect(one.weight.toArray()[0]).to.be.below(before);
    // Its own work: the step has begun, and the optimizer has failed for good.
    driverCalls().fail('cuLaunchKernel', 4);
    expect(() => one.step(1)).to.throw('cuLaunchKernel');
    expect(() => one.step(1)).to.throw('cuLaunchKernel');
  });

  itUnless(noStandIn, 'should fail for good if the device does before the step is decided', () => {
    const { optimizer, step } = makeOne({ maxGradNorm: 1 });
    const results = [step(1), step(1)];
    synchronize();
    driverCalls().fail('cuEventQuery', 0);
    expect(() => optimizer.numUpdate).to.throw('cuEventQuery');
    for (const result of results) expect(() => result.skipped).to.throw('cuEventQuery');
    expect(() => step(1)).to.throw('cuEventQuery');
    expect(() => step(1)).to.throw('cuEventQuery');
  });

  itUnless(noStandIn, 'should leave the scale where it was if the step fails before it takes place', () => {
    const { step } = makeOne();
    const lossScaler = new LossScaler({ initialScale: 1024 });
    const { scaleTensor } = lossScaler;
    for (const [call, after] of [
      ['cuLaunchKernel', 3],
      ['cuMemcpyDtoHAsync_v2', 0],
    ] as const) {
      step(1, { lossScaler });
      synchronize();
      expect(() => {
        driverCalls().fail(call, after);
        step(NaN, { lossScaler });
      }).to.throw(call.replace('_v2', ''));
      expect([lossScaler.scale, ...scaleTensor.toArray()]).to.deep.equal([1024, 1024]);
    }
  });

  itUnless(noSecondGpu, 'should be waited for where the scale is read on another of two GPUs', () => {
    const one = makeOne();
    const lossScaler = new LossScaler({ initialScale: 8, device: 'cuda:1' });
    const { scaleTensor } = lossScaler;
    expect(scaleTensor.device).to.equal('cuda:1');
    one.step(NaN, { lossScaler });
    expect([...scaleTensor.toArray()]).to.deep.equal([4]);
  });
});

describe('LossScaler.scaleTensor', () => {
  for (const [device, why] of [
    ['cpu', null],
    ['cuda', noCuda],
  ] as const) {
    itUnless(why, `should be the scale, on ${device}`, () => {
      const weight = Tensor.zeros(4, { device });
      const grad = Tensor.zeros(4, { device });
      const optimizer = new AdamW();
      const state = optimizer.createState(0, weight);
      const lossScaler = new LossScaler({ initialScale: 8, growthInterval: 2, device });
      const { scaleTensor } = lossScaler;
      expect([scaleTensor.dtype, scaleTensor.shape]).to.deep.equal(['float32', []]);
      expect(scaleTensor.device).to.equal(device === 'cpu' ? 'cpu' : 'cuda:0');
      const expectScale = (scale: number): void => {
        expect(lossScaler.scaleTensor).to.equal(scaleTensor);
        expect([...scaleTensor.toArray()]).to.deep.equal([scale]);
        expect(lossScaler.scale).to.equal(scale);
      };
      for (const [value, scale] of [
        [1, 8],
        [1, 16],
        [NaN, 8],
        [NaN, 4],
      ] as const) {
        grad.set([0, value, 0, 1]);
        optimizer.update(0, weight, grad, state, { lossScaler });
        expectScale(scale);
      }
      lossScaler.update(false);
      expectScale(2);
      lossScaler.loadStateDict({ version: 1, scale: 512, growthTracker: 1 });
      expectScale(512);
      scaleTensor.dispose();
      optimizer.update(0, weight, grad, state, { lossScaler });
      expect([...lossScaler.scaleTensor.toArray()]).to.deep.equal([256]);
    });
  }

  it('should refuse a device that there is not, and an assignment', () => {
    expectError(
      () => new LossScaler({ device: 'tpu' }),
      TypeError,
      "Expected 'cpu', 'cuda', 'cuda:N' or 'auto' for device but received \"tpu\"",
    );
    expect(() => new LossScaler({ device: 'cuda:77' })).to.throw(RangeError, 'Expected a usable device for device');
    const lossScaler = new LossScaler({ device: 'cpu' });
    expect(() => Object.assign(lossScaler, { scaleTensor: Tensor.zeros(1) })).to.throw(
      TypeError,
      'Expected what loadStateDict() restores for scaleTensor but received an assignment, which cannot change it',
    );
  });
});
