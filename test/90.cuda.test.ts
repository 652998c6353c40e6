/** Tensors and steps on a GPU. What needs one is skipped without, with the reason. */
import { createRequire } from 'node:module';
import { join } from 'node:path';
import { setImmediate } from 'node:timers/promises';
import { Worker } from 'node:worker_threads';
import { expect } from 'chai';
import { AdamW, backendInfo, type DType, multiAdamwUpdate, synchronize, syncMaster, Tensor } from '../lib/index.js';
import { expectSameBits } from './support/bits.js';
import { expectExit, reportOf, repository, runChild, temporaryFolder } from './support/child.js';
import { compileLibrary, either, itUnless, noCompiler, noCuda } from './support/conditions.js';
import { deviceMemory, onDeviceAt, toHost } from './support/cuda.js';
import { expectError } from './support/errors.js';
import { DTYPE_BYTES, valuesIn } from './support/memory.js';
import {
  ALL_LAYOUTS,
  cloneModel,
  dtypesOf,
  expectSameModel,
  type Layout,
  type Model,
  makeGrads,
  makeModel,
} from './support/model.js';
import { randomFrom, randomGrads, randomWeights } from './support/random.js';
import { quietly } from './support/warnings.js';

const DTYPES: readonly DType[] = ['float16', 'bfloat16', 'float32', 'float64'];

/** What another library would do with the driver; test/native/cuda/driver-calls.c. */
interface DriverCalls {
  createStream(): bigint;
  synchronizeStream(stream: bigint): void;
  allocate(bytes: bigint): bigint;
  free(pointer: bigint): void;
  allocateElsewhere(bytes: bigint): bigint;
  createStreamElsewhere(): bigint;
  allocateHost(bytes: bigint): bigint;
  freeBytes(): bigint;
  hasCurrentContext(): bigint;
  fail(call: string, after: number): void;
}

const info = backendInfo().cuda;
const deviceBytes = info.available ? info.devices[0].memory : 0;
const noSecondGpu = noCuda ?? (info.available && info.devices.length > 1 ? null : 'there is one GPU');
const noStandIn =
  noCuda ?? (info.available && info.devices[0].name.startsWith('Stand-in') ? null : 'no call of a real driver fails');
const collectGarbage = (globalThis as { gc?: () => void }).gc;
const noGc = collectGarbage ? null : 'node runs without --expose-gc';
const noDriverCalls = either(noCuda, noCompiler);

/** Random values of a dtype on the host. */
function randomTensor(dtype: DType, length: number, seed = 1): Tensor {
  return Tensor.zeros(length, { dtype }).set(randomWeights(randomFrom(seed), length));
}

const driverFolder = temporaryFolder();
let loadedCalls: DriverCalls | undefined;

function driverCalls(): DriverCalls {
  if (!loadedCalls) {
    const path = join(driverFolder.path, 'driver-calls.node');
    compileLibrary(join(repository, 'test/native/cuda/driver-calls.c'), path, ['-ldl']);
    loadedCalls = createRequire(import.meta.url)(path) as DriverCalls;
  }
  return loadedCalls;
}

describe('a GPU', () => {
  itUnless(noCuda, 'should be told of', () => {
    if (!info.available) return expect.fail();
    expect(info.driver).to.match(/^\d+\.\d$/);
    expect(info.devices.length).to.be.at.least(1);
    for (const { name, computeCapability, memory } of info.devices) {
      expect(name).to.not.equal('');
      expect(computeCapability).to.match(/^\d+\.\d$/);
      expect(memory).to.be.above(2 ** 20);
    }
    expect(info.deviceCode).to.match(/^fused-adamw device code [0-9a-f]{64} nvcc \d+\.\d+/);
  });

  itUnless(noDriverCalls, 'should leave the thread with the context that it had', () => {
    const { hasCurrentContext } = driverCalls();
    expect(hasCurrentContext()).to.equal(0n);
    const weight = randomTensor('float32', 10).to('cuda');
    const optimizer = new AdamW();
    optimizer.update(0, weight, Tensor.zeros(10, { device: 'cuda' }), optimizer.createState(0, weight));
    synchronize();
    expect(hasCurrentContext()).to.equal(0n);
  });
});

describe('a Tensor on a GPU', () => {
  for (const dtype of DTYPES) {
    itUnless(noCuda, `should be zeros at first: ${dtype}`, () => {
      for (const length of [0, 1, 1000]) {
        const tensor = Tensor.zeros(length, { dtype, device: 'cuda' });
        expect(tensor.device).to.equal('cuda:0');
        expect(tensor.length).to.equal(length);
        expect([...tensor.toArray()].every((value) => value === 0)).to.equal(true);
      }
    });

    itUnless(noCuda, `should take and give values as one on the CPU: ${dtype}`, () => {
      const values = [0, -1.5, 1e-7, 65504, Math.PI, NaN, Infinity, -0];
      const host = Tensor.zeros(8, { dtype }).set(values);
      const device = Tensor.zeros([2, 4], { dtype, device: 'cuda' }).set(values);
      expect(device.shape).to.deep.equal([2, 4]);
      expect(device.toArray()).to.deep.equal(host.toArray());
      expectSameBits(toHost(device).data, host.data, dtype);
    });

    itUnless(noCuda, `should be copied in every direction: ${dtype}`, () => {
      const host = randomTensor(dtype, 1001);
      const there = Tensor.zeros(1001, { dtype, device: 'cuda' }).copyFrom(host);
      const further = Tensor.zeros(1001, { dtype, device: 'cuda' }).copyFrom(there);
      const back = Tensor.zeros(1001, { dtype }).copyFrom(further);
      expectSameBits(back.data, host.data, dtype);
      expectSameBits(valuesIn(host.to('cuda').to('cuda:0')), host.data, `${dtype}, by to()`);
    });

    itUnless(noCuda, `should be copied without waiting: ${dtype}`, async () => {
      for (const pinned of [false, true]) {
        const from = Tensor.zeros(5000, { dtype, pinned }).copyFrom(randomTensor(dtype, 5000));
        const there = Tensor.zeros(5000, { dtype, device: 'cuda' });
        const back = Tensor.zeros(5000, { dtype, pinned });
        const copies = [there.copyAsync(from), back.copyAsync(there)];
        expect(await Promise.all(copies)).to.deep.equal([there, back]);
        expectSameBits(back.data, from.data, `${dtype}, pinned: ${pinned}`);
      }
    });
  }

  itUnless(noCuda, 'should be itself where it is there already', () => {
    const tensor = Tensor.zeros(3, { device: 'cuda' });
    expect(tensor.to('cuda:0')).to.equal(tensor);
    expect(tensor.to('auto')).to.equal(tensor);
    expect(Tensor.zeros(1, { device: 'auto' }).device).to.equal('cuda:0');
  });

  itUnless(noCuda, 'should have an address that is aligned, and of states one like that of the weight', () => {
    const optimizer = new AdamW({ stateDtype: 'float32' });
    for (const [dtype, residue] of [
      ['float32', 0],
      ['float32', 12],
      ['float64', 8],
      ['bfloat16', 6],
    ] as const) {
      const weight = onDeviceAt(dtype, 100, residue);
      expect(Number(weight.pointer % 64n)).to.equal(residue);
      const { mean, variance } = quietly(() => optimizer.createState(0, weight));
      for (const state of [mean, variance] as Tensor[]) {
        const elements = residue / DTYPE_BYTES[dtype];
        expect(state.device).to.equal('cuda:0');
        expect(Number(state.pointer % 64n)).to.equal((elements * DTYPE_BYTES[state.dtype]) % 64);
        expect([...state.toArray()].every((value) => value === 0)).to.equal(true);
      }
    }
    expect(Number(Tensor.zeros(5, { device: 'cuda' }).pointer % 64n)).to.equal(0);
  });

  itUnless(noCuda, 'should not show memory of the GPU as that of the host', () => {
    expectError(
      () => Tensor.zeros(3, { device: 'cuda' }).data,
      RangeError,
      'Expected a Tensor on the CPU for data but received one on cuda:0: toArray() copies its values',
    );
  });

  itUnless(noCuda, 'should be gone once it is disposed of', () => {
    const tensor = Tensor.zeros(3, { device: 'cuda' });
    tensor.dispose();
    tensor.dispose();
    expect(tensor.disposed).to.equal(true);
    for (const use of [() => tensor.toArray(), () => tensor.pointer, () => tensor.set([1, 2, 3])]) {
      expectError(use, RangeError, 'Expected a live Tensor for this but received one that was disposed of');
    }
  });

  itUnless(noCuda, 'should refuse what is not there', () => {
    expect(() => Tensor.zeros(3, { device: 'cuda:77' })).to.throw(
      RangeError,
      /^Expected a usable device for device but received 'cuda:77' \(there is no device cuda:77, the last is cuda:\d+\)$/,
    );
    expectError(
      () => Tensor.zeros(3, { device: 'cuda', pinned: true }),
      RangeError,
      "Expected false beside device 'cuda:0' for pinned but received true",
    );
  });

  itUnless(noCuda, 'should refuse copies that do not fit, and memory that may move away', async () => {
    const tensor = Tensor.zeros(3, { device: 'cuda' });
    expectError(
      () => tensor.copyFrom(Tensor.zeros(4)),
      RangeError,
      'Expected length 3 for source but received length 4',
    );
    expectError(
      () => tensor.copyFrom(Tensor.zeros(3, { dtype: 'float64' })),
      TypeError,
      'Expected a float32 Tensor for source but received float64',
    );
    const refused = await tensor.copyAsync(Tensor.from(new Float32Array(3))).catch((error: unknown) => error);
    expect(String(refused)).to.equal(
      'RangeError: Expected memory of Tensor.zeros for source but received memory that may move away',
    );
  });

  itUnless(noCuda, 'should say that there is not so much memory, and go on', () => {
    expect(() => Tensor.zeros(2 ** 45, { device: 'cuda' }))
      .to.throw(Error, /^CUDA failed in cuMemAlloc: CUDA_ERROR_OUT_OF_MEMORY \(.+\)$/)
      .with.property('code', 'CUDA_ERROR_OUT_OF_MEMORY');
    expect(Tensor.zeros(2, { device: 'cuda' }).toArray()).to.deep.equal(new Float32Array(2));
  });

  itUnless(
    either(noDriverCalls, noStandIn),
    'should be told of a copy that does not start, and no more of it',
    async () => {
      const { fail } = driverCalls();
      const host = Tensor.zeros(100, { pinned: true });
      const device = Tensor.zeros(100, { device: 'cuda' });
      for (const call of ['cuEventRecord', 'cuStreamAddCallback']) {
        for (const copy of [() => device.copyAsync(host), () => host.copyAsync(device)]) {
          fail(call, 0);
          const error = await copy().catch((thrown: unknown) => thrown);
          expect(error).to.be.an('error').with.property('code', 'CUDA_ERROR_OUT_OF_MEMORY');
          synchronize();
          expect(await copy()).to.be.an.instanceof(Tensor);
        }
      }
      fail('callback', 0); // the device fails meanwhile
      const error = await host.copyAsync(device).catch((thrown: unknown) => thrown);
      expect(error).to.be.an('error').with.property('code', 'CUDA_ERROR_OUT_OF_MEMORY');
      expect(await host.copyAsync(device)).to.equal(host);
    },
  );

  itUnless(noCuda, 'should not crash a worker that ends between copies', async () => {
    const source = `
      const { workerData } = require('node:worker_threads');
      import(workerData).then(({ Tensor }) => {
        const device = Tensor.zeros(1000, { device: 'cuda' });
        const copies = Array.from({ length: 20 }, () => Tensor.zeros(1000, { pinned: true }).copyAsync(device));
        for (const copy of copies) copy.then(() => process.exit());
        const until = Date.now() + 50;
        while (Date.now() < until); // so that more than one is done when the event loop sees them
      });`;
    const child = runChild(`
      import { once } from 'node:events';
      import { Worker } from 'node:worker_threads';
      const options = { eval: true, workerData: libraryUrl, execArgv: [] };
      for (let i = 0; i < 3; i++) await once(new Worker(${JSON.stringify(source)}, options), 'exit');`);
    expectExit(child, 0);
  });

  itUnless(noSecondGpu, 'should be copied from one GPU to another', () => {
    const host = randomTensor('float32', 3001);
    const first = host.to('cuda:0');
    const second = first.to('cuda:1');
    expect(second.device).to.equal('cuda:1');
    expectSameBits(valuesIn(second), host.data, 'cuda:1');
  });
});

describe('memory of another library on a GPU', () => {
  itUnless(noDriverCalls, 'should be used where it is', () => {
    const { allocate, free } = driverCalls();
    const pointer = allocate(4096n);
    const tensor = Tensor.fromDevicePointer(pointer + 8n, { shape: [10, 10], dtype: 'float32' });
    expect(tensor.pointer).to.equal(pointer + 8n);
    expect(tensor.shape).to.deep.equal([10, 10]);
    const values = randomWeights(randomFrom(3), 100);
    expect(tensor.set(values).toArray()).to.deep.equal(new Float32Array(values));
    const same = Tensor.fromDevicePointer(Number(pointer + 8n), { shape: 100, dtype: 'float32', device: 'cuda' });
    expect(same.toArray()).to.deep.equal(tensor.toArray());
    synchronize();
    free(pointer);
  });

  itUnless(noDriverCalls, 'should be refused where it cannot be what it is said to be', () => {
    const { allocate, allocateElsewhere, allocateHost, free } = driverCalls();
    const pointer = allocate(1000n);
    const of = (address: bigint | number, shape = 10, device?: 'cuda:0') =>
      Tensor.fromDevicePointer(address, { shape, dtype: 'float32', device });
    const rows = [
      [() => of(allocateHost(100n)), 'Expected an address of a GPU for pointer but received an address of no device'],
      [() => of(pointer + 2n), `Expected a multiple of 4 for pointer but received ${pointer + 2n}n`],
      [
        () => of(allocateElsewhere(100n)),
        'Expected an address of a GPU for pointer but received an address of another context than the primary one of cuda:0',
      ],
      [() => of(-1n), 'Expected an address of at most 64 bits for pointer but received -1n'],
      [() => of(1.5), 'Expected an integer of at least 0 for pointer but received 1.5'],
    ] as const;
    for (const [call, message] of rows) expectError(call, RangeError, message);
    expect(() => of(0n)).to.throw();
    // A driver rounds the sizes of allocations up.
    expect(() => of(pointer, 2 ** 30)).to.throw(
      RangeError,
      /^Expected at least 4294967296 bytes for pointer but received memory of \d+ bytes$/,
    );
    expectError(
      () => Tensor.fromDevicePointer('0' as never, { shape: 1, dtype: 'float32' }),
      TypeError,
      'Expected an address of at most 64 bits for pointer but received "0"',
    );
    free(pointer);
  });

  itUnless(either(noDriverCalls, noGc), 'should keep its owner while it is used, and no longer', async () => {
    const { allocate, free } = driverCalls();
    const pointer = allocate(4096n);
    let isGone = false;
    const registry = new FinalizationRegistry(() => {
      isGone = true;
    });
    const use = () => {
      const owner = { pointer };
      registry.register(owner, null);
      const weight = Tensor.fromDevicePointer(pointer, { shape: 100, dtype: 'float32', owner });
      const optimizer = new AdamW();
      const bound = optimizer.bind(0, weight, Tensor.zeros(100, { device: 'cuda' }), optimizer.createState(0, weight));
      return bound;
    };
    const bound = use();
    for (let i = 0; i < 10; i++) {
      bound.step();
      collectGarbage?.();
      await setImmediate();
    }
    expect(isGone).to.equal(false);
    bound.dispose();
    for (let i = 0; i < 20 && !isGone; i++) {
      synchronize();
      collectGarbage?.();
      await setImmediate();
    }
    expect(isGone).to.equal(true);
    free(pointer);
  });

  itUnless(
    either(noDriverCalls, noGc),
    'should keep an owner of any kind, and let go of it at once where nothing uses it',
    async () => {
      const { allocate, free } = driverCalls();
      const pointer = allocate(4096n);
      const { TCP } = (process as unknown as { binding(name: string): { TCP: new (kind: number) => object } }).binding(
        'tcp_wrap',
      );
      const owners: (() => object)[] = [
        () => ({}),
        () => () => 0,
        () => (new TCP(0) as { _externalStream: object })._externalStream, // a napi_external, as addons make them
      ];
      for (const makeOwner of owners) {
        const make = (): [WeakRef<object>, Tensor] => {
          const owner = makeOwner();
          return [new WeakRef(owner), Tensor.fromDevicePointer(pointer, { shape: 10, dtype: 'float32', owner })];
        };
        const [owner, tensor] = make();
        const collect = async (): Promise<void> => {
          for (let i = 0; i < 5; i++) {
            await setImmediate();
            collectGarbage?.();
          }
        };
        await collect();
        expect(owner.deref()).to.not.equal(undefined);
        tensor.dispose();
        await collect();
        expect(owner.deref()).to.equal(undefined);
      }
      free(pointer);
    },
  );
});

/** A model with all its arrays on a GPU. */
function toDevice(model: Model): Model {
  return cloneModel(model, deviceMemory);
}

const OPTIONS = { learningRate: 0.01, wd: 0.05, clipGradient: 3 };
const SPECS: readonly (readonly [Layout, number])[] = ALL_LAYOUTS.flatMap((layout, i) => [
  [layout, 100 + i] as const,
  [layout, 9000 + i] as const,
]);

describe('a step on a GPU', () => {
  itUnless(noCuda, 'should make states that lie there, with the bits of those on the CPU', () => {
    for (const layout of ALL_LAYOUTS) {
      const { dtype, stateDType, hasMaster } = dtypesOf(layout);
      const options = { ...OPTIONS, multiPrecision: hasMaster, stateDtype: 'float32' } as const;
      const random = randomFrom(5);
      const weight = Tensor.zeros(777, { dtype }).set(randomWeights(random, 777));
      const grad = Tensor.zeros(777, { dtype }).set(randomGrads(random, 777));
      const results = [weight.to('cuda'), weight].map((w) => {
        const optimizer = new AdamW(
          layout === dtype && dtype.includes('16') ? { ...options, stateDtype: dtype as 'float16' } : options,
        );
        const state = quietly(() => optimizer.createState('w', w));
        expect((state.mean as Tensor).dtype).to.equal(stateDType);
        expect((state.variance as Tensor).device).to.equal(w.device);
        for (let t = 0; t < 3; t++) quietly(() => optimizer.update('w', w, grad.to(w.device), state));
        expect(optimizer.updateCount('w', w.device)).to.equal(3);
        return { indices: [0], weights: [w], states: [state] };
      });
      expectSameModel(results[0], results[1], layout);
    }
  });

  itUnless(noCuda, 'should see fresh gradients at each step, and leave them as they are', () => {
    const random = randomFrom(8);
    const host = makeModel(SPECS, random);
    const device = toDevice(host);
    const [onHost, onDevice] = [new AdamW(OPTIONS), new AdamW(OPTIONS)];
    for (let t = 0; t < 6; t++) {
      const grads = makeGrads(host, random);
      const there = grads.map((grad) => (grad as Tensor).to('cuda'));
      quietly(() => onHost.fusedStep(host.indices, host.weights, grads, host.states));
      quietly(() => onDevice.fusedStep(device.indices, device.weights, there, device.states));
      if (t % 2 === 0) continue; // no copy makes steps wait
      for (const [i, grad] of there.entries()) expectSameBits(valuesIn(grad), valuesIn(grads[i]), `grads[${i}]`);
    }
    expectSameModel(device, host, 'after six steps');
  });

  itUnless(noCuda, 'should be the same by step(), with a few tensors a call, and by bind()', () => {
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

  itUnless(noCuda, 'should be one call over tensors of several devices, with counts of each', () => {
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

  itUnless(noSecondGpu, 'should be one call over tensors of two GPUs, and not over the arrays of one on both', () => {
    const random = randomFrom(16);
    const host = makeModel(SPECS, random);
    const deviceOf = (i: number): 'cuda:0' | 'cuda:1' => (i % 2 === 0 ? 'cuda:0' : 'cuda:1');
    const moved = (tensor: Tensor, i: number): Tensor => tensor.to(deviceOf(i));
    const model: Model = {
      indices: host.indices,
      weights: host.weights.map((weight, i) => moved(weight as Tensor, i)),
      states: host.states.map(({ mean, variance, master }, i) => ({
        mean: moved(mean as Tensor, i),
        variance: moved(variance as Tensor, i),
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
  });

  itUnless(noCuda, 'should count replicas of a tensor on two devices once each', () => {
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

  itUnless(noCuda, 'should take 10,000 tensors, with as many counts', () => {
    const random = randomFrom(11);
    const layouts: Layout[] = ['float32', 'bfloat16+master', 'float64'];
    const specs = Array.from({ length: 10_000 }, (_, i) => [layouts[i % 3], 1 + (i % 70)] as const);
    const host = makeModel(specs, random);
    const grads = makeGrads(host, random);
    const device = toDevice(host);
    const there = grads.map((grad) => (grad as Tensor).to('cuda'));
    const [onHost, onDevice] = [new AdamW(OPTIONS), new AdamW(OPTIONS)];
    for (const optimizer of [onHost, onDevice]) {
      optimizer.setLrMult(new Map(host.indices.map((i) => [i, 1 + i / 10_000])));
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
    noCuda ?? (deviceBytes > 1.1 * fourArrays ? null : `it takes ${fourArrays} bytes and the GPU has ${deviceBytes}`);
  itUnless(tooSmall, 'should take a tensor of more than 2^31 elements', () => {
    const length = 2 ** 31 + 5000;
    const zeros = () => Tensor.zeros(length, { dtype: 'float16', device: 'cuda' });
    const arrays = [zeros(), zeros(), zeros(), zeros()];
    // Windows at both ends and where 31 bits end.
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
      // The windows overlap no other: each is a tensor of its own on the CPU.
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

  itUnless(noCuda, 'should update by the operator', () => {
    const random = randomFrom(14);
    const host = makeModel(
      SPECS.filter(([layout]) => !layout.endsWith('master')),
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

  itUnless(noCuda, 'should refresh masters', () => {
    const weight = randomTensor('float16', 20).to('cuda');
    const optimizer = new AdamW({ multiPrecision: true });
    const state = optimizer.createState(0, weight);
    weight.copyFrom(randomTensor('float16', 20, 7));
    syncMaster(weight, state);
    expect((state.master as Tensor).toArray()).to.deep.equal(weight.toArray());
  });

  itUnless(noCuda, 'should be skipped as on the CPU', () => {
    const weight = randomTensor('float32', 20).to('cuda');
    const optimizer = new AdamW();
    const state = optimizer.createState(0, weight);
    const before = weight.toArray();
    optimizer.rescaleGrad = NaN;
    expect(optimizer.update(0, weight, weight.to('cpu').to('cuda'), state)).to.deep.equal({
      skipped: true,
      reason: 'rescaleGrad',
    });
    expect(weight.toArray()).to.deep.equal(before);
    expect(optimizer.numUpdate).to.equal(0);
  });

  itUnless(noCuda, 'should refuse what is wrong with its tensors, and change nothing', () => {
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

  itUnless(noDriverCalls, 'should run on a given stream, before copies of ours and after those before it', () => {
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

  itUnless(noCuda, "should run on the default stream by the driver's own name for it", () => {
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
    'should fail as a whole, and only its optimizer, where the device fails',
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
            try {
              bound.step();
            } catch (thrown) {
              error = thrown;
            }
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

  itUnless(noDriverCalls, 'should leave no memory behind where its gradients are refused', () => {
    const { freeBytes } = driverCalls();
    const zeros = () => Tensor.zeros(1, { device: 'cuda' });
    const indices = Array.from({ length: 2000 }, (_, i) => i);
    const weights = indices.map(zeros);
    const states = indices.map(() => ({ mean: zeros(), variance: zeros() }));
    const optimizer = new AdamW();
    const before = freeBytes();
    for (let i = 0; i < 200; i++) {
      expect(() => optimizer.update(indices, weights, weights, states)).to.throw(RangeError, 'memory of its own');
    }
    synchronize();
    expect(Number(before - freeBytes())).to.be.below(8 * 2 ** 20);
  });

  itUnless(
    either(noDriverCalls, noGc),
    'should leave no memory behind after many tensors that were dropped',
    async () => {
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
    },
  );

  itUnless(noCuda, 'should run in workers, at once and after they ended', async () => {
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

  itUnless(noCuda, 'should not crash a process that exits in the middle of it', () => {
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
