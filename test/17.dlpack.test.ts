/** Tensors of other libraries, and ours for them, by DLPack. */
import { createRequire } from 'node:module';
import { join } from 'node:path';
import { expect } from 'chai';
import { AdamW, type DlpackCapsule, synchronize, Tensor } from '../lib/index.js';
import { repository, temporaryFolder } from './support/child.js';
import {
  collectGarbage,
  compileLibrary,
  either,
  itUnless,
  noCompiler,
  noCuda,
  noGc,
  noNative,
} from './support/conditions.js';
import { expectError } from './support/errors.js';

const turnOfTheLoop = (): Promise<void> => new Promise((resolve) => setImmediate(resolve));

const CPU = 1;
const CUDA = 2;
const CUDA_HOST = 3;

const FLOATS = {
  data: 0n,
  bytes: 24,
  deviceType: CPU,
  deviceId: 0,
  code: 2,
  bits: 32,
  lanes: 1,
  shape: [2, 3] as number[],
  strides: null as number[] | null,
  byteOffset: 0,
  versioned: true,
  major: 1,
  flags: 0,
};

interface Consumed {
  major: number;
  deviceType: number;
  code: number;
  bits: number;
  lanes: number;
  shape: number[];
  strides: number[];
  data: bigint;
  first?: number;
}

/** test/native/dlpack-addon/dlpack.c */
interface Addon {
  produce(options: typeof FLOATS): bigint;
  deletions(): number;
  external(pointer: bigint): object;
  consume(pointer: unknown, versioned: boolean): Consumed;
  giveBack(pointer: unknown, versioned: boolean): void;
}

const unusable = either(noNative, noCompiler);

describe('a tensor of another library', () => {
  const folder = temporaryFolder();
  let loaded: Addon | undefined;
  const addon = (): Addon => {
    if (loaded) return loaded;
    const path = join(folder.path, 'dlpack.node');
    compileLibrary(join(repository, 'test/native/dlpack-addon/dlpack.c'), path, []);
    loaded = createRequire(import.meta.url)(path) as Addon;
    return loaded;
  };
  const capsuleOf = (options: Partial<typeof FLOATS> = {}): DlpackCapsule => {
    const all = { ...FLOATS, ...options };
    return { name: all.versioned ? 'dltensor_versioned' : 'dltensor', pointer: addon().produce(all) };
  };

  itUnless(unusable, 'should be used in place, and given back once when it is disposed of', () => {
    for (const versioned of [true, false]) {
      const before = addon().deletions();
      const capsule = capsuleOf({ versioned, strides: versioned ? [3, 1] : null });
      const tensor = Tensor.fromDlpack(capsule);
      expect(capsule.name).to.equal(versioned ? 'used_dltensor_versioned' : 'used_dltensor');
      expect([tensor.dtype, tensor.device, [...tensor.shape]]).to.deep.equal(['float32', 'cpu', [2, 3]]);
      expect([...tensor.toArray()]).to.deep.equal([1, 2, 3, 4, 5, 6]);
      const optimizer = new AdamW({ learningRate: 0.1 });
      const state = optimizer.createState(0, tensor);
      optimizer.update(0, tensor, new Float32Array(6).fill(1), state);
      expect(tensor.toArray()[0]).to.be.below(1);
      const { data } = tensor;
      expect(addon().deletions()).to.equal(before);
      tensor.dispose();
      tensor.dispose();
      expect(addon().deletions()).to.equal(before + 1);
      expect(data.length).to.equal(0);
      expectError(
        () => optimizer.fusedStep([0], [tensor], [new Float32Array(6)], [state]),
        RangeError,
        'Expected memory that is still there for weights[0] but received a detached ArrayBuffer',
      );
    }
  });

  itUnless(unusable, 'should be taken by its address or an External', () => {
    const pointers = [(pointer: bigint) => pointer, (pointer: bigint) => addon().external(pointer)];
    for (const wrapped of pointers) {
      const tensor = Tensor.fromDlpack(wrapped(addon().produce({ ...FLOATS, versioned: false })));
      expect([...tensor.toArray()]).to.deep.equal([1, 2, 3, 4, 5, 6]);
      tensor.dispose();
    }
    const capsule = { name: 'dltensor_versioned', pointer: addon().external(addon().produce(FLOATS)) };
    Tensor.fromDlpack(capsule).dispose();
  });

  itUnless(unusable, 'should be taken from page-locked memory, with an offset, of any size', () => {
    const tensors = [
      { options: { deviceType: CUDA_HOST, byteOffset: 8, shape: [4] }, values: [3, 4, 5, 6] },
      { options: { shape: [] }, values: [1] },
      { options: { shape: [0, 3] }, values: [] },
      { options: { shape: [1, 2, 1], strides: [77, 1, 5] }, values: [1, 2] },
    ];
    for (const { options, values } of tensors) {
      const before = addon().deletions();
      const tensor = Tensor.fromDlpack(capsuleOf(options));
      expect([...tensor.toArray()]).to.deep.equal(values);
      tensor.dispose();
      expect(addon().deletions()).to.equal(before + 1);
    }
    for (const [dtype, code, bits] of [
      ['float16', 2, 16],
      ['bfloat16', 4, 16],
      ['float64', 2, 64],
    ] as const) {
      const tensor = Tensor.fromDlpack(capsuleOf({ code, bits, shape: [2] }));
      expect(tensor.dtype).to.equal(dtype);
      tensor.dispose();
    }
  });

  itUnless(unusable, 'should be refused, and left to its owner, where it cannot be used in place', () => {
    const cases: [Partial<typeof FLOATS>, string][] = [
      [
        { code: 0 },
        "Expected float16, bfloat16, float32 or float64 for capsule but received DLPack's type 0 of 32 bits and 1 lanes",
      ],
      [
        { lanes: 4 },
        "Expected float16, bfloat16, float32 or float64 for capsule but received DLPack's type 2 of 32 bits and 4 lanes",
      ],
      [{ strides: [1, 2] }, 'Expected contiguous strides for shape [2, 3] for capsule but received [1, 2]'],
      [{ flags: 1 }, 'Expected a tensor that may be written for capsule but received a read-only one'],
      [{ major: 2 }, 'Expected a tensor of DLPack 1 for capsule but received one of DLPack 2'],
      [
        { deviceType: 10 },
        "Expected memory of the CPU or of CUDA for capsule but received memory of DLPack's device type 10",
      ],
      [{ shape: [-1] }, 'Expected'],
    ];
    for (const [options, message] of cases) {
      const before = addon().deletions();
      const capsule = capsuleOf(options);
      const { name } = capsule;
      expect(() => Tensor.fromDlpack(capsule)).to.throw(RangeError, message);
      expect([addon().deletions(), capsule.name]).to.deep.equal([before, name]);
      addon().giveBack(capsule.pointer, true);
    }
    const misaligned = capsuleOf({ byteOffset: 2 });
    expect(() => Tensor.fromDlpack(misaligned)).to.throw(RangeError, 'Expected an address that is a multiple of 4');
    addon().giveBack(misaligned.pointer, true);
  });

  itUnless(unusable, 'should be taken once', () => {
    const capsule = capsuleOf({ versioned: false });
    const tensor = Tensor.fromDlpack(capsule);
    expectError(
      () => Tensor.fromDlpack(capsule),
      RangeError,
      'Expected a DLPack capsule for capsule but received one that was used already',
    );
    expectError(
      () => Tensor.fromDlpack(capsule.pointer as bigint),
      RangeError,
      'Expected a DLPack tensor for capsule but received one that is in use already',
    );
    tensor.dispose();
  });

  itUnless(unusable, 'should be refused where it is no capsule', () => {
    expect(() => Tensor.fromDlpack(7 as never)).to.throw(TypeError, 'a DLPack capsule');
    expect(() => Tensor.fromDlpack(null as never)).to.throw(TypeError, 'a DLPack capsule');
    expect(() => Tensor.fromDlpack(0n)).to.throw(RangeError, 'Expected an address for capsule');
    expect(() => Tensor.fromDlpack({ name: 'dltensor', pointer: 'x' })).to.throw(TypeError, 'capsule.pointer');
    expect(() => Tensor.fromDlpack({ name: 'tensor', pointer: 1n })).to.throw(RangeError, 'capsule.name');
  });

  itUnless(either(unusable, noGc), 'should be given back when it is garbage', async () => {
    const before = addon().deletions();
    (() => Tensor.fromDlpack(capsuleOf()))();
    for (let i = 0; i < 20 && addon().deletions() === before; i++) {
      collectGarbage?.();
      await turnOfTheLoop();
    }
    expect(addon().deletions()).to.equal(before + 1);
  });

  itUnless(either(unusable, noCuda), 'should be used in place on a GPU, and given back when no work uses it', () => {
    const optimizer = new AdamW({ learningRate: 0.1 });
    const owned = Tensor.zeros(5000, { device: 'cuda' });
    const before = addon().deletions();
    const capsule = capsuleOf({ data: owned.pointer, deviceType: CUDA, shape: [5000] });
    const tensor = Tensor.fromDlpack(capsule);
    expect([tensor.device, tensor.pointer]).to.deep.equal(['cuda:0', owned.pointer]);
    const state = optimizer.createState(0, tensor);
    const grad = Tensor.zeros(5000, { device: 'cuda' }).set(new Float32Array(5000).fill(1));
    optimizer.update(0, tensor, grad, state);
    tensor.dispose();
    expect(addon().deletions(), 'the optimizer holds the tensors of its last step').to.equal(before);
    optimizer.dispose();
    synchronize();
    expect(addon().deletions()).to.equal(before + 1);
    expect(owned.toArray()[4999]).to.be.below(0);
    const elsewhere = capsuleOf({ data: owned.pointer, deviceType: CUDA, deviceId: 7, shape: [5000] });
    expect(() => Tensor.fromDlpack(elsewhere)).to.throw(RangeError, 'there is no device cuda:7');
    const tooLong = capsuleOf({ data: owned.pointer, deviceType: CUDA, shape: [2 ** 40] });
    expect(() => Tensor.fromDlpack(tooLong)).to.throw(RangeError, 'Expected at least');
  });

  itUnless(unusable, 'should be made of one of ours, which is kept until it is given back', async () => {
    for (const versioned of [true, false]) {
      const tensor = Tensor.zeros([2, 3]).set([7, 2, 3, 4, 5, 6]);
      const { data } = tensor;
      const capsule = tensor.toDlpack({ versioned });
      expect(capsule.name).to.equal(versioned ? 'dltensor_versioned' : 'dltensor');
      capsule.name = `used_${capsule.name}`;
      tensor.dispose();
      const { data: address, ...consumed } = addon().consume(capsule.pointer, versioned);
      expect(address).to.not.equal(0n);
      const type = { code: 2, bits: 32, lanes: 1, shape: [2, 3], strides: [3, 1] };
      expect(consumed).to.deep.equal({ major: versioned ? 1 : 0, deviceType: CPU, deviceId: 0, ...type, first: 7 });
      expect(data[0]).to.equal(107);
      addon().giveBack(capsule.pointer, versioned);
    }
    const round = Tensor.fromDlpack(Tensor.zeros(3, { dtype: 'bfloat16' }).set([1, 2, 3]).toDlpack());
    collectGarbage?.();
    await turnOfTheLoop();
    expect([round.dtype, [...round.toArray()]]).to.deep.equal(['bfloat16', [1, 2, 3]]);
    round.dispose();
  });

  itUnless(either(unusable, noCuda), 'should be made of one of ours on a GPU', () => {
    const tensor = Tensor.zeros(100, { device: 'cuda' }).set(new Float32Array(100).fill(3));
    const { pointer } = tensor;
    const capsule = tensor.toDlpack();
    tensor.dispose();
    const back = Tensor.fromDlpack(capsule);
    expect([back.device, back.pointer, back.toArray()[99]]).to.deep.equal(['cuda:0', pointer, 3]);
    back.dispose();
  });

  itUnless(either(unusable, noGc), 'should free what nobody took', async () => {
    const held = new WeakRef(
      (() => {
        const tensor = Tensor.zeros(100_000);
        tensor.toDlpack();
        return tensor.data;
      })(),
    );
    for (let i = 0; i < 20; i++) {
      await turnOfTheLoop();
      collectGarbage?.();
      Tensor.zeros(1).toDlpack(); // lets go of what was given back
    }
    await turnOfTheLoop();
    collectGarbage?.();
    expect(held.deref()).to.equal(undefined);
  });
});
