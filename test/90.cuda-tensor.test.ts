/** Tensors on a GPU. What needs one is pending without one, with the reason. */
import { expect } from 'chai';
import { AdamW, backendInfo, synchronize, Tensor } from '../lib/index.js';
import { expectSameBits } from './support/bits.js';
import { expectExit, runChild } from './support/child.js';
import { either, itUnless, noCuda } from './support/conditions.js';
import { noDriverCalls, noSecondGpu, noStandIn, onDeviceAt, toHost, useDriverCalls } from './support/cuda.js';
import { expectError } from './support/errors.js';
import { DTYPE_BYTES, DTYPES, valuesIn } from './support/memory.js';
import { randomTensor } from './support/random.js';
import { quietly } from './support/warnings.js';

const driverCalls = useDriverCalls();

describe('a GPU', () => {
  itUnless(noCuda, 'should be described by backendInfo()', () => {
    const info = backendInfo().cuda;
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

  itUnless(noDriverCalls, "should not change the thread's current context", () => {
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
    itUnless(noCuda, `should start as zeros: ${dtype}`, () => {
      for (const length of [0, 1, 1000]) {
        const tensor = Tensor.zeros(length, { dtype, device: 'cuda' });
        expect(tensor.device).to.equal('cuda:0');
        expect(tensor.length).to.equal(length);
        expect([...tensor.toArray()].every((value) => value === 0)).to.equal(true);
      }
    });

    itUnless(noCuda, `should take and give values like one on the CPU: ${dtype}`, () => {
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

    itUnless(noCuda, `should be copied asynchronously: ${dtype}`, async () => {
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

  itUnless(noCuda, 'should be returned by to() if it is already on the device', () => {
    const tensor = Tensor.zeros(3, { device: 'cuda' });
    expect(tensor.to('cuda:0')).to.equal(tensor);
    expect(tensor.to('auto')).to.equal(tensor);
    expect(Tensor.zeros(1, { device: 'auto' }).device).to.equal('cuda:0');
  });

  itUnless(noCuda, 'should have an aligned address, and states aligned like the weight', () => {
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

  itUnless(noCuda, 'should not expose its memory as data', () => {
    expectError(
      () => Tensor.zeros(3, { device: 'cuda' }).data,
      RangeError,
      'Expected a Tensor on the CPU for data but received one on cuda:0: toArray() copies its values',
    );
  });

  itUnless(noCuda, 'should be unusable after dispose()', () => {
    const tensor = Tensor.zeros(3, { device: 'cuda' });
    tensor.dispose();
    tensor.dispose();
    expect(tensor.disposed).to.equal(true);
    for (const use of [() => tensor.toArray(), () => tensor.pointer, () => tensor.set([1, 2, 3])]) {
      expectError(use, RangeError, 'Expected a live Tensor for this but received one that was disposed of');
    }
  });

  itUnless(noCuda, 'should refuse an unavailable device and pinned memory on a device', () => {
    expectError(
      () => Tensor.zeros(3, { device: 'cuda:77' }),
      RangeError,
      /^Expected a usable device for device but received 'cuda:77' \(there is no device cuda:77, the last is cuda:\d+\)$/,
    );
    expectError(
      () => Tensor.zeros(3, { device: 'cuda', pinned: true }),
      RangeError,
      "Expected false beside device 'cuda:0' for pinned but received true",
    );
  });

  itUnless(
    noCuda,
    'should refuse copies that do not fit, and asynchronous copies from memory that may be detached',
    async () => {
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
    },
  );

  itUnless(noCuda, 'should report that memory is exhausted, and keep working', () => {
    expect(() => Tensor.zeros(2 ** 45, { device: 'cuda' }))
      .to.throw(Error, /^CUDA failed in cuMemAlloc: CUDA_ERROR_OUT_OF_MEMORY \(.+\)$/)
      .with.property('code', 'CUDA_ERROR_OUT_OF_MEMORY');
    expect(Tensor.zeros(2, { device: 'cuda' }).toArray()).to.deep.equal(new Float32Array(2));
  });

  itUnless(either(noDriverCalls, noStandIn), 'should reject a copy that does not start, and keep working', async () => {
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
  });

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
