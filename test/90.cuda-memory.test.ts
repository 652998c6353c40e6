/** Memory of a GPU that belongs to another library. */
import { setImmediate } from 'node:timers/promises';
import { expect } from 'chai';
import { AdamW, synchronize, Tensor } from '../lib/index.js';
import { collectGarbage, either, itUnless, noGc } from './support/conditions.js';
import { noDriverCalls, useDriverCalls } from './support/cuda.js';
import { expectError } from './support/errors.js';
import { randomFrom, randomWeights } from './support/random.js';

const driverCalls = useDriverCalls();

describe('memory of another library on a GPU', () => {
  itUnless(noDriverCalls, 'should be used in place', () => {
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

  itUnless(noDriverCalls, 'should be refused if it does not match its description', () => {
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
    // Drivers round up the sizes of allocations.
    expectError(
      () => of(pointer, 2 ** 30),
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

  itUnless(either(noDriverCalls, noGc), 'should keep its owner alive while it is used, and no longer', async () => {
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
    'should keep an owner of any type alive, and release it as soon as nothing uses it',
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
