/** Steps that do not block: updateAsync() and bound.stepAsync(). */
import { expect } from 'chai';
import {
  AdamW,
  type AdamWOptions,
  type AsyncStepOptions,
  accumulate,
  gradientStats,
  LossScaler,
  LRScheduler,
  type StepOptions,
  type StepResult,
  syncMaster,
  Tensor,
  type TensorLike,
} from '../lib/index.js';
import { pinHolds } from '../lib/tensor/allocator.js';
import { eachBackend } from './support/backends.js';
import { expectSameBits } from './support/bits.js';
import { detach } from './support/buffers.js';
import { expectExit, reportOf, runChild } from './support/child.js';
import { either, itUnless, noNative } from './support/conditions.js';
import { type Environment, environments, inEnvironment, inEnvironmentAsync } from './support/environments.js';
import { attempt, expectError } from './support/errors.js';
import { copyOf, DTYPE_BYTES, ownMemory, type Place, valuesIn } from './support/memory.js';
import {
  cloneArrays,
  cloneModel,
  DTYPE_CONFIGS,
  dtypesOf,
  expectSameModel,
  type Model,
  makeArguments,
} from './support/model.js';
import { randomFrom } from './support/random.js';
import { quietly } from './support/warnings.js';

/** Tensors of each dtype configuration that the options allow; natively some are large enough for several threads. */
const specsOf = ({ backend }: Environment, { amsgrad, rounding }: AdamWOptions) =>
  DTYPE_CONFIGS.filter((config) => {
    const { dtype, hasMaster, hasMaximum } = dtypesOf(config);
    return (hasMaximum || !amsgrad) && (dtype !== 'float16' || hasMaster || rounding !== 'stochastic');
  }).flatMap((config, i) =>
    [37, backend === 'javascript' ? 500 : i % 4 === 0 ? 40000 : 3000].map((length) => [config, length] as const),
  );

const sharedMemory: Place = (dtype, length) =>
  Tensor.from(new SharedArrayBuffer(DTYPE_BYTES[dtype] * length), { dtype });

interface Scene {
  readonly model: Model;
  readonly grads: TensorLike[];
}

/** By their tensors; nobody writes to them. */
const scenes = new Map<string, Scene>();

function sceneOf(environment: Environment, options: AdamWOptions): Scene {
  const specs = specsOf(environment, options);
  const known = scenes.get(String(specs));
  if (known) return known;
  const { grads, ...model } = makeArguments(specs, randomFrom(1));
  scenes.set(String(specs), { model, grads });
  return { model, grads };
}

function copyScene({ model, grads }: Scene, place: Place): Scene {
  return { model: cloneModel(model, place), grads: cloneArrays(grads, place) };
}

function update(optimizer: AdamW, { model, grads }: Scene, options?: StepOptions) {
  return quietly(() => optimizer.update(model.indices, model.weights, grads, model.states, options));
}

type Start = (options?: AsyncStepOptions) => Promise<StepResult>;

/** The calls of an asynchronous step over a scene. */
const CALLS: Readonly<Record<string, (optimizer: AdamW, scene: Scene) => Start>> = {
  'updateAsync()': (optimizer, { model, grads }) => {
    return (options) => optimizer.updateAsync(model.indices, model.weights, grads, model.states, options);
  },
  'bound.stepAsync()': (optimizer, { model, grads }) => {
    const bound = optimizer.bind(model.indices, model.weights, grads, model.states);
    return (options) => bound.stepAsync(options);
  },
};

/** One small tensor in memory of ours, with its step. */
function small(optimizer = new AdamW()) {
  const weight = Tensor.zeros(8).set([1, 2, 3, 4, 5, 6, 7, 8]);
  const grad = Tensor.zeros(8).set([1, 1, 1, 1, 1, 1, 1, 1]);
  const state = optimizer.createState(0, weight);
  const bound = optimizer.bind(0, weight, grad, state);
  return {
    optimizer,
    weight,
    grad,
    state,
    bound,
    step: () => optimizer.update(0, weight, grad, state),
    start: (options?: AsyncStepOptions) => optimizer.updateAsync(0, weight, grad, state, options),
    startBound: (options?: AsyncStepOptions) => bound.stepAsync(options),
  };
}

async function rejectionOf(promise: Promise<unknown>): Promise<unknown> {
  try {
    await promise;
  } catch (error) {
    return error;
  }
  return expect.fail('the promise was resolved');
}

async function expectRejection(promise: Promise<unknown>, text: string): Promise<void> {
  expect(String(await rejectionOf(promise))).to.equal(text);
}

/** What a step may be asked for, and what an optimizer may be made with. */
const OPTIONS: Readonly<Record<string, readonly [AdamWOptions, (() => StepOptions)?]>> = {
  'no options': [{}],
  "rule 'pytorch'": [{ rule: 'pytorch', wd: 0.1 }],
  coupledWeightDecay: [{ coupledWeightDecay: true, correctBias: false, wd: 0.1 }],
  'maximize and clipGradient': [{ maximize: true, clipGradient: 0.5 }],
  amsgrad: [{ amsgrad: true }],
  "rounding 'stochastic'": [{ rounding: 'stochastic', seed: 3 }],
  zeroGrads: [{}, () => ({ zeroGrads: true })],
  maxGradNorm: [{ maxGradNorm: 1e-3 }],
  'maxGradNorm of the call': [{ maxGradNorm: 1e9 }, () => ({ maxGradNorm: 0.5 })],
  lossScaler: [{}, () => ({ lossScaler: new LossScaler({ initialScale: 8 }) })],
  'all of a step': [{ maxGradNorm: 0.1 }, () => ({ zeroGrads: true, lossScaler: new LossScaler() })],
  'all of them': [
    { rule: 'pytorch', amsgrad: true, rounding: 'stochastic', maximize: true, clipGradient: 0.5, maxGradNorm: 0.1 },
    () => ({ zeroGrads: true, lossScaler: new LossScaler() }),
  ],
  'rescaleGrad that skips': [{ rescaleGrad: 0 }, () => ({ zeroGrads: true })],
  'calls of single tensors': [{ aggregateNum: 1, useFusedStep: false }],
};

const PLACES = { 'memory of ours': ownMemory, 'shared memory': sharedMemory };

/** What update() makes of the scene of some options in two steps. */
function outcomeOf(environment: Environment, [options, ofStep]: (typeof OPTIONS)[string]) {
  const before = sceneOf(environment, options);
  const after = copyScene(before, ownMemory);
  const [optimizer, optionsOfStep] = [new AdamW(options), ofStep?.()];
  const results = [1, 2].map(() => update(optimizer, after, optionsOfStep));
  return { before, after, results, counts: optimizer.stateDict(), scaler: optionsOfStep?.lossScaler?.stateDict() };
}

for (const environment of environments({ threads: true })) {
  describe(`asynchronous steps of every kind (${environment.name})`, () => {
    const outcomes = new Map<string, ReturnType<typeof outcomeOf>>();

    before(function () {
      this.timeout(60_000);
      inEnvironment(environment, () => {
        for (const [what, row] of Object.entries(OPTIONS)) outcomes.set(what, outcomeOf(environment, row));
      });
    });

    after(() => outcomes.clear());

    for (const [name, startOf] of Object.entries(CALLS)) {
      for (const [where, place] of Object.entries(PLACES)) {
        it(`should give the bits, results and counts of update(), with every option: ${name}, ${where}`, async function () {
          this.timeout(60_000);
          await inEnvironmentAsync(environment, async () => {
            for (const [what, [options, ofStep]] of Object.entries(OPTIONS)) {
              const { before, after, results, counts, scaler } = outcomes.get(what) as ReturnType<typeof outcomeOf>;
              const scene = copyScene(before, place);
              const [optimizer, optionsOfStep] = [new AdamW(options), ofStep?.()];
              const start = quietly(() => startOf(optimizer, scene));
              for (const result of results) {
                expect(await quietly(() => start(optionsOfStep)), what).to.deep.equal(result);
              }
              expectSameModel(scene.model, after.model, what);
              scene.grads.forEach((grad, i) => {
                expectSameBits(valuesIn(grad), valuesIn(after.grads[i]), `${what}: gradient ${i}`);
              });
              expect(optimizer.stateDict(), what).to.deep.equal(counts);
              expect(optionsOfStep?.lossScaler?.stateDict(), what).to.deep.equal(scaler);
            }
          });
        });
      }
    }
  });
}

function nested(frames: number): number {
  return frames === 0 ? 0 : 1 + nested(frames - 1);
}

for (const environment of eachBackend()) {
  const here = <T>(run: () => Promise<T>) => inEnvironmentAsync(environment, run);

  describe(`asynchronous steps (${environment.name})`, () => {
    it('should change nothing before the call returns to the event loop, in TypeScript', async () => {
      await here(async () => {
        const { weight, start } = small();
        const before = copyOf(weight);
        const promise = start();
        if (environment.backend === 'javascript') expect(weight.data).to.deep.equal(before);
        expect(await promise).to.deep.equal({ skipped: false });
        expect(weight.data).to.not.deep.equal(before);
      });
    });

    it('should skip steps whose gradients are not finite, and leave the counts', async () => {
      await here(async () => {
        const { optimizer, weight, grad, start } = small();
        const lossScaler = new LossScaler();
        const before = copyOf(weight);
        grad.data[3] = NaN;
        const result = await start({ lossScaler, zeroGrads: true });
        expect(result).to.deep.equal({ skipped: true, reason: 'gradNorm', gradNorm: NaN });
        expect([optimizer.numUpdate, lossScaler.scale]).to.deep.equal([0, 32768]);
        expect(weight.data).to.deep.equal(before);
        expect(grad.data).to.deep.equal(new Float32Array(8));
      });
    });

    it('should queue the steps of one optimizer, each with the counts of its turn', async () => {
      await here(async () => {
        const [one, twin] = [small(), small()];
        const order: number[] = [];
        await Promise.all([0, 1, 2, 3].map((i) => one.start().then(() => order.push(i))));
        for (let i = 0; i < 4; i++) twin.step();
        expect(order).to.deep.equal([0, 1, 2, 3]);
        expect(one.weight.data).to.deep.equal(twin.weight.data);
        expect(one.optimizer.stateDict()).to.deep.equal(twin.optimizer.stateDict());
      });
    });

    it('should queue the steps of what is bound with the others', async () => {
      await here(async () => {
        const [one, twin] = [small(), small()];
        const order: string[] = [];
        const starts = [one.startBound, one.start, one.startBound, one.startBound];
        await Promise.all(starts.map((start, i) => start().then(() => order.push(String(i)))));
        for (let i = 0; i < 4; i++) twin.step();
        expect(order.join()).to.equal('0,1,2,3');
        expect(one.weight.data).to.deep.equal(twin.weight.data);
        expect(one.optimizer.stateDict()).to.deep.equal(twin.optimizer.stateDict());
      });
    });

    it('should take counts, rates and the scale of the loss in the call', async () => {
      await here(async () => {
        class Fixed extends LRScheduler {
          asked: number[] = [];
          protected override afterWarmup(numUpdate: number): number {
            this.asked.push(numUpdate);
            return 0.1;
          }
        }
        const lrScheduler = new Fixed({ baseLr: 0.1 });
        const [one, twin] = [small(new AdamW({ lrScheduler })), small(new AdamW({ learningRate: 0.1 }))];
        const lossScaler = new LossScaler({ initialScale: 4 });
        const promise = one.start({ lossScaler });
        expect(lrScheduler.asked).to.deep.equal([1]);
        one.optimizer.wd = 0.5;
        one.optimizer.rescaleGrad = 7;
        lossScaler.loadStateDict({ version: 1, scale: 1, growthTracker: 0 });
        await promise;
        twin.optimizer.update(0, twin.weight, twin.grad, twin.state, {
          lossScaler: new LossScaler({ initialScale: 4 }),
        });
        expect(one.weight.data).to.deep.equal(twin.weight.data);
      });
    });

    it('should take the scale of the loss in the call that is queued, too', async () => {
      await here(async () => {
        const [one, twin] = [small(), small()];
        const lossScaler = new LossScaler({ initialScale: 4 });
        const promises = [one.start({ lossScaler }), one.start({ lossScaler })];
        lossScaler.loadStateDict({ version: 1, scale: 1, growthTracker: 0 });
        await Promise.all(promises);
        const ofTwin = new LossScaler({ initialScale: 4 });
        for (let i = 0; i < 2; i++)
          twin.optimizer.update(0, twin.weight, twin.grad, twin.state, { lossScaler: ofTwin });
        expect(one.weight.data).to.deep.equal(twin.weight.data);
      });
    });

    it('should take the lists of the call', async () => {
      await here(async () => {
        const { optimizer, weight, grad, state } = small();
        const lists = { indices: [0], weights: [weight], grads: [grad], states: [state] };
        const call = () => optimizer.updateAsync(lists.indices, lists.weights, lists.grads, lists.states);
        const promises = [call(), call()];
        for (const list of Object.values(lists)) list.length = 0;
        await Promise.all(promises);
        expect(optimizer.updateCount(0)).to.equal(2);
      });
    });

    it('should go on after a step that was rejected', async () => {
      await here(async () => {
        const { optimizer, start, weight, grad } = small();
        const promises = [start(), optimizer.updateAsync(0, weight, grad, {} as never), start()];
        const outcomes = await Promise.allSettled(promises);
        expect(outcomes.map(({ status }) => status)).to.deep.equal(['fulfilled', 'rejected', 'fulfilled']);
        expect(optimizer.numUpdate).to.equal(2);
        expect(optimizer.update(0, weight, grad, optimizer.createState(0, weight))).to.deep.equal({ skipped: false });
      });
    });

    it('should let 100 optimizers step at once', async function () {
      this.timeout(60_000);
      await here(async () => {
        const twin = small();
        const all = Array.from({ length: 100 }, () => small());
        for (let t = 0; t < 3; t++) {
          await Promise.all(all.map(({ start }, i) => start(i % 2 ? { maxGradNorm: 1e9 } : {})));
          twin.step();
        }
        for (const { weight, optimizer } of all) {
          expect(weight.data).to.deep.equal(twin.weight.data);
          expect(optimizer.numUpdate).to.equal(3);
        }
      });
    });

    it('should let two optimizers read the same gradients at once, but not write them', async () => {
      await here(async () => {
        const [one, other] = [small(), small()];
        const step = (options?: AsyncStepOptions) =>
          other.optimizer.updateAsync(0, other.weight, one.grad, other.state, options);
        await Promise.all([one.start(), step()]);
        const promise = one.start();
        await expectRejection(
          step({ zeroGrads: true }),
          'RangeError: Expected idle memory for grads[0] but received memory that is busy with an asynchronous step',
        );
        await promise;
        expect([one.optimizer.numUpdate, other.optimizer.numUpdate]).to.deep.equal([2, 1]);
      });
    });

    describe('the calls that are refused meanwhile', () => {
      const MEMORY = (name: string): string =>
        `Expected idle memory for ${name} but received memory that is busy with an asynchronous step`;
      const OPTIMIZER = 'Expected an idle optimizer for this but received one that is busy with an asynchronous step';
      type Small = ReturnType<typeof small>;
      const other = () => new AdamW();
      const rows: readonly (readonly [string, (scene: Small) => unknown, string])[] = [
        ['update()', ({ step }) => step(), OPTIMIZER],
        ['step()', ({ optimizer: o, weight, grad, state }) => o.step(0, weight, grad, state), OPTIMIZER],
        ['fusedStep()', ({ optimizer: o, weight, grad, state }) => o.fusedStep(0, weight, grad, state), OPTIMIZER],
        ['bind()', ({ optimizer: o, weight, grad, state }) => o.bind(0, weight, grad, state), OPTIMIZER],
        ['dispose()', ({ optimizer }) => optimizer.dispose(), OPTIMIZER],
        ['recover()', ({ optimizer }) => optimizer.recover(), OPTIMIZER],
        ['bound.step()', ({ bound }) => bound.step(), OPTIMIZER],
        ['bound.setGrads()', ({ bound, grad }) => bound.setGrads([grad]), OPTIMIZER],
        ['bound.dispose()', ({ bound }) => bound.dispose(), OPTIMIZER],
        ['setLrMult()', ({ optimizer }) => optimizer.setLrMult({ 0: 2 }), OPTIMIZER],
        ['setWdMult()', ({ optimizer }) => optimizer.setWdMult({ 0: 2 }), OPTIMIZER],
        ['loadStateDict()', ({ optimizer }) => optimizer.loadStateDict(other().stateDict()), OPTIMIZER],
        [
          'another optimizer',
          ({ weight, grad, state }) => other().update(0, weight, grad, state),
          MEMORY('weights[0]'),
        ],
        [
          'bound.step() of another optimizer',
          ({ weight, grad, state }) => other().bind(0, weight, grad, state).step(),
          MEMORY('weights[0]'),
        ],
        [
          'a gradient that is a weight in flight',
          ({ weight }) => other().update(0, Tensor.zeros(8), weight, other().createState(0, Tensor.zeros(8))),
          MEMORY('grads[0]'),
        ],
        ['set()', ({ weight }) => weight.set(new Float32Array(8)), MEMORY('this')],
        ['set() of a gradient', ({ grad }) => grad.set(new Float32Array(8)), MEMORY('this')],
        ['toArray()', ({ weight }) => weight.toArray(), MEMORY('this')],
        ['JSON.stringify()', ({ state }) => JSON.stringify(state), MEMORY('this')],
        ['copyFrom()', ({ weight }) => weight.copyFrom(Tensor.zeros(8)), MEMORY('this')],
        ['copyFrom() to elsewhere', ({ weight }) => Tensor.zeros(8).copyFrom(weight), MEMORY('source')],
        ['dispose() of a weight', ({ weight }) => weight.dispose(), MEMORY('this')],
        ['dispose() of a gradient', ({ grad }) => grad.dispose(), MEMORY('this')],
        ['gradientStats()', ({ weight }) => gradientStats([weight]), MEMORY('grads[0]')],
        ['accumulate()', ({ grad }) => accumulate(grad, Tensor.zeros(8)), MEMORY('into')],
        [
          'syncMaster()',
          ({ state: { mean } }) => syncMaster(Tensor.zeros(8), { mean, variance: mean, master: mean as Tensor }),
          MEMORY('states[0].master'),
        ],
      ];
      for (const [what, call, message] of rows) {
        it(`should throw a RangeError and change nothing: ${what}`, async () => {
          await here(async () => {
            for (const how of ['start', 'startBound'] as const) {
              const [scene, twin] = [small(), small()];
              const promise = scene[how]();
              expectError(() => call(scene), RangeError, message);
              expect(attempt(() => call(scene))).to.have.nested.property('error.code', 'FUSED_ADAMW_BUSY');
              expect(await promise).to.deep.equal({ skipped: false });
              twin.step();
              expect(scene.weight.data).to.deep.equal(twin.weight.data);
              expect(scene.grad.data).to.deep.equal(twin.grad.data);
              call(scene); // now it is idle
            }
          });
        });
      }

      it('should not be those that only read gradients, or need other memory of the same slab', async () => {
        await here(async () => {
          const [scene, neighbour] = [small(), small()];
          const promise = scene.start();
          expect(scene.grad.toArray()).to.deep.equal(new Float32Array(8).fill(1));
          expect(gradientStats(scene.grad).finite).to.equal(true);
          expect(neighbour.weight.data.buffer).to.equal(scene.weight.data.buffer);
          expect(neighbour.step()).to.deep.equal({ skipped: false });
          await promise;
        });
      });
    });

    it('should refuse memory that may be freed, and name Tensor.zeros', async () => {
      await here(async () => {
        const { optimizer, weight, grad, state } = small();
        const plain = new Float32Array(8);
        const refusal = (name: string): string =>
          `TypeError: Expected memory of Tensor.zeros or a SharedArrayBuffer for ${name} but received an ArrayBuffer, ` +
          'which may be freed before the step has ended';
        await expectRejection(optimizer.updateAsync(0, plain, grad, state), refusal('weights[0]'));
        await expectRejection(optimizer.updateAsync([0], [weight], [plain], [state]), refusal('grads[0]'));
        await expectRejection(
          optimizer.updateAsync(0, weight, grad, { mean: state.mean, variance: plain }),
          refusal('states[0].variance'),
        );
        await expectRejection(optimizer.bind(0, plain, grad, state).stepAsync(), refusal('weights[0]'));
        const part = weight.data.subarray(0, 8); // of ours, whoever made the view
        expect(await optimizer.updateAsync(0, part, grad, state)).to.deep.equal({ skipped: false });
        expect(optimizer.numUpdate).to.equal(1);
      });
    });

    it('should reject what fusedStep() would throw, and change nothing', async () => {
      await here(async () => {
        const { optimizer, weight, state, bound, start, startBound } = small();
        await expectRejection(
          optimizer.updateAsync(0, weight, Tensor.zeros(7), state),
          'RangeError: Expected length 8 for grads[0] but received length 7',
        );
        await expectRejection(
          start({ zeroGrad: true } as never),
          'TypeError: Expected a known option for options but received "zeroGrad"; did you mean zeroGrads?',
        );
        await expectRejection(
          start({ signal: 'now' as never }),
          'TypeError: Expected an AbortSignal for signal but received "now"',
        );
        await expectRejection(
          startBound({ maxGradNorm: 0 }),
          'RangeError: Expected a positive number, or null for none, for maxGradNorm but received 0',
        );
        weight.dispose();
        for (const each of [start, startBound]) {
          await expectRejection(
            each(),
            'RangeError: Expected a live Tensor for weights[0] but received one that was disposed of',
          );
        }
        bound.dispose();
        await expectRejection(
          startBound(),
          'RangeError: Expected a live BoundStep for this but received one that was disposed of',
        );
        expect(optimizer.numUpdate).to.equal(0);
      });
    });

    it('should refuse a call inside a step of the optimizer', async () => {
      await here(async () => {
        let inner: Promise<unknown> | undefined;
        class Nested extends LRScheduler {
          protected override afterWarmup(): number {
            inner ??= scene.start();
            return 0.1;
          }
        }
        const scene = small(new AdamW({ lrScheduler: new Nested({ baseLr: 0.1 }) }));
        const promise = scene.start();
        await expectRejection(
          inner as Promise<unknown>,
          'RangeError: Expected a call outside of its steps for this but received one inside a step of this optimizer',
        );
        expect(await promise).to.deep.equal({ skipped: false });
        expect(scene.optimizer.numUpdate).to.equal(1);
      });
    });

    it('should be cancelled by a signal before their turn, and not after', async () => {
      await here(async () => {
        for (const how of ['start', 'startBound'] as const) {
          const { optimizer, [how]: start } = small();
          const reason = new Error('enough');
          expect(await rejectionOf(start({ signal: AbortSignal.abort(reason) }))).to.equal(reason);
          expect(optimizer.numUpdate).to.equal(0);
          const controller = new AbortController();
          const [first, second, third] = [
            start({ signal: controller.signal }),
            start({ signal: controller.signal }),
            start(),
          ];
          controller.abort(reason);
          expect(await first).to.deep.equal({ skipped: false });
          expect(await rejectionOf(second)).to.equal(reason);
          expect(await third).to.deep.equal({ skipped: false });
          expect(optimizer.numUpdate).to.equal(2);
        }
      });
    });

    for (const how of ['start', 'startBound'] as const) {
      it(`should be made whole or not at all at every depth of the stack: ${how}`, async () => {
        await here(async () => {
          const [scene, twin] = [small(), small()];
          const { optimizer, [how]: start, weight } = scene;
          await start(); // all that is made at the first call is there
          const deep = (frames: number): Promise<unknown> =>
            frames === 0 ? start({ maxGradNorm: 1e9 }) : deep(frames - 1);
          let room = 100;
          while ('value' in attempt(() => nested(room))) room += 100;
          let done = 1;
          let refused = 0;
          // Coarsely down to the first that has room, then from a little above it.
          for (let frames = room, stride = 50; done < 30; frames -= stride) {
            const [outcome] = await Promise.allSettled([
              (async () => {
                await null; // each from the same depth
                return deep(frames);
              })(),
            ]);
            if (outcome.status === 'fulfilled') done++;
            else refused++;
            if (outcome.status === 'fulfilled' && stride > 1) [frames, stride] = [frames + stride, 1];
            expect(optimizer.numUpdate, `at ${frames} frames: ${outcome.status}`).to.equal(done);
          }
          expect(refused).to.be.greaterThan(10);
          for (let t = 0; t < done; t++) twin.step();
          expect(weight.data).to.deep.equal(twin.weight.data);
          scene.step(); // nothing is left that keeps the optimizer busy
        });
      });
    }

    it('should find memory that other code has taken away meanwhile, or keep it', async () => {
      await here(async () => {
        const length = 100_000;
        const optimizer = new AdamW();
        const [weight, grad] = [Tensor.zeros(length), Tensor.zeros(length)];
        const state = optimizer.createState(0, weight);
        const promise = optimizer.updateAsync(0, weight, grad, state);
        attempt(() => detach(weight.data.buffer)); // of buffers that are marked some versions of Node make a copy
        expect(weight.data.length).to.equal(length);
        const { transfer } = ArrayBuffer.prototype as { transfer?: () => ArrayBuffer };
        const take = () => transfer?.call(weight.data.buffer);
        if (pinHolds) {
          if (transfer) expect(take).to.throw(TypeError);
          expect(await promise).to.deep.equal({ skipped: false });
        } else {
          take();
          await expectRejection(
            promise,
            'RangeError: Expected memory that is still there for weights[0] but received a detached ArrayBuffer',
          );
          expect(optimizer.numUpdate).to.equal(0);
        }
      });
    });
  });
}

describe('a step that native code takes beside JavaScript', () => {
  /** Scripts with `makeStep(length)`, whose memory is shared, so that it is so in every version of Node. */
  const SETUP = `
    const { AdamW, Tensor } = await import(libraryUrl);
    const zeros = (length) => Tensor.from(new SharedArrayBuffer(4 * length), { dtype: 'float32' });
    const makeStep = (length, makeZeros = zeros) => {
      const [weight, grad, mean, variance] = [1, 2, 3, 4].map(() => makeZeros(length));
      grad.data.fill(1);
      const optimizer = new AdamW();
      return { weight, optimizer, start: () => optimizer.updateAsync(0, weight, grad, { mean, variance }) };
    };`;
  const env = { FUSED_ADAMW_BACKEND: 'native' };
  const LARGE = 16 * 2 ** 20; // elements; a step of them takes several milliseconds

  for (const [where, length, makeZeros, reason] of [
    ['64 Mi in shared memory', 2 ** 26, 'zeros', null],
    [
      '16 Mi in memory of ours',
      LARGE,
      '(length) => Tensor.zeros(length)',
      pinHolds ? null : 'this engine lets it be taken away',
    ],
  ] as const) {
    itUnless(either(noNative, reason), `should let timers tick: ${where}`, function () {
      this.timeout(120_000);
      const source = `${SETUP}
        const { start } = makeStep(${length}, ${makeZeros});
        await start(); // touches all pages
        let ticks = 0;
        let longest = 0;
        let last = performance.now();
        const timer = setInterval(() => {
          ticks++;
          longest = Math.max(longest, performance.now() - last);
          last = performance.now();
        }, 1);
        const began = performance.now();
        for (let i = 0; i < 10; i++) await start();
        const took = performance.now() - began;
        clearInterval(timer);
        report({ ticks, took, longest });`;
      const { ticks, took } = reportOf(source, { env, timeout: 120 }) as { ticks: number; took: number };
      // Blocked, there would be one for each step at most.
      expect(ticks, `in ${took} ms`).to.be.greaterThan(20);
    });
  }

  itUnless(noNative, 'should keep the process until its promise is settled, and no longer', () => {
    const source = `${SETUP}
      makeStep(${LARGE}).start().then(({ skipped }) => report(skipped));`;
    expect(reportOf(source, { env })).to.equal(false);
  });

  itUnless(noNative, 'should not crash a process that exits during it', () => {
    const source = `${SETUP}
      const steps = [makeStep(${LARGE}), makeStep(${LARGE}), makeStep(100)];
      for (const { start } of steps) start();
      setTimeout(() => process.exit(5), 5);`;
    for (let round = 0; round < 3; round++) expectExit(runChild(source, { env }), 5);
  });

  itUnless(noNative, 'should not crash a process that exits at once, or fails', () => {
    expectExit(runChild(`${SETUP} makeStep(${LARGE}).start(); process.exit(6);`, { env }), 6);
    expectExit(runChild(`${SETUP} makeStep(${LARGE}).start(); throw new Error('planned');`, { env }), 1);
  });

  itUnless(noNative, 'should end before the memory of a worker that is terminated', function () {
    this.timeout(120_000);
    const body = `
      const { parentPort, workerData } = require('node:worker_threads');
      (async () => {
        const { AdamW, Tensor } = await import(workerData.url);
        const zeros = (length) =>
          workerData.isShared
            ? Tensor.from(new SharedArrayBuffer(4 * length), { dtype: 'float32' })
            : Tensor.zeros(length);
        const steps = [4e6, 4e6, 100].map((length) => {
          const [weight, grad, mean, variance] = [1, 2, 3, 4].map(() => zeros(length));
          const optimizer = new AdamW({ maxGradNorm: 1 });
          return () => optimizer.updateAsync(0, weight, grad, { mean, variance });
        });
        parentPort.postMessage('begun');
        for (;;) await Promise.all(steps.map((step) => step()));
      })();`;
    const source = `${SETUP}
      import { Worker } from 'node:worker_threads';
      for (let round = 0; round < 8; round++) {
        const workers = [false, true].map((isShared) => {
          const workerData = { url: libraryUrl, isShared };
          return new Worker(${JSON.stringify(body)}, { eval: true, workerData, execArgv: [] });
        });
        await Promise.all(workers.map((worker) => new Promise((resolve, reject) => worker.on('message', resolve).on('error', reject))));
        await new Promise((resolve) => setTimeout(resolve, 3 * round));
        await Promise.all(workers.map((worker) => worker.terminate()));
      }
      const { start, optimizer } = makeStep(1000);
      await start();
      report(optimizer.numUpdate);`;
    expect(reportOf(source, { env, timeout: 110 })).to.equal(1);
  });

  itUnless(noNative, 'should keep its memory when all else has let go of it', function () {
    this.timeout(60_000);
    const source = `${SETUP}
      let steps = Array.from({ length: 4 }, () => makeStep(2 ** 20, (length) => Tensor.zeros(length)));
      const promises = steps.map(({ start }) => start());
      steps = null;
      gc();
      const results = await Promise.all(promises);
      report(results.every(({ skipped }) => !skipped));`;
    expect(reportOf(source, { env, flags: ['--expose-gc'] })).to.equal(true);
  });
});
