/** Bound steps and kept lists whose memory is detached or disposed of, and other calls that they refuse. */
import { MessageChannel, receiveMessageOnPort } from 'node:worker_threads';
import { expect } from 'chai';
import { AdamW, type Tensor } from '../lib/index.js';
import { describeOnEachBackend } from './support/backends.js';
import { bytesOf, detach } from './support/buffers.js';
import { type ErrorClass, expectError } from './support/errors.js';
import { DISPOSED, shares, TENSOR } from './support/messages.js';
import { callersTensor, expectGoodStep, LENGTH, likeTensor, Scene, zeros } from './support/scene.js';
import { Schedule } from './support/schedulers.js';
import { DONE } from './support/steps.js';

const ENTRIES = ['step', 'fusedStep', 'update', 'bind'] as const;

/** How memory may be detached between two steps. */
const GONE: readonly { how: string; take: (buffer: ArrayBuffer) => ArrayBuffer }[] = [
  { how: 'structuredClone', take: detach },
  {
    how: 'postMessage',
    take: (buffer) => {
      const { port1, port2 } = new MessageChannel();
      port1.postMessage(buffer, [buffer]);
      const received: { message: ArrayBuffer } | undefined = receiveMessageOnPort(port2);
      port1.close();
      return received?.message ?? new ArrayBuffer(0);
    },
  },
];

describeOnEachBackend('errors of bound steps', (run) => {
  for (const { how, take } of GONE) {
    for (const role of ['weight', 'grad', 'mean', 'variance', 'master'] as const) {
      it(`should throw if ${how} detached the ${role} of the last tensor`, () => {
        run(() => {
          for (const bad of [0, 2]) {
            const tensors = [0, 1, 2].map(() => callersTensor(role === 'master'));
            const optimizer = new AdamW();
            const weights = tensors.map(({ arrays }) => likeTensor(arrays.weight));
            const grads = tensors.map(({ arrays }) => likeTensor(arrays.grad));
            const states = tensors.map(({ state }) => state);
            const boundStep = optimizer.bind([0, 1, 2], weights, grads, states);
            optimizer.fusedStep([0, 1, 2], weights, grads, states);
            boundStep.step();

            const buffer = tensors[bad].arrays[role].buffer as ArrayBuffer;
            const held = bytesOf(buffer);
            const taken = take(buffer);
            const all = (): string[] =>
              tensors.flatMap(({ arrays }) => Object.values(arrays).map((array) => bytesOf(array.buffer)));
            const before = all();
            const name = role === 'weight' || role === 'grad' ? `${role}s[${bad}]` : `states[${bad}].${role}`;
            const message = `Expected memory that is still there for ${name} but received a detached ArrayBuffer`;
            for (let again = 0; again < 2; again++) {
              expectError(() => boundStep.step(), RangeError, message, 'the bound step');
              for (const entry of ['step', 'fusedStep', 'update'] as const) {
                expectError(() => optimizer[entry]([0, 1, 2], weights, grads, states), RangeError, message, entry);
              }
            }
            expect(bytesOf(taken), 'the memory that was taken').to.equal(held);
            expect(all(), 'all other memory').to.deep.equal(before);
            expect(optimizer.numUpdate).to.equal(2);
            expect([0, 1, 2].map((index) => optimizer.updateCount(index))).to.deep.equal([2, 2, 2]);
          }
        });
      });
    }
  }

  for (const role of ['weights', 'grads', 'mean', 'variance', 'master'] as const) {
    it(`should throw if the ${role} of the last tensor was disposed of`, () => {
      run(() => {
        const scene = new Scene(3, 'float16', { multiPrecision: true });
        const { indices, weights, grads, states } = scene.good;
        const boundStep = scene.optimizer.bind(indices, weights, grads, states);
        scene.goodStep();
        boundStep.step();
        const [tensor, name] =
          role === 'weights' || role === 'grads'
            ? [scene.good[role][2], `${role}[2]`]
            : [states[2][role] as Tensor, `states[2].${role}`];
        const memory = tensor.data;
        tensor.dispose();
        const before = scene.snapshot(memory);
        const message = `Expected a live Tensor for ${name} but received ${DISPOSED}`;
        for (let again = 0; again < 2; again++) {
          expectError(() => boundStep.step(), RangeError, message, 'the bound step');
          for (const entry of ENTRIES) {
            expectError(() => scene.optimizer[entry](indices, weights, grads, states), RangeError, message, entry);
          }
        }
        expect(scene.snapshot(memory)).to.deep.equal(before);
      });
    });
  }

  it('should still step if a tensor that is not bound was disposed of', () => {
    run(() => {
      const scene = new Scene(2);
      const { indices, weights, grads, states } = scene.good;
      const boundStep = scene.optimizer.bind(indices, weights, grads, states);
      zeros('float32').dispose();
      expect(boundStep.step()).to.deep.equal(DONE);
      expect(boundStep.step()).to.deep.equal(DONE);
    });
  });

  it('should throw if memory is detached while the step calls the scheduler', () => {
    run(() => {
      for (const role of ['weight', 'grad', 'mean', 'variance'] as const) {
        const { arrays, state } = callersTensor(false);
        const { weight, grad } = arrays as Record<string, Float32Array>;
        const held = bytesOf(arrays[role].buffer);
        let taken: ArrayBuffer | undefined;
        const lrScheduler = new Schedule(() => {
          taken ??= detach(arrays[role].buffer);
          return 0.1;
        });
        const optimizer = new AdamW({ lrScheduler });
        const boundStep = optimizer.bind(0, weight, grad, state);
        const name = role === 'weight' || role === 'grad' ? `${role}s[0]` : `states[0].${role}`;
        expectError(
          () => boundStep.step(),
          RangeError,
          `Expected memory that is still there for ${name} but received a detached ArrayBuffer`,
        );
        expect(bytesOf(taken as ArrayBuffer), `the ${role} that was taken`).to.equal(held);
        expect(optimizer.numUpdate).to.equal(0);
      }
    });
  });

  it('should throw if memory is detached while the step reads paramDict', () => {
    run(() => {
      const { arrays, state } = callersTensor(false);
      const { weight, grad } = arrays as Record<string, Float32Array>;
      const held = bytesOf(weight.buffer);
      let bound = false;
      let taken: ArrayBuffer | undefined;
      const parameter = {
        get lrMult() {
          if (bound) taken ??= detach(weight.buffer);
          return 1;
        },
      };
      const optimizer = new AdamW({ paramDict: { 0: parameter } });
      const boundStep = optimizer.bind(0, weight, grad, state);
      bound = true;
      expectError(
        () => boundStep.step(),
        RangeError,
        'Expected memory that is still there for weights[0] but received a detached ArrayBuffer',
      );
      expect(bytesOf(taken as ArrayBuffer), 'the memory that was taken').to.equal(held);
      expect(optimizer.numUpdate).to.equal(0);
    });
  });

  for (const [where, optionsOf] of [
    [
      'the scheduler',
      (call: () => void) => {
        const rate = (): number => {
          call();
          return 0.1;
        };
        return { lrScheduler: new Schedule(rate) };
      },
    ],
    [
      'paramDict',
      (call: () => void) => {
        const parameter = {
          get wdMult() {
            call();
            return 1;
          },
        };
        return { paramDict: { 0: parameter } };
      },
    ],
  ] as const) {
    it(`should refuse a step inside a step, made by ${where}`, () => {
      run(() => {
        let attempts: (() => unknown)[] = [];
        const call = (): void => {
          for (const attempt of attempts.splice(0)) {
            expectError(
              attempt,
              RangeError,
              'Expected a call outside of its steps for this but received one inside a step of this optimizer',
            );
          }
        };
        const scene = new Scene(2, 'float32', optionsOf(call));
        const twin = new Scene(
          2,
          'float32',
          optionsOf(() => {}),
        );
        const { indices, weights, grads, states } = scene.good;
        const boundStep = scene.optimizer.bind(indices, weights, grads, states);
        const partOfIt = [[1], [weights[1]], [grads[1]], [states[1]]] as const;
        attempts = [
          () => boundStep.step(),
          () => scene.optimizer.step(...partOfIt),
          () => scene.optimizer.fusedStep(...partOfIt),
          () => scene.optimizer.bind(...partOfIt).step(),
        ];
        boundStep.step();
        expect(attempts, 'attempts that were not made').to.have.length(0);
        twin.goodStep();
        expect(scene.values()).to.deep.equal(twin.values());
        expectGoodStep(scene, twin, 'a step inside a step');
      });
    });

    it(`should change nothing if ${where} disposes of the step, and of the optimizer's arrays`, () => {
      run(() => {
        let call = (): void => {};
        const scene = new Scene(
          2,
          'float32',
          optionsOf(() => call()),
        );
        const { indices, weights, grads, states } = scene.good;
        const boundStep = scene.optimizer.bind(indices, weights, grads, states);
        scene.goodStep();
        const before = scene.snapshot();
        const message =
          'Expected a call outside of its steps for this but received one inside a step of this optimizer';
        call = () => scene.optimizer.dispose();
        expectError(() => scene.goodStep(), RangeError, message);
        call = () => boundStep.dispose();
        expectError(() => boundStep.step(), RangeError, message);
        call = () => {
          throw new Error('the caller');
        };
        expectError(() => scene.goodStep(), Error, 'the caller');
        expect(scene.snapshot()).to.deep.equal(before);
        call = () => {};
        scene.goodStep();
        expect(scene.optimizer.numUpdate).to.equal(2);
      });
    });
  }

  const badGrads: readonly [string, (scene: Scene) => unknown, ErrorClass, string][] = [
    ['undefined', () => undefined, TypeError, 'Expected a list for grads but received undefined'],
    ['null', () => null, TypeError, 'Expected a list for grads but received null'],
    ['one array', ({ good }) => good.grads[0], TypeError, 'Expected a list for grads but received a Tensor'],
    [
      'one too few',
      ({ good }) => good.grads.slice(1),
      RangeError,
      'Expected a list of length 3 for grads but received one of length 2',
    ],
    [
      'one too many',
      ({ good }) => [...good.grads, zeros('float32')],
      RangeError,
      'Expected a list of length 3 for grads but received one of length 4',
    ],
    [
      'a hole',
      ({ good }) => [...good.grads.slice(1), undefined],
      TypeError,
      `Expected ${TENSOR} for grads[2] but received undefined`,
    ],
    [
      'another dtype',
      ({ good }) => [...good.grads.slice(1), zeros('float64')],
      TypeError,
      'Expected float32 for grads[2] but received float64',
    ],
    [
      'another length',
      ({ good }) => [...good.grads.slice(1), new Float32Array(4)],
      RangeError,
      `Expected length ${LENGTH} for grads[2] but received length 4`,
    ],
    ['a weight', ({ good }) => [...good.grads.slice(1), good.weights[0]], RangeError, shares('weights[0]', 'grads[2]')],
    [
      'detached memory',
      ({ good }) => {
        const gone = new Float32Array(LENGTH);
        detach(gone.buffer);
        return [...good.grads.slice(1), gone];
      },
      RangeError,
      'Expected memory that is still there for grads[2] but received a detached ArrayBuffer',
    ],
  ];
  for (const [title, makeGrads, error, message] of badGrads) {
    it(`should refuse ${title} in setGrads() and keep the bound gradients`, () => {
      run(() => {
        const [scene, twin] = [new Scene(3), new Scene(3)];
        const [step, twinStep] = [scene, twin].map(({ optimizer, good: { indices, weights, grads, states } }) =>
          optimizer.bind(indices, weights, grads, states),
        );
        const before = scene.snapshot();
        expectError(() => step.setGrads(makeGrads(scene) as never), error, message);
        expect(scene.snapshot()).to.deep.equal(before);
        step.step();
        twinStep.step();
        expect(scene.values()).to.deep.equal(twin.values());
      });
    });
  }

  it('should ignore later changes to the list of gradients', () => {
    run(() => {
      const [scene, twin] = [new Scene(2), new Scene(2)];
      const [step, twinStep] = [scene, twin].map(({ optimizer, good: { indices, weights, grads, states } }) =>
        optimizer.bind(indices, weights, grads, states),
      );
      const list: unknown[] = [...scene.good.grads];
      step.setGrads(list as never);
      list[0] = null;
      step.step();
      twinStep.step();
      expect(scene.values()).to.deep.equal(twin.values());
    });
  });

  it('should refuse every call after dispose()', () => {
    run(() => {
      const scene = new Scene(2);
      const { indices, weights, grads, states } = scene.good;
      const boundStep = scene.optimizer.bind(indices, weights, grads, states);
      boundStep.dispose();
      boundStep.dispose();
      const before = scene.snapshot();
      const message = 'Expected a live BoundStep for this but received one that was disposed of';
      expectError(() => boundStep.step(), RangeError, message);
      expectError(() => boundStep.setGrads(grads), RangeError, message);
      expect(scene.snapshot()).to.deep.equal(before);
    });
  });

  it('should refuse a learning rate that was set after binding, and continue after it is corrected', () => {
    run(() => {
      const scene = new Scene(2, 'float32', { correctBias: false });
      const { indices, weights, grads, states } = scene.good;
      const boundStep = scene.optimizer.bind(indices, weights, grads, states);
      boundStep.step();
      const before = scene.snapshot();
      scene.optimizer.setLearningRate(1e39);
      const message = 'Expected a number that float32 can hold for learningRate but received 1e+39';
      expectError(() => boundStep.step(), RangeError, message);
      expect(scene.snapshot()).to.deep.equal(before);
      scene.optimizer.setLearningRate(0.1);
      expect(boundStep.step()).to.deep.equal(DONE);
      expect(scene.optimizer.numUpdate).to.equal(2);
    });
  });

  it('should use the lists again after the optimizer was disposed of', () => {
    run(() => {
      const [scene, twin] = [new Scene(2), new Scene(2)];
      scene.goodStep();
      twin.goodStep();
      scene.optimizer.dispose();
      scene.optimizer.dispose();
      expectGoodStep(scene, twin, 'after dispose');
    });
  });
});
