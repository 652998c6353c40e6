/** Steps on a GPU, against those on the CPU. */
import { setImmediate } from 'node:timers/promises';
import { Worker } from 'node:worker_threads';
import { expect } from 'chai';
import { AdamW, multiAdamwUpdate, synchronize, syncMaster, Tensor, waitEvent } from '../lib/index.js';
import { expectSameBits } from './support/bits.js';
import { reportOf } from './support/child.js';
import { collectGarbage, either, itUnless, noCuda, noGc } from './support/conditions.js';
import { deviceBytes, deviceMemory, noDriverCalls, noSecondGpu, noStandIn, useDriverCalls } from './support/cuda.js';
import { attempt, expectError } from './support/errors.js';
import { valuesIn } from './support/memory.js';
import {
  cloneModel,
  DTYPE_CONFIGS,
  type DTypeConfig,
  dtypesOf,
  expectSameModel,
  type Model,
  makeGrads,
  makeModel,
} from './support/model.js';
import { randomFrom, randomGrads, randomTensor, randomWeights } from './support/random.js';
import { SKIPPED } from './support/steps.js';
import { quietly } from './support/warnings.js';

const driverCalls = useDriverCalls();

/** A model with all its arrays on a GPU. */
function toDevice(model: Model): Model {
  return cloneModel(model, deviceMemory);
}

const OPTIONS = { learningRate: 0.01, wd: 0.05, clipGradient: 3 };
const SPECS: readonly (readonly [DTypeConfig, number])[] = DTYPE_CONFIGS.flatMap((config, i) => [
  [config, 100 + i] as const,
  [config, 9000 + i] as const,
]);

describe('a step on a GPU', () => {
  itUnless(noCuda, 'should create states on the GPU, with the same bits as on the CPU', () => {
    for (const config of DTYPE_CONFIGS) {
      const { dtype, gradDType, stateDType, hasMaster, hasMaximum } = dtypesOf(config);
      const options = {
        ...OPTIONS,
        multiPrecision: hasMaster,
        amsgrad: hasMaximum,
        stateDtype: stateDType === 'float64' ? null : stateDType,
      };
      const random = randomFrom(5);
      const weight = Tensor.zeros(777, { dtype }).set(randomWeights(random, 777));
      const grad = Tensor.zeros(777, { dtype: gradDType }).set(randomGrads(random, 777));
      const results = [weight.to('cuda'), weight].map((w) => {
        const optimizer = new AdamW(options);
        const state = quietly(() => optimizer.createState('w', w));
        expect((state.mean as Tensor).dtype).to.equal(stateDType);
        expect((state.variance as Tensor).device).to.equal(w.device);
        for (let t = 0; t < 3; t++) quietly(() => optimizer.update('w', w, grad.to(w.device), state));
        expect(optimizer.updateCount('w', w.device)).to.equal(3);
        return { indices: [0], weights: [w], states: [state] };
      });
      expectSameModel(results[0], results[1], config);
    }
  });

  itUnless(noDriverCalls, 'should wait for the event of another library by waitEvent()', async () => {
    const { createStream, fill, recordEvent } = driverCalls();
    const [theirs, ours] = [createStream(), createStream()];
    const filled = new Float32Array(new Uint8Array(20_000).fill(0x3c).buffer);
    const slow = new AdamW({ ...OPTIONS, stream: theirs }); // so that their work takes a while
    const large = Tensor.zeros(300_000, { device: 'cuda' });
    const zeros = Tensor.zeros(300_000, { device: 'cuda' });
    const state = slow.createState(0, large);
    for (const stream of [0n, ours]) {
      for (let i = 0; i < 3; i++) {
        const grad = Tensor.zeros(5000, { device: 'cuda' });
        const copy = Tensor.zeros(5000, { pinned: true });
        const [there, here] = [Tensor.zeros(5000, { device: 'cuda' }), Tensor.zeros(5000)];
        synchronize();
        const [optimizer, expected] = [new AdamW({ ...OPTIONS, stream }), new AdamW(OPTIONS)];
        slow.update(0, large, zeros, state);
        for (let k = 0; k < 100; k++) fill(zeros.pointer, theirs);
        fill(grad.pointer, theirs);
        waitEvent(recordEvent(theirs), { stream });
        optimizer.update(0, there, grad, optimizer.createState(0, there));
        await copy.copyAsync(grad);
        expected.update(0, here, filled, expected.createState(0, here));
        expect([...there.toArray()]).to.deep.equal([...here.toArray()]);
        expect([...copy.toArray()]).to.deep.equal([...filled]);
      }
    }
    expectError(() => waitEvent(0n), RangeError, 'Expected a CUevent for event but received 0n');
    expect(() => waitEvent('x' as never)).to.throw(TypeError, 'event');
    expect(() => waitEvent(1n, { device: 'cpu' })).to.throw(RangeError, "Expected 'cuda' or 'cuda:N' for device");
    const elsewhere = driverCalls().createStreamElsewhere();
    expect(() => waitEvent(recordEvent(theirs), { stream: elsewhere })).to.throw(
      RangeError,
      'Expected a stream of cuda:0',
    );
  });

  itUnless(noStandIn, 'should take new gradients of 10,000 tensors in at most 5 ms of the host', () => {
    const list = (): Tensor[] => Array.from({ length: 10_000 }, () => Tensor.zeros(2, { device: 'cuda' }));
    const weights = list();
    const grads = [list(), list()];
    const optimizer = new AdamW(OPTIONS);
    const indices = weights.map((_, i) => i);
    const states = weights.map((weight, i) => optimizer.createState(i, weight));
    const bound = optimizer.bind(indices, weights, grads[0], states);
    const rounds = Array.from({ length: 20 }, (_, round) => {
      synchronize();
      const start = performance.now();
      bound.setGrads(grads[round % 2]);
      bound.step();
      return performance.now() - start;
    });
    expect(Math.min(...rounds)).to.be.below(5);
  });

  itUnless(noCuda, 'should see fresh gradients at each step and leave them unchanged', () => {
    const random = randomFrom(8);
    const host = makeModel(SPECS, random);
    const device = toDevice(host);
    const [onHost, onDevice] = [new AdamW(OPTIONS), new AdamW(OPTIONS)];
    for (let t = 0; t < 6; t++) {
      const grads = makeGrads(host, random);
      const there = grads.map((grad) => (grad as Tensor).to('cuda'));
      quietly(() => onHost.fusedStep(host.indices, host.weights, grads, host.states));
      quietly(() => onDevice.fusedStep(device.indices, device.weights, there, device.states));
      if (t % 2 === 0) continue; // so that no copy synchronizes the steps
      for (const [i, grad] of there.entries()) expectSameBits(valuesIn(grad), valuesIn(grads[i]), `grads[${i}]`);
    }
    expectSameModel(device, host, 'after six steps');
  });

  itUnless(noCuda, 'should be the same by step(), with a few tensors per call, and by bind()', () => {
    const random = randomFrom(9);
    const host = makeModel(SPECS, random);
    const grads = makeGrads(host, random);
    const there = grads.map((grad) => (grad as Tensor).to('cuda'));
    const ways: ((optimizer: AdamW, model: Model) => unknown)[] = [
      (optimizer, { indices, weights, states }) => optimizer.step(indices, weights, there, states),
      (optimizer, { indices, weights, states }) => optimizer.fusedStep(indices, weights, there, states),
      (optimizer, { indices, weights, states }) => optimizer.bind(indices, weights, there, states).step(),
    ];
    const models = ways.flatMap((way) =>
      [Infinity, 0, 3].map((aggregateNum) => {
        const model = toDevice(host);
        const optimizer = new AdamW({ ...OPTIONS, aggregateNum });
        for (let t = 0; t < 2; t++) quietly(() => way(optimizer, model));
        return model;
      }),
    );
    const optimizer = new AdamW(OPTIONS);
    for (let t = 0; t < 2; t++) {
      quietly(() => optimizer.fusedStep(host.indices, host.weights, grads, host.states));
    }
    for (const [i, model] of models.entries()) expectSameModel(model, host, `way ${i}`);
  });

  itUnless(noCuda, 'should be one call over tensors of several devices, with counts per device', () => {
    const random = randomFrom(10);
    const host = makeModel(SPECS, random);
    const mixed = cloneModel(host);
    const onGpu = toDevice(host);
    const isOnGpu = (i: number): boolean => i % 3 !== 0;
    const model: Model = {
      indices: host.indices,
      weights: mixed.weights.map((weight, i) => (isOnGpu(i) ? onGpu.weights[i] : weight)),
      states: mixed.states.map((state, i) => (isOnGpu(i) ? onGpu.states[i] : state)),
    };
    const [expected, optimizer] = [new AdamW(OPTIONS), new AdamW({ ...OPTIONS, aggregateNum: 4 })];
    for (let t = 0; t < 3; t++) {
      const grads = makeGrads(host, random);
      quietly(() => expected.fusedStep(host.indices, host.weights, grads, host.states));
      const there = grads.map((grad, i) => (isOnGpu(i) ? (grad as Tensor).to('cuda') : grad));
      quietly(() => optimizer.fusedStep(model.indices, model.weights, there, model.states));
    }
    expectSameModel(model, host, 'mixed');
    expect(optimizer.updateCount(1, 'cuda:0')).to.equal(3);
    expect(optimizer.updateCount(1)).to.equal(0);
    expect(optimizer.updateCount(3)).to.equal(3);
    expect(optimizer.numUpdate).to.equal(3);
  });

  itUnless(
    noSecondGpu,
    'should be one call over tensors of two GPUs, and refuse a tensor whose arrays are on both',
    () => {
      const random = randomFrom(16);
      const host = makeModel(SPECS, random);
      const deviceOf = (i: number): 'cuda:0' | 'cuda:1' => (i % 2 === 0 ? 'cuda:0' : 'cuda:1');
      const moved = (tensor: Tensor, i: number): Tensor => tensor.to(deviceOf(i));
      const model: Model = {
        indices: host.indices,
        weights: host.weights.map((weight, i) => moved(weight as Tensor, i)),
        states: host.states.map(({ mean, variance, master, maxVariance }, i) => ({
          mean: moved(mean as Tensor, i),
          variance: moved(variance as Tensor, i),
          maxVariance: maxVariance && moved(maxVariance as Tensor, i),
          master: master && moved(master as Tensor, i),
        })),
      };
      const [expected, optimizer] = [new AdamW(OPTIONS), new AdamW(OPTIONS)];
      for (let t = 0; t < 3; t++) {
        const grads = makeGrads(host, random) as Tensor[];
        quietly(() => expected.fusedStep(host.indices, host.weights, grads, host.states));
        quietly(() => optimizer.fusedStep(model.indices, model.weights, grads.map(moved), model.states));
      }
      expectSameModel(model, host, 'two GPUs');
      expect([optimizer.updateCount(0, 'cuda:0'), optimizer.updateCount(1, 'cuda:1')]).to.deep.equal([3, 3]);
      expectError(
        () => optimizer.fusedStep(0, model.weights[0], (model.weights[0] as Tensor).to('cuda:1'), model.states[0]),
        RangeError,
        'Expected memory on cuda:0, as of the weight, for grads[0] but received memory on cuda:1',
      );
    },
  );

  itUnless(noCuda, 'should count replicas of a tensor on two devices separately', () => {
    const optimizer = new AdamW();
    const weights = [randomTensor('float32', 50), randomTensor('float32', 50).to('cuda')];
    const grads = weights.map((weight) =>
      Tensor.zeros(50, { device: weight.device }).copyFrom(randomTensor('float32', 50, 2)),
    );
    const states = weights.map((weight) => optimizer.createState(0, weight));
    optimizer.fusedStep([0, 0], weights, grads, states);
    optimizer.fusedStep([0, 0], weights, grads, states);
    expect(optimizer.numUpdate).to.equal(2);
    expectSameBits(valuesIn(weights[1]), weights[0].data, 'replica');
    expectError(
      () => optimizer.fusedStep([0, 0], [weights[1], weights[1]], [grads[1], grads[1]], [states[1], states[1]]),
      RangeError,
      'Expected an index of its own for indices[1] but received 0, as indices[0]',
    );
  });

  itUnless(noCuda, 'should accept 10,000 tensors with separate counts', () => {
    const random = randomFrom(11);
    const configs: DTypeConfig[] = ['float32', 'bfloat16+master', 'float64'];
    const specs = Array.from({ length: 10_000 }, (_, i) => [configs[i % 3], 1 + (i % 70)] as const);
    const host = makeModel(specs, random);
    const grads = makeGrads(host, random);
    const device = toDevice(host);
    const there = grads.map((grad) => (grad as Tensor).to('cuda'));
    const [onHost, onDevice] = [new AdamW(OPTIONS), new AdamW(OPTIONS)];
    for (const optimizer of [onHost, onDevice]) {
      optimizer.setLrMult(new Map(host.indices.map((index, i) => [index, 1 + i / 10_000])));
    }
    for (let t = 0; t < 2; t++) {
      onHost.fusedStep(host.indices, host.weights, grads, host.states);
      onDevice.fusedStep(device.indices, device.weights, there, device.states);
    }
    expectSameModel(device, host, 'multipliers of their own');
    for (let i = 0; i < 40; i++) {
      const part = <T>(list: readonly T[]): T[] => list.slice(0, 250 * (i + 1));
      onHost.fusedStep(part(host.indices), part(host.weights), part(grads), part(host.states));
      onDevice.fusedStep(part(device.indices), part(device.weights), part(there), part(device.states));
    }
    onHost.fusedStep(host.indices, host.weights, grads, host.states);
    onDevice.fusedStep(device.indices, device.weights, there, device.states);
    expectSameModel(device, host, 'counts of their own');
  });

  const fourArrays = 4 * 2 * (2 ** 31 + 5000);
  const tooSmall =
    noCuda ?? (deviceBytes > 1.1 * fourArrays ? null : `it needs ${fourArrays} bytes and the GPU has ${deviceBytes}`);
  itUnless(tooSmall, 'should accept a tensor of more than 2^31 elements', () => {
    const length = 2 ** 31 + 5000;
    const zeros = () => Tensor.zeros(length, { dtype: 'float16', device: 'cuda' });
    const arrays = [zeros(), zeros(), zeros(), zeros()];
    // Windows at both ends and around element 2^31.
    const windows = [0, 2 ** 31 - 2048, length - 3000];
    const size = 3000;
    const view = (tensor: Tensor, start: number) =>
      Tensor.fromDevicePointer(tensor.pointer + 2n * BigInt(start), { shape: size, dtype: 'float16', owner: tensor });
    const specs = windows.map(() => ['float16', size] as const);
    const host = makeModel(specs, randomFrom(12));
    const grads = makeGrads(host, randomFrom(13)) as Tensor[];
    windows.forEach((start, i) => {
      view(arrays[0], start).copyFrom(host.weights[i] as Tensor);
      view(arrays[1], start).copyFrom(grads[i]);
    });
    const [onHost, onDevice] = [new AdamW(OPTIONS), new AdamW(OPTIONS)];
    for (let t = 0; t < 2; t++) {
      quietly(() => onDevice.fusedStep(0, arrays[0], arrays[1], { mean: arrays[2], variance: arrays[3] }));
      // The windows do not overlap: each is a separate tensor on the CPU.
      quietly(() => onHost.fusedStep(host.indices, host.weights, grads, host.states));
    }
    windows.forEach((start, i) => {
      const { mean, variance } = host.states[i];
      for (const [array, expected] of [
        [arrays[0], host.weights[i]],
        [arrays[2], mean],
        [arrays[3], variance],
      ] as const) {
        expectSameBits(valuesIn(view(array, start)), valuesIn(expected), `window at ${start}`);
      }
    });
    for (const array of arrays) array.dispose();
  });

  itUnless(noCuda, 'should run multiAdamwUpdate', () => {
    const random = randomFrom(14);
    const host = makeModel(
      SPECS.filter(([config]) => !dtypesOf(config).hasMaster && !dtypesOf(config).hasMaximum),
      random,
    );
    const grads = makeGrads(host, random);
    const device = toDevice(host);
    const there = grads.map((grad) => (grad as Tensor).to('cuda'));
    for (const [model, g] of [
      [host, grads],
      [device, there],
    ] as const) {
      const { weights, states } = model;
      multiAdamwUpdate(
        weights,
        g,
        states.map(({ mean }) => mean),
        states.map(({ variance }) => variance),
        { etas: weights.map(() => 0.5), lrs: weights.map((_, i) => 0.01 * i), wds: weights.map(() => 0.1), seed: 3 },
      );
    }
    expectSameModel(device, host, 'multiAdamwUpdate');
  });

  itUnless(noCuda, 'should run syncMaster', () => {
    const weight = randomTensor('float16', 20).to('cuda');
    const optimizer = new AdamW({ multiPrecision: true });
    const state = optimizer.createState(0, weight);
    weight.copyFrom(randomTensor('float16', 20, 7));
    syncMaster(weight, state);
    expect((state.master as Tensor).toArray()).to.deep.equal(weight.toArray());
  });

  itUnless(noCuda, 'should be skipped as it is on the CPU', () => {
    const weight = randomTensor('float32', 20).to('cuda');
    const optimizer = new AdamW();
    const state = optimizer.createState(0, weight);
    const before = weight.toArray();
    optimizer.rescaleGrad = NaN;
    expect(optimizer.update(0, weight, weight.to('cpu').to('cuda'), state)).to.deep.equal(SKIPPED);
    expect(weight.toArray()).to.deep.equal(before);
    expect(optimizer.numUpdate).to.equal(0);
  });

  itUnless(noCuda, 'should refuse invalid tensors and change nothing', () => {
    const optimizer = new AdamW();
    const weight = randomTensor('float32', 20).to('cuda');
    const before = weight.toArray();
    const state = optimizer.createState(0, weight);
    const grad = randomTensor('float32', 20).to('cuda');
    const part = Tensor.fromDevicePointer(weight.pointer + 4n, { shape: 10, dtype: 'float32', owner: weight });
    const rows = [
      [
        () => optimizer.update(0, weight, grad.to('cpu'), state),
        'Expected memory on cuda:0, as of the weight, for grads[0] but received memory on cpu',
      ],
      [
        () => optimizer.update(0, weight, grad, { ...state, variance: Tensor.zeros(20) }),
        'Expected memory on cuda:0, as of the weight, for states[0].variance but received memory on cpu',
      ],
      [
        () => optimizer.update(0, weight.to('cpu'), grad, { mean: Tensor.zeros(20), variance: Tensor.zeros(20) }),
        'Expected memory on cpu, as of the weight, for grads[0] but received memory on cuda:0',
      ],
      [
        () => optimizer.update(0, weight, Tensor.zeros(19, { device: 'cuda' }), state),
        'Expected length 20 for grads[0] but received length 19',
      ],
      [
        () => optimizer.update(0, weight, weight, state),
        'Expected memory of its own for weights[0] but received memory shared with grads[0]',
      ],
      [
        () =>
          optimizer.update(
            [0, 1],
            [weight, part],
            [grad, Tensor.zeros(10, { device: 'cuda' })],
            [state, optimizer.createState(1, part)],
          ),
        'Expected memory of its own for weights[1] but received memory shared with weights[0]',
      ],
    ] as const;
    for (const [call, message] of rows) expectError(call, RangeError, message);
    const bound = optimizer.bind(0, weight, grad, state);
    grad.dispose();
    expectError(
      () => bound.step(),
      RangeError,
      'Expected a live Tensor for grads[0] but received one that was disposed of',
    );
    expect(weight.toArray()).to.deep.equal(before);
    expect(optimizer.numUpdate).to.equal(0);
  });

  itUnless(noDriverCalls, 'should run on a given stream, in order with our copies', () => {
    const { createStream, createStreamElsewhere, synchronizeStream } = driverCalls();
    const random = randomFrom(15);
    const host = makeModel(SPECS, random);
    const streams = [createStream(), createStream()];
    const devices = streams.map(() => toDevice(host));
    const optimizers = streams.map((stream) => new AdamW({ ...OPTIONS, stream }));
    const expected = new AdamW(OPTIONS);
    for (let t = 0; t < 4; t++) {
      const grads = makeGrads(host, random);
      quietly(() => expected.fusedStep(host.indices, host.weights, grads, host.states));
      devices.forEach(({ indices, weights, states }, i) => {
        const there = grads.map((grad) => (grad as Tensor).to('cuda'));
        quietly(() => optimizers[i].fusedStep(indices, weights, there, states));
      });
    }
    for (const device of devices) expectSameModel(device, host, 'two streams');
    for (const stream of streams) synchronizeStream(stream);

    const weight = Tensor.zeros(3, { device: 'cuda' });
    const foreign = new AdamW({ stream: createStreamElsewhere() });
    expectError(
      () => foreign.update(0, weight, Tensor.zeros(3, { device: 'cuda' }), foreign.createState(0, weight)),
      RangeError,
      'Expected a stream of cuda:0 for stream but received a stream of another context than the primary one of cuda:0',
    );
    expect(foreign.numUpdate).to.equal(0);
  });

  itUnless(noCuda, "should accept the driver's constant for the default stream", () => {
    const host = randomTensor('float32', 100);
    const grad = randomTensor('float32', 100, 2);
    const results = [host.to('cuda'), host].map((weight) => {
      const optimizer = new AdamW({ ...OPTIONS, stream: 1n }); // CU_STREAM_LEGACY
      optimizer.update(0, weight, grad.to(weight.device), optimizer.createState(0, weight));
      return valuesIn(weight);
    });
    expectSameBits(results[0], results[1], 'CU_STREAM_LEGACY');
  });

  itUnless(
    either(noDriverCalls, noStandIn),
    'should fail as a whole, and only for its optimizer, if the device fails',
    () => {
      const { createStream, fail } = driverCalls();
      const stream = createStream();
      for (const call of ['cuEventRecord', 'cuLaunchKernel']) {
        for (let after = 0; after < 3; after++) {
          const weight = randomTensor('float32', 5000).to('cuda');
          const optimizer = new AdamW({ stream });
          const bound = optimizer.bind(
            0,
            weight,
            randomTensor('float32', 5000).to('cuda'),
            optimizer.createState(0, weight),
          );
          bound.step();
          fail(call, after);
          let error: unknown;
          for (let i = 0; i < 3 && !error; i++) {
            const outcome = attempt(() => bound.step());
            if ('error' in outcome) error = outcome.error;
          }
          expect(error).to.be.an('error').with.property('code', 'CUDA_ERROR_OUT_OF_MEMORY');
          expect(() => bound.step())
            .to.throw()
            .equal(error);
          expect(weight.toArray().every(Number.isFinite)).to.equal(true);
        }
      }
    },
  );

  itUnless(noDriverCalls, 'should not leak memory if its gradients are refused', () => {
    const { freeBytes } = driverCalls();
    const zeros = () => Tensor.zeros(1, { device: 'cuda' });
    const indices = Array.from({ length: 2000 }, (_, i) => i);
    const weights = indices.map(zeros);
    const states = indices.map(() => ({ mean: zeros(), variance: zeros() }));
    const optimizer = new AdamW();
    const before = freeBytes();
    for (let i = 0; i < 200; i++) {
      expectError(() => optimizer.update(indices, weights, weights, states), RangeError, /memory of its own/);
    }
    synchronize();
    expect(Number(before - freeBytes())).to.be.below(8 * 2 ** 20);
  });

  itUnless(either(noDriverCalls, noGc), 'should not leak memory after many tensors were dropped', async () => {
    const { freeBytes } = driverCalls();
    const round = async (count: number) => {
      for (let i = 0; i < count; i++) {
        const weight = Tensor.zeros(20_000 + (i % 7), { device: 'cuda' });
        if (i % 50 === 0) {
          const optimizer = new AdamW();
          const grad = Tensor.zeros(weight.length, { device: 'cuda' });
          optimizer.fusedStep(0, weight, grad, optimizer.createState(0, weight));
        }
        if (i % 10 === 0) await setImmediate();
        if (i % 1000 === 0) collectGarbage?.();
      }
      for (let i = 0; i < 5; i++) {
        collectGarbage?.();
        await setImmediate();
      }
      synchronize();
    };
    await round(200);
    const before = freeBytes();
    await round(10_000);
    expect(Number(before - freeBytes())).to.be.below(64 * 2 ** 20);
  });

  itUnless(noCuda, 'should run in workers concurrently, and after they ended', async () => {
    const source = `
      const { workerData, parentPort } = require('node:worker_threads');
      import(workerData).then(({ AdamW, Tensor }) => {
        const weight = Tensor.zeros(5000, { device: 'cuda' }).set(Array.from({ length: 5000 }, (_, i) => Math.sin(i)));
        const grad = Tensor.zeros(5000, { device: 'cuda' }).set(Array.from({ length: 5000 }, (_, i) => Math.cos(i)));
        const optimizer = new AdamW({ learningRate: 0.1 });
        const state = optimizer.createState(0, weight);
        for (let t = 0; t < 20; t++) optimizer.update(0, weight, grad, state);
        parentPort.postMessage(weight.toArray());
      });`;
    const url = new URL('../lib/index.js', import.meta.url).href;
    const results = await Promise.all(
      Array.from(
        { length: 4 },
        () =>
          new Promise<Float32Array>((resolve, reject) => {
            const worker = new Worker(source, { eval: true, workerData: url });
            let result: Float32Array;
            worker.on('message', (message) => {
              result = message;
            });
            worker.on('error', reject);
            worker.on('exit', () => resolve(result));
          }),
      ),
    );
    for (const result of results) expectSameBits(result, results[0], 'of a worker');
    expect(results[0].some((value) => value !== 0)).to.equal(true);
    expect(Tensor.zeros(2, { device: 'cuda' }).toArray()).to.deep.equal(new Float32Array(2));
  });

  itUnless(noCuda, 'should be put on the stream by updateAsync(), with the bits and counts of update()', async () => {
    const values = Array.from({ length: 5000 }, (_, i) => Math.sin(i));
    const [one, twin] = [0, 1].map(() => {
      const [weight, grad] = [0, 1].map(() => Tensor.zeros(5000, { device: 'cuda' }).set(values));
      const optimizer = new AdamW({ learningRate: 0.1 });
      return { weight, grad, optimizer, state: optimizer.createState(0, weight) };
    });
    const promises = [0, 1, 2].map(() => one.optimizer.updateAsync(0, one.weight, one.grad, one.state));
    for (let t = 0; t < 3; t++) twin.optimizer.update(0, twin.weight, twin.grad, twin.state);
    for (const result of await Promise.all(promises)) expect(result).to.deep.equal({ skipped: false });
    expectSameBits(one.weight.toArray(), twin.weight.toArray(), 'weight');
    expect(one.optimizer.stateDict()).to.deep.equal(twin.optimizer.stateDict());
  });

  itUnless(noCuda, 'should not crash a process that exits during it', () => {
    const source = `
      const { AdamW, Tensor } = await import(libraryUrl);
      const weight = Tensor.zeros(2 ** 20, { device: 'cuda' });
      const optimizer = new AdamW();
      const bound = optimizer.bind(0, weight, Tensor.zeros(2 ** 20, { device: 'cuda' }), optimizer.createState(0, weight));
      const pending = Tensor.zeros(2 ** 20, { pinned: true }).copyAsync(weight);
      for (let t = 0; t < 5; t++) bound.step();
      report(weight.device);
      process.exit(0);`;
    expect(reportOf(source)).to.equal('cuda:0');
  });
});
