/** Tensors: zeros(), to(), pointer and dispose(). */
import { expect } from 'chai';
import { AdamW, Tensor } from '../lib/index.js';
import { expectSameBits } from './support/bits.js';
import { disposed } from './support/buffers.js';
import { itUnless, noNative, withoutCuda } from './support/conditions.js';
import { environments, inEnvironment, inNative, TYPESCRIPT } from './support/environments.js';
import { expectError, itRefuses } from './support/errors.js';
import { DTYPES } from './support/memory.js';
import { DONE } from './support/steps.js';

describe('Tensor', () => {
  describe('zeros', () => {
    it('should be float32 zeros by default', () => {
      const tensor = Tensor.zeros([2, 3]);
      expect(tensor.dtype).to.equal('float32');
      expect(tensor.data).to.be.an.instanceOf(Float32Array);
      expect(tensor.shape).to.deep.equal([2, 3]);
      expect([...tensor.data]).to.deep.equal([0, 0, 0, 0, 0, 0]);
    });

    it('should accept every dtype and any shape', () => {
      const kinds = { float16: Uint16Array, bfloat16: Uint16Array, float32: Float32Array, float64: Float64Array };
      for (const dtype of DTYPES) {
        for (const [shape, length] of [
          [7, 7] as const,
          [[], 1] as const,
          [[2, 0, 3], 0] as const,
          [[4, 5], 20] as const,
        ]) {
          const tensor = Tensor.zeros(shape, { dtype, device: 'auto' });
          expect(tensor.data).to.be.an.instanceOf(kinds[dtype]);
          expect(tensor.data.length).to.equal(length);
          expect(tensor.length).to.equal(length);
        }
      }
    });

    it('should be zeros where memory is reused', function () {
      this.timeout(20000);
      for (let round = 0; round < 4; round++) {
        for (const dtype of DTYPES) {
          for (const length of [1, 3, 17, 1000, 70_000, 600_000]) {
            const { data } = Tensor.zeros(length, { dtype });
            expect(new Uint8Array(data.buffer, data.byteOffset, data.byteLength).some((byte) => byte !== 0)).to.equal(
              false,
            );
            new Uint8Array(data.buffer, data.byteOffset, data.byteLength).fill(0xff);
          }
        }
        globalThis.gc?.();
      }
    });

    itUnless(noNative, 'should be aligned to 64 bytes on the native backend', () => {
      inNative(() => {
        for (const dtype of DTYPES) {
          for (const length of [0, 1, 2, 3, 5, 16, 63, 1000, 4097, 300_001]) {
            const tensor = Tensor.zeros(length, { dtype });
            expect(Number(tensor.pointer % 64n), `address of ${length} ${dtype}, modulo 64`).to.equal(0);
          }
        }
      });
    });

    itUnless(noNative, 'should stagger large tensors by 16 KiB', () => {
      inNative(() => {
        const tensors = Array.from({ length: 20 }, () => Tensor.zeros(1 << 18)); // 1 MiB each
        const slots = tensors.map(({ pointer }) => Number(pointer % (1n << 18n)) / 2 ** 14);
        slots.forEach((slot, i) => {
          expect(Number.isInteger(slot), `slot ${slot}`).to.equal(true);
          if (i > 0) expect(slot).to.equal((slots[i - 1] + 1) % 16);
        });
        expect(new Set(slots).size).to.equal(16);
      });
    });

    it('should lie inside its buffer', () => {
      for (const environment of environments()) {
        inEnvironment(environment, () => {
          for (const length of [0, 1, 300_001]) {
            const { data } = Tensor.zeros(length, { dtype: 'float64' });
            expect(data.byteOffset + data.byteLength).to.be.at.most(data.buffer.byteLength);
          }
        });
      }
    });

    itRefuses([
      [
        'a shape that needs more memory than exists',
        () => Tensor.zeros([2 ** 30, 2 ** 30]),
        RangeError,
        `Cannot allocate ${2 ** 62} bytes for shape`,
      ],
      [
        'a length that needs more memory than exists',
        () => Tensor.zeros(Number.MAX_SAFE_INTEGER, { dtype: 'float16' }),
        RangeError,
        `Cannot allocate ${2 * Number.MAX_SAFE_INTEGER} bytes for shape`,
      ],
      [
        'a shape whose size overflows',
        () => Tensor.zeros(new Array(25).fill(2 ** 50)),
        RangeError,
        'Cannot allocate Infinity bytes for shape',
      ],
      [
        'a negative length',
        () => Tensor.zeros(-1),
        RangeError,
        'Expected an integer of at least 0 for shape but received -1',
      ],
      [
        'a fractional size',
        () => Tensor.zeros([2, 0.5]),
        RangeError,
        'Expected an integer of at least 0 for shape[1] but received 0.5',
      ],
      [
        'an infinite size',
        () => Tensor.zeros([Infinity]),
        RangeError,
        'Expected an integer of at least 0 for shape[0] but received Infinity',
      ],
      [
        'a size of the wrong kind',
        () => Tensor.zeros(['2' as never]),
        TypeError,
        'Expected an integer of at least 0 for shape[0] but received "2"',
      ],
      [
        'a shape of the wrong kind',
        () => Tensor.zeros(undefined as never),
        TypeError,
        'Expected a length or a list of sizes for shape but received undefined',
      ],
      [
        'an unknown dtype',
        () => Tensor.zeros(1, { dtype: 'half' as never }),
        RangeError,
        "Expected 'float16' or 'bfloat16' or 'float32' or 'float64' for dtype but received \"half\"",
      ],
      [
        'an unavailable device',
        () => withoutCuda(() => Tensor.zeros(1, { device: 'cuda:1' })),
        RangeError,
        "Expected a usable device for device but received 'cuda:1' (FUSED_ADAMW_DEVICE is cpu)",
      ],
      [
        'an unknown device',
        () => Tensor.zeros(1, { device: 'gpu' as never }),
        TypeError,
        "Expected 'cpu', 'cuda', 'cuda:N' or 'auto' for device but received \"gpu\"",
      ],
      [
        'options that are null',
        () => Tensor.zeros(1, null as never),
        TypeError,
        'Expected an object for options but received null',
      ],
    ]);
  });

  describe('to', () => {
    it('should return the tensor itself if it is already on the device', () => {
      const tensor = Tensor.zeros(3);
      expect(tensor.to('cpu')).to.equal(tensor);
      expect(withoutCuda(() => tensor.to('auto'))).to.equal(tensor);
    });

    itRefuses([
      [
        'an unavailable device',
        () => withoutCuda(() => Tensor.zeros(3).to('cuda')),
        RangeError,
        "Expected a usable device for device but received 'cuda' (FUSED_ADAMW_DEVICE is cpu)",
      ],
      [
        'an unknown device',
        () => Tensor.zeros(3).to('tpu' as never),
        TypeError,
        "Expected 'cpu', 'cuda', 'cuda:N' or 'auto' for device but received \"tpu\"",
      ],
    ]);
  });

  describe('pointer', () => {
    itUnless(noNative, 'should be the address of the first element', () => {
      inNative(() => {
        const memory = new Float64Array(100);
        const base = Tensor.from(memory).pointer;
        expect(base).to.be.a('bigint');
        expect(base > 0n).to.equal(true);
        expect(Tensor.from(memory.subarray(7)).pointer - base).to.equal(56n);
        expect(Tensor.from(memory.buffer, { dtype: 'float16', byteOffset: 6 }).pointer - base).to.equal(6n);
        const shared = new SharedArrayBuffer(64);
        const first = Tensor.from(shared, { dtype: 'float32' }).pointer;
        expect(Tensor.from(shared, { dtype: 'float32', byteOffset: 12 }).pointer - first).to.equal(12n);
      });
    });

    it('should throw on the TypeScript backend', () => {
      inEnvironment(TYPESCRIPT, () => {
        expectError(
          () => Tensor.zeros(1).pointer,
          RangeError,
          'Expected the native backend for pointer but received the TypeScript backend (FUSED_ADAMW_BACKEND is javascript)',
        );
      });
    });
  });

  describe('dispose', () => {
    it("should release the tensor and leave the caller's memory as it is", () => {
      const memory = Float32Array.of(1, 2);
      const tensor = Tensor.from(memory, { shape: [1, 2] });
      tensor.dispose();
      expect(tensor.disposed).to.equal(true);
      expect(tensor.shape).to.deep.equal([1, 2]);
      expect([...memory]).to.deep.equal([1, 2]);
      tensor.dispose();
      expect(tensor.disposed).to.equal(true);
    });

    it('should be called by Symbol.dispose', () => {
      const tensor = Tensor.zeros(2);
      tensor[Symbol.dispose]();
      expect(tensor.disposed).to.equal(true);
    });

    it('should let the memory be collected', async () => {
      const tensor = Tensor.zeros(100_000); // too large for a slab
      const memory = new WeakRef(tensor.data.buffer);
      tensor.dispose();
      for (let i = 0; i < 10 && memory.deref(); i++) {
        await new Promise((resolve) => setImmediate(resolve));
        globalThis.gc?.();
      }
      expect(memory.deref()).to.equal(undefined);
    });

    it('should make a step that was bound before throw', () => {
      for (const environment of environments()) {
        inEnvironment(environment, () => {
          const optimizer = new AdamW();
          const weights = [Tensor.zeros(2), Tensor.zeros(3)];
          const grads = weights.map(({ length }) => Tensor.zeros(length).set(new Float32Array(length).fill(1)));
          const states = weights.map((weight, i) => optimizer.createState(i, weight));
          const bound = optimizer.bind([0, 1], weights, grads, states);
          disposed(Tensor.zeros(1)); // any other tensor does not matter
          bound.step();
          const { data } = weights[0];
          const before = data.slice();
          grads[1].dispose();
          for (let i = 0; i < 2; i++) {
            expectError(
              () => bound.step(),
              RangeError,
              'Expected a live Tensor for grads[1] but received one that was disposed of',
            );
          }
          expectSameBits(data, before, 'the other weight');
          bound.setGrads([grads[0], new Float32Array(3)]);
          expect(bound.step()).to.deep.equal(DONE);
          weights[0].dispose();
          expectError(
            () => bound.step(),
            RangeError,
            'Expected a live Tensor for weights[0] but received one that was disposed of',
          );
          expect(optimizer.numUpdate).to.equal(2);
        });
      }
    });

    const LIVE = 'Expected a live Tensor for this but received one that was disposed of';
    const gone = () => disposed(Tensor.zeros(2));
    itRefuses([
      ['data', () => gone().data, RangeError, LIVE],
      ['toArray()', () => gone().toArray(), RangeError, LIVE],
      ['set()', () => gone().set([1, 2]), RangeError, LIVE],
      ['copyFrom()', () => gone().copyFrom(Tensor.zeros(2)), RangeError, LIVE],
      ['to()', () => gone().to('cpu'), RangeError, LIVE],
      [
        'createState()',
        () => new AdamW().createState(0, gone()),
        RangeError,
        'Expected a live Tensor for weight but received one that was disposed of',
      ],
    ]);

    itUnless(noNative, 'should throw a RangeError for pointer', () => {
      inNative(() => expectError(() => gone().pointer, RangeError, LIVE));
    });
  });
});
