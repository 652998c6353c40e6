import vm from 'node:vm';
import { MessageChannel } from 'node:worker_threads';
import { expect } from 'chai';
import { AdamW, type AdamWState, type DType, type Float16ArrayLike, Tensor, type TensorLike } from '../lib/index.js';
import { expectSameBits, type Values } from './support/bits.js';
import { itUnless, withoutCuda } from './support/conditions.js';
import { environments, inEnvironment } from './support/environments.js';
import { type ErrorRow, expectError, itRefuses } from './support/errors.js';
import { valuesIn } from './support/memory.js';
import { randomFrom } from './support/random.js';

const DTYPES: readonly DType[] = ['float16', 'bfloat16', 'float32', 'float64'];
const BYTES: Readonly<Record<DType, number>> = { float16: 2, bfloat16: 2, float32: 4, float64: 8 };

const native = environments().find(({ backend }) => backend === 'native');
const noNative = native ? null : 'the native backend does not run';
const typescript = environments().find(({ backend }) => backend === 'javascript');

const Float16Array: (new (values: readonly number[]) => Float16ArrayLike & ArrayLike<number>) | undefined = Reflect.get(
  globalThis,
  'Float16Array',
);
const noFloat16Array = Float16Array ? null : 'this engine has no Float16Array';

function resizable(bytes: number): ArrayBuffer {
  return Reflect.construct(ArrayBuffer, [bytes, { maxByteLength: 2 * bytes }]);
}

function growable(bytes: number): SharedArrayBuffer {
  return Reflect.construct(SharedArrayBuffer, [bytes, { maxByteLength: 2 * bytes }]);
}

/** Moves a buffer away from this realm, as postMessage() does. */
function detach(buffer: ArrayBufferLike): void {
  structuredClone(buffer, { transfer: [buffer as ArrayBuffer] });
}

function detached<T extends { readonly buffer: ArrayBufferLike }>(array: T): T {
  detach(array.buffer);
  return array;
}

function disposed(tensor: Tensor): Tensor {
  tensor.dispose();
  return tensor;
}

/** The value of a float16, by its definition. */
function float16Value(bits: number): number {
  const sign = bits & 0x8000 ? -1 : 1;
  const exponent = (bits >> 10) & 0x1f;
  const fraction = bits & 0x3ff;
  if (exponent === 0x1f) return fraction === 0 ? sign * Infinity : NaN;
  return exponent === 0 ? sign * fraction * 2 ** -24 : sign * (1 + fraction / 1024) * 2 ** (exponent - 15);
}

/** The value of a bfloat16, by its definition. */
function bfloat16Value(bits: number): number {
  const sign = bits & 0x8000 ? -1 : 1;
  const exponent = (bits >> 7) & 0xff;
  const fraction = bits & 0x7f;
  if (exponent === 0xff) return fraction === 0 ? sign * Infinity : NaN;
  return exponent === 0 ? sign * fraction * 2 ** -133 : sign * (1 + fraction / 128) * 2 ** (exponent - 127);
}

const HALVES = [
  { dtype: 'float16', decode: float16Value, infinity: 0x7c00, nan: 0x7e00, beyond: 2 ** 16 },
  { dtype: 'bfloat16', decode: bfloat16Value, infinity: 0x7f80, nan: 0x7fc0, beyond: 2 ** 128 },
] as const;

/** The next double up from a positive one, or down. */
function neighbour(value: number, direction: 1 | -1): number {
  const view = new DataView(new ArrayBuffer(8));
  view.setFloat64(0, value);
  view.setBigUint64(0, view.getBigUint64(0) + BigInt(direction));
  return view.getFloat64(0);
}

/** Bits of the halves that values are rounded to. */
function rounded(dtype: 'float16' | 'bfloat16', values: readonly number[]): Uint16Array {
  return Tensor.zeros(values.length, { dtype }).set(values).data;
}

describe('Tensor', () => {
  describe('from', () => {
    const sources: [string, () => { tensor: Tensor; memory: Values; dtype: DType }][] = [
      ['a Float32Array', () => over(new Float32Array(3), 'float32', (data) => Tensor.from(data))],
      ['a Float64Array', () => over(new Float64Array(3), 'float64', (data) => Tensor.from(data))],
      [
        'a Uint16Array of float16',
        () => over(new Uint16Array(3), 'float16', (data) => Tensor.from(data, { dtype: 'float16' })),
      ],
      [
        'a Uint16Array of bfloat16',
        () => over(new Uint16Array(3), 'bfloat16', (data) => Tensor.from(data, { dtype: 'bfloat16' })),
      ],
      [
        'an ArrayBuffer',
        () => over(new Float64Array(3), 'float64', ({ buffer }) => Tensor.from(buffer, { dtype: 'float64' })),
      ],
      [
        'a SharedArrayBuffer',
        () =>
          over(new Float32Array(new SharedArrayBuffer(12)), 'float32', ({ buffer }) =>
            Tensor.from(buffer, { dtype: 'float32' }),
          ),
      ],
      [
        'a Float32Array of a SharedArrayBuffer',
        () => over(new Float32Array(new SharedArrayBuffer(12)), 'float32', (data) => Tensor.from(data)),
      ],
      ['an array of a subclass', () => over(new (class extends Float32Array {})(3), 'float32', (d) => Tensor.from(d))],
    ];

    function over<A extends Values>(memory: A, dtype: DType, from: (memory: A) => Tensor) {
      return { tensor: from(memory), memory, dtype };
    }

    for (const [name, make] of sources) {
      it(`should be the memory of ${name} itself`, () => {
        const { tensor, memory, dtype } = make();
        memory[1] = 7;
        expect(tensor.data[1]).to.equal(7);
        tensor.data[2] = 9;
        expect(memory[2]).to.equal(9);
        expect(tensor.dtype).to.equal(dtype);
        expect(tensor.shape).to.deep.equal([3]);
        expect(tensor.length).to.equal(3);
        expect(tensor.device).to.equal('cpu');
        expect(tensor.disposed).to.equal(false);
      });
    }

    itUnless(noFloat16Array, 'should be the memory of a Float16Array itself', () => {
      if (!Float16Array) throw new Error();
      const array = new Float16Array([1, -2, 0.1]);
      const tensor = Tensor.from(array, { shape: [1, 3] });
      expect(tensor.dtype).to.equal('float16');
      expect([...tensor.data]).to.deep.equal([0x3c00, 0xc000, 0x2e66]);
      tensor.set([0.5, 1, 2]);
      expect([...Array.from(array)]).to.deep.equal([0.5, 1, 2]);
      expect(tensor.pointer).to.equal(Tensor.from(array.buffer as ArrayBuffer, { dtype: 'float16' }).pointer);
    });

    it('should take a part of a buffer by byteOffset and length', () => {
      const { buffer } = Float32Array.of(0, 1, 2, 3, 4, 5);
      expect([...Tensor.from(buffer, { dtype: 'float32', byteOffset: 8, length: 3 }).data]).to.deep.equal([2, 3, 4]);
      expect([...Tensor.from(buffer, { dtype: 'float32', byteOffset: 8 }).data]).to.deep.equal([2, 3, 4, 5]);
      expect([...Tensor.from(buffer, { dtype: 'float32', length: 2 }).data]).to.deep.equal([0, 1]);
      expect(Tensor.from(buffer, { dtype: 'float32', byteOffset: 24 }).length).to.equal(0);
      expect(Tensor.from(buffer, { dtype: 'bfloat16', byteOffset: 6 }).length).to.equal(9);
    });

    it('should keep the offset of a typed array', () => {
      const array = Float64Array.of(0, 1, 2, 3).subarray(1, 3);
      const tensor = Tensor.from(array);
      expect([...tensor.toArray()]).to.deep.equal([1, 2]);
      expect(tensor.data.byteOffset).to.equal(8);
    });

    it('should take a shape as a number, a list or none at all', () => {
      const data = new Float32Array(6);
      expect(Tensor.from(data).shape).to.deep.equal([6]);
      expect(Tensor.from(data, { shape: 6 }).shape).to.deep.equal([6]);
      expect(Tensor.from(data, { shape: [2, 1, 3] }).shape).to.deep.equal([2, 1, 3]);
      expect(Tensor.from(new Float32Array(1), { shape: [] }).shape).to.deep.equal([]);
      expect(Tensor.from(new Float32Array(0), { shape: [4, 0] }).length).to.equal(0);
    });

    it('should keep its shape whatever becomes of the list', () => {
      const shape = [2, 3];
      const tensor = Tensor.from(new Float32Array(6), { shape });
      shape[0] = 5;
      expect(tensor.shape).to.deep.equal([2, 3]);
      expect(tensor.shape).to.be.frozen;
    });

    it('should take arrays and buffers of another realm', () => {
      const array: Float64Array = vm.runInNewContext('Float64Array.of(0.1, 2)');
      const tensor = Tensor.from(array);
      expect(tensor.dtype).to.equal('float64');
      expectSameBits(tensor.toArray(), Float64Array.of(0.1, 2), 'toArray()');
      const buffer: ArrayBuffer = vm.runInNewContext('new ArrayBuffer(16)');
      expect(Tensor.from(buffer, { dtype: 'float16' }).length).to.equal(8);
    });

    const KINDS =
      'Expected a Float32Array, Float64Array, Float16Array, Uint16Array, ArrayBuffer or SharedArrayBuffer for data';
    const DTYPE = "Expected 'float16' or 'bfloat16' or 'float32' or 'float64' for dtype";
    const bytes = () => new ArrayBuffer(16);
    const floats = () => new Float32Array(4);
    itRefuses([
      ['null', () => Tensor.from(null as never), TypeError, `${KINDS} but received null`],
      ['an object', () => Tensor.from({} as never), TypeError, `${KINDS} but received an object`],
      ['a list', () => Tensor.from([1, 2] as never), TypeError, `${KINDS} but received an array of length 2`],
      ['a string', () => Tensor.from('abc' as never), TypeError, `${KINDS} but received "abc"`],
      ['a DataView', () => Tensor.from(new DataView(bytes()) as never), TypeError, `${KINDS} but received a DataView`],
      ['bytes', () => Tensor.from(new Uint8Array(4) as never), TypeError, `${KINDS} but received a Uint8Array`],
      ['integers', () => Tensor.from(new Int32Array(4) as never), TypeError, `${KINDS} but received an Int32Array`],
      ['a Tensor', () => Tensor.from(Tensor.zeros(4) as never), TypeError, `${KINDS} but received a Tensor`],
      [
        'a Uint16Array that does not say its dtype',
        () => Tensor.from(new Uint16Array(4) as never),
        TypeError,
        "Expected 'float16' or 'bfloat16' beside a Uint16Array for dtype but received undefined",
      ],
      [
        'a Uint16Array as float32',
        () => Tensor.from(new Uint16Array(4), { dtype: 'float32' as never }),
        TypeError,
        "Expected 'float16' or 'bfloat16' beside a Uint16Array for dtype but received \"float32\"",
      ],
      [
        'a Float32Array as float64',
        () => Tensor.from(floats(), { dtype: 'float64' as never }),
        TypeError,
        'Expected \'float32\', the dtype of the array, for dtype but received "float64"',
      ],
      [
        'a byteOffset beside a typed array',
        () => Tensor.from(floats(), { byteOffset: 4 }),
        TypeError,
        'Expected nothing beside a typed array for byteOffset but received 4',
      ],
      [
        'a length beside a typed array',
        () => Tensor.from(floats(), { length: 2 }),
        TypeError,
        'Expected nothing beside a typed array for length but received 2',
      ],
      [
        'a buffer that does not say its dtype',
        () => Tensor.from(bytes(), {} as never),
        TypeError,
        `${DTYPE} but received undefined`,
      ],
      [
        'no such dtype',
        () => Tensor.from(bytes(), { dtype: 'int8' as never }),
        RangeError,
        `${DTYPE} but received "int8"`,
      ],
      [
        'a misaligned byteOffset',
        () => Tensor.from(bytes(), { dtype: 'float32', byteOffset: 2 }),
        RangeError,
        'Expected a multiple of 4 for byteOffset but received 2',
      ],
      [
        'a negative byteOffset',
        () => Tensor.from(bytes(), { dtype: 'float32', byteOffset: -4 }),
        RangeError,
        'Expected an integer of at least 0 for byteOffset but received -4',
      ],
      [
        'a byteOffset past the end',
        () => Tensor.from(bytes(), { dtype: 'float32', byteOffset: 20 }),
        RangeError,
        'Expected at most 16 for byteOffset but received 20',
      ],
      [
        'a length past the end',
        () => Tensor.from(bytes(), { dtype: 'float32', byteOffset: 8, length: 3 }),
        RangeError,
        'Expected at most 2 for length but received 3',
      ],
      [
        'a length that is no whole number',
        () => Tensor.from(bytes(), { dtype: 'float32', length: 1.5 }),
        RangeError,
        'Expected an integer of at least 0 for length but received 1.5',
      ],
      [
        'a length of the wrong kind',
        () => Tensor.from(bytes(), { dtype: 'float32', length: '2' as never }),
        TypeError,
        'Expected an integer of at least 0 for length but received "2"',
      ],
      [
        'bytes that are no whole elements',
        () => Tensor.from(new ArrayBuffer(15), { dtype: 'float64' }),
        RangeError,
        'Expected a multiple of 8 bytes for data but received 15 bytes',
      ],
      [
        'a shape of another length',
        () => Tensor.from(floats(), { shape: [2, 3] }),
        RangeError,
        'Expected a shape of 4 elements for shape but received [2, 3]',
      ],
      [
        'a negative size',
        () => Tensor.from(floats(), { shape: [-2, -2] }),
        RangeError,
        'Expected an integer of at least 0 for shape[0] but received -2',
      ],
      [
        'a shape of the wrong kind',
        () => Tensor.from(floats(), { shape: '4' as never }),
        TypeError,
        'Expected a length or a list of sizes for shape but received "4"',
      ],
      [
        'a detached array',
        () => Tensor.from(detached(floats())),
        RangeError,
        'Expected memory that is still there for data but received a detached ArrayBuffer',
      ],
      [
        'a detached buffer',
        () => Tensor.from(detached(floats()).buffer, { dtype: 'float32' }),
        RangeError,
        'Expected memory that is still there for data but received a detached ArrayBuffer',
      ],
      [
        'a resizable buffer',
        () => Tensor.from(resizable(16), { dtype: 'float32' }),
        RangeError,
        'Expected memory of a fixed size for data but received a resizable ArrayBuffer',
      ],
      [
        'an array of a resizable buffer',
        () => Tensor.from(new Float32Array(resizable(16))),
        RangeError,
        'Expected memory of a fixed size for data but received a resizable ArrayBuffer',
      ],
      [
        'a growable buffer',
        () => Tensor.from(growable(16), { dtype: 'float32' }),
        RangeError,
        'Expected memory of a fixed size for data but received a growable SharedArrayBuffer',
      ],
      [
        'options that are null',
        () => Tensor.from(floats(), null as never),
        TypeError,
        'Expected an object for options but received null',
      ],
    ]);
  });

  describe('zeros', () => {
    it('should be float32 zeros by default', () => {
      const tensor = Tensor.zeros([2, 3]);
      expect(tensor.dtype).to.equal('float32');
      expect(tensor.data).to.be.an.instanceOf(Float32Array);
      expect(tensor.shape).to.deep.equal([2, 3]);
      expect([...tensor.data]).to.deep.equal([0, 0, 0, 0, 0, 0]);
    });

    it('should take every dtype, and any shape', () => {
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

    it('should be zeros where garbage was before', function () {
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
      if (!native) throw new Error();
      inEnvironment(native, () => {
        for (const dtype of DTYPES) {
          for (const length of [0, 1, 2, 3, 5, 16, 63, 1000, 4097, 300_001]) {
            const tensor = Tensor.zeros(length, { dtype });
            expect(Number(tensor.pointer % 64n), `address of ${length} ${dtype}, modulo 64`).to.equal(0);
          }
        }
      });
    });

    itUnless(noNative, 'should stagger large tensors by 16 KiB', () => {
      if (!native) throw new Error();
      inEnvironment(native, () => {
        const tensors = Array.from({ length: 20 }, () => Tensor.zeros(1 << 18)); // 1 MiB each
        const slots = tensors.map(({ pointer }) => Number(pointer % (1n << 18n)) / 2 ** 14);
        slots.forEach((slot, i) => {
          expect(Number.isInteger(slot), `slot ${slot}`).to.equal(true);
          if (i > 0) expect(slot).to.equal((slots[i - 1] + 1) % 16);
        });
        expect(new Set(slots).size).to.equal(16);
      });
    });

    it('should own whole elements inside its buffer', () => {
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
        'a shape of more memory than there is',
        () => Tensor.zeros([2 ** 30, 2 ** 30]),
        RangeError,
        `Cannot allocate ${2 ** 62} bytes for shape`,
      ],
      [
        'a length of more memory than there is',
        () => Tensor.zeros(Number.MAX_SAFE_INTEGER, { dtype: 'float16' }),
        RangeError,
        `Cannot allocate ${2 * Number.MAX_SAFE_INTEGER} bytes for shape`,
      ],
      [
        'a shape of more elements than there are numbers',
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
        'no such dtype',
        () => Tensor.zeros(1, { dtype: 'half' as never }),
        RangeError,
        "Expected 'float16' or 'bfloat16' or 'float32' or 'float64' for dtype but received \"half\"",
      ],
      [
        'a device that is not there',
        () => withoutCuda(() => Tensor.zeros(1, { device: 'cuda:1' })),
        RangeError,
        "Expected a usable device for device but received 'cuda:1' (FUSED_ADAMW_DEVICE is cpu)",
      ],
      [
        'no such device',
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

  describe('own memory', () => {
    it('should be none where a size is 0, however large the others are', () => {
      const sizes = [...new Array<number>(21).fill(Number.MAX_SAFE_INTEGER), 0];
      expect(Tensor.zeros(sizes).length).to.equal(0);
      expect(Tensor.from(new Float32Array(0), { shape: sizes }).shape).to.deep.equal(sizes);
      expect([...Tensor.zeros(3).set([1, 2, 3]).data, ...Tensor.zeros(2).data]).to.deep.equal([1, 2, 3, 0, 0]);
    });

    function expectThere(tensor: Tensor): void {
      expect(tensor.data.length).to.equal(3);
      expect([...tensor.toArray()]).to.deep.equal([1, 2, 3]);
    }

    /** Whether it moves or throws is the engine's business; that it stays is ours. */
    function attempt(move: () => void): void {
      try {
        move();
      } catch (error) {
        expect(error).to.have.property('name', 'DataCloneError');
      }
    }

    it('should stay where structuredClone would transfer it', () => {
      const tensor = Tensor.zeros(3).set([1, 2, 3]);
      attempt(() => detach(tensor.data.buffer));
      expectThere(tensor);
    });

    it('should stay where postMessage would transfer it', () => {
      const tensor = Tensor.zeros(3).set([1, 2, 3]);
      const { port1, port2 } = new MessageChannel();
      attempt(() => port1.postMessage(tensor.data, [tensor.data.buffer as ArrayBuffer]));
      port1.close();
      port2.close();
      expectThere(tensor);
    });

    for (const method of ['transfer', 'transferToFixedLength', 'resize']) {
      const missing = method in ArrayBuffer.prototype ? null : `this engine has no ArrayBuffer.prototype.${method}`;

      itUnless(missing, `should not be moved by ${method}()`, () => {
        const tensor = Tensor.zeros(3).set([1, 2, 3]);
        const { buffer } = tensor.data;
        expectError(
          () => Reflect.apply(Reflect.get(buffer, method), buffer, [0]),
          TypeError,
          `Expected memory that may move for ${method} but received that of a Tensor`,
        );
        expectThere(tensor);
      });
    }

    const noTransfer = 'transfer' in ArrayBuffer.prototype ? null : 'this engine has no ArrayBuffer.prototype.transfer';

    itUnless(noTransfer, "should not be moved by the prototype's transfer(), or its loss be noticed", () => {
      for (const environment of environments()) {
        inEnvironment(environment, () => {
          const optimizer = new AdamW();
          // Too large for a slab, whose other tensors would be lost as well.
          const weight = Tensor.zeros(2000);
          const bound = optimizer.bind(
            [0],
            [weight],
            [new Float32Array(2000).fill(1)],
            [optimizer.createState(0, weight)],
          );
          try {
            Reflect.apply(Reflect.get(ArrayBuffer.prototype, 'transfer'), weight.data.buffer, []);
          } catch (error) {
            expect(error).to.be.an.instanceOf(TypeError);
            expect(weight.data.length).to.equal(2000);
            bound.step();
            return;
          }
          expectError(
            () => bound.step(),
            RangeError,
            'Expected memory that is still there for weights[0] but received a detached ArrayBuffer',
          );
          expect(optimizer.numUpdate).to.equal(0);
        });
      }
    });
  });

  describe("the caller's memory", () => {
    type Role = 'weights' | 'grads' | 'means' | 'variances' | 'masters';
    const names: Readonly<Record<Role, string>> = {
      weights: 'weights[1]',
      grads: 'grads[1]',
      means: 'states[1].mean',
      variances: 'states[1].variance',
      masters: 'states[1].master',
    };

    /** Two half-precision tensors with masters, all in the caller's memory. */
    function make(): { arrays: Record<Role, TensorLike[]>; states: AdamWState[] } {
      const halves = () => [0, 1].map(() => Tensor.from(new Uint16Array(5).fill(0x3c00), { dtype: 'float16' }));
      const singles = () => [0, 1].map(() => new Float32Array(5));
      const arrays = { weights: halves(), grads: halves(), means: singles(), variances: singles(), masters: singles() };
      const states = [0, 1].map((i) => ({
        mean: arrays.means[i],
        variance: arrays.variances[i],
        master: arrays.masters[i],
      }));
      return { arrays, states };
    }

    for (const environment of environments()) {
      for (const role of Object.keys(names) as Role[]) {
        it(`should be missed when it was moved away after it was bound: ${role}, ${environment.name}`, () => {
          inEnvironment(environment, () => {
            const optimizer = new AdamW();
            const { arrays, states } = make();
            const lists = [[0, 1], arrays.weights, arrays.grads, states] as const;
            const bound = optimizer.bind(...lists);
            optimizer.fusedStep(...lists);
            bound.step();
            const kept = valuesIn(arrays.weights[0]).slice();
            detach(valuesIn(arrays[role][1]).buffer);
            const message = `Expected memory that is still there for ${names[role]} but received a detached ArrayBuffer`;
            for (const step of [
              () => bound.step(),
              () => optimizer.fusedStep(...lists),
              () => optimizer.step(...lists),
              () => optimizer.bind(...lists),
            ]) {
              expectError(step, RangeError, message);
            }
            expectSameBits(valuesIn(arrays.weights[0]), kept, 'the other weight');
            expect(optimizer.updateCount(0)).to.equal(2);
            expect(optimizer.numUpdate).to.equal(2);
          });
        });
      }
    }

    itUnless(noNative, 'should stay at its address when it is small', () => {
      if (!native) throw new Error();
      inEnvironment(native, () => {
        const tensor = Tensor.from(Float32Array.of(1, 2));
        const { pointer } = tensor;
        for (let i = 0; i < 3; i++) {
          Array.from({ length: 10_000 }, () => new Float32Array(2));
          globalThis.gc?.();
        }
        expect(tensor.pointer).to.equal(pointer);
      });
    });

    const THERE = 'but received a detached ArrayBuffer';
    itRefuses(
      DTYPES.flatMap((dtype): ErrorRow[] => {
        const gone = () => {
          const tensor = Tensor.from(new ArrayBuffer(2 * BYTES[dtype]), { dtype });
          detach(tensor.data.buffer);
          return tensor;
        };
        const here = () => Tensor.zeros(2, { dtype });
        const message = `Expected memory that is still there for this ${THERE}`;
        return [
          [`toArray() of a detached ${dtype} tensor`, () => gone().toArray(), RangeError, message],
          [`set() of a detached ${dtype} tensor`, () => gone().set([1, 2]), RangeError, message],
          [`copyFrom() into a detached ${dtype} tensor`, () => gone().copyFrom(here()), RangeError, message],
          [
            `copyFrom() of a detached ${dtype} tensor`,
            () => here().copyFrom(gone()),
            RangeError,
            `Expected memory that is still there for source ${THERE}`,
          ],
        ];
      }),
    );
  });

  describe('toArray', () => {
    it('should be a copy, float64 of float64 and float32 of all else', () => {
      for (const dtype of DTYPES) {
        const tensor = Tensor.zeros(3, { dtype }).set([1, -2, 0.5]);
        const values = tensor.toArray();
        expect(values).to.be.an.instanceOf(dtype === 'float64' ? Float64Array : Float32Array);
        expect([...values]).to.deep.equal([1, -2, 0.5]);
        values[0] = 9;
        expect(tensor.toArray()[0]).to.equal(1);
      }
    });

    it('should hold the values of a view', () => {
      const tensor = Tensor.from(Uint16Array.of(0, 0x3c00, 0xc000).subarray(1), { dtype: 'float16' });
      expect([...tensor.toArray()]).to.deep.equal([1, -2]);
    });

    for (const { dtype, decode } of HALVES) {
      it(`should decode all ${dtype}`, () => {
        const bits = Uint16Array.from({ length: 0x10000 }, (_, i) => i);
        const values: Float32Array = Tensor.from(bits, { dtype }).toArray();
        expectSameBits(values, Float32Array.from(bits, decode), dtype);
      });
    }
  });

  describe('set', () => {
    it('should take a list, a typed array, and anything like a list', () => {
      for (const dtype of DTYPES) {
        const expected = [1, -2, 0.5];
        const tensor = Tensor.zeros(3, { dtype });
        for (const values of [
          expected,
          Float32Array.from(expected),
          Float64Array.from(expected),
          { length: 3, 0: 1, 1: -2, 2: 0.5 },
        ]) {
          tensor.set([0, 0, 0]);
          expect(tensor.set(values)).to.equal(tensor);
          expect([...tensor.toArray()]).to.deep.equal(expected);
        }
        expect([...tensor.set(Int8Array.of(1, -2, 3)).toArray()]).to.deep.equal([1, -2, 3]);
      }
    });

    itUnless(noFloat16Array, 'should take a Float16Array', () => {
      if (!Float16Array) throw new Error();
      for (const dtype of DTYPES) {
        expect([
          ...Tensor.zeros(2, { dtype })
            .set(new Float16Array([1.5, -3]))
            .toArray(),
        ]).to.deep.equal([1.5, -3]);
      }
    });

    it('should round to float32', () => {
      const values = [0.1, 1 + 2 ** -24, 1 + 3 * 2 ** -24, 1e39, -1e-46, -0];
      expectSameBits(Tensor.zeros(6).set(values).data, Float32Array.from(values), 'float32');
      expectSameBits(
        Tensor.zeros(6, { dtype: 'float64' }).set(values).data,
        Float64Array.from(values),
        'float64, which rounds nothing',
      );
    });

    for (const { dtype, decode, infinity, nan, beyond } of HALVES) {
      it(`should round to the nearest ${dtype}, ties to even`, () => {
        const values: number[] = [];
        const expected: number[] = [];
        const expectBits = (value: number, bits: number): void => {
          values.push(value, -value);
          expected.push(bits, bits | 0x8000);
        };
        for (let bits = 0; bits < infinity; bits++) {
          const low = decode(bits);
          // Past the largest finite one, rounding is as if there were one more.
          const high = bits + 1 === infinity ? beyond : decode(bits + 1);
          const middle = (low + high) / 2;
          expectBits(low, bits);
          expectBits(neighbour(middle, -1), bits);
          expectBits(middle, bits + (bits % 2));
          expectBits(neighbour(middle, 1), bits + 1);
        }
        expectSameBits(rounded(dtype, values), Uint16Array.from(expected), dtype);
      });

      it(`should store infinities, zeros and one NaN to ${dtype}`, () => {
        const payloads = new Float64Array(new BigUint64Array([0x7ff0000000000001n, 0xfff8000000000123n]).buffer);
        expectSameBits(
          rounded(dtype, [Infinity, -Infinity, 0, -0, NaN, -NaN, ...payloads, 1e300, -1e300, 5e-324]),
          Uint16Array.of(infinity, infinity | 0x8000, 0, 0x8000, nan, nan, nan, nan, infinity, infinity | 0x8000, 0),
          dtype,
        );
      });

      it(`should give back what toArray() read of ${dtype}`, () => {
        const bits = Uint16Array.from({ length: 0x10000 }, (_, i) => i);
        const again = Tensor.zeros(bits.length, { dtype }).set(Tensor.from(bits, { dtype }).toArray());
        const expected = bits.map((b) => (Number.isNaN(decode(b)) ? nan : b));
        expectSameBits(again.data, expected, dtype);
      });
    }

    it('should change nothing where it throws', () => {
      for (const dtype of DTYPES) {
        const tensor = Tensor.zeros(3, { dtype }).set([1, 2, 3]);
        for (const values of [
          [4, 5],
          [4, 5, 6, 7],
          [4, 5, '6' as never],
          [4, 5, undefined as never],
        ]) {
          expect(() => tensor.set(values)).to.throw();
          expect([...tensor.toArray()]).to.deep.equal([1, 2, 3]);
        }
      }
    });

    const three = (dtype: DType = 'float32') => Tensor.zeros(3, { dtype });
    itRefuses([
      ['too few values', () => three().set([1, 2]), RangeError, 'Expected 3 values for values but received 2'],
      [
        'too many values',
        () => three('float16').set(new Float64Array(4)),
        RangeError,
        'Expected 3 values for values but received 4',
      ],
      [
        'a hole',
        () => three().set([1, undefined as never, 3]),
        TypeError,
        'Expected a number for values[1] but received undefined',
      ],
      [
        'a string among the values',
        () => three('bfloat16').set([1, 2, '3' as never]),
        TypeError,
        'Expected a number for values[2] but received "3"',
      ],
      [
        'nested lists',
        () => three().set([[1], [2], [3]] as never),
        TypeError,
        'Expected a number for values[0] but received an array of length 1',
      ],
      ['a number', () => three().set(3 as never), TypeError, 'Expected a list of numbers for values but received 3'],
      [
        'a string',
        () => three().set('123' as never),
        TypeError,
        'Expected a list of numbers for values but received "123"',
      ],
      ['null', () => three().set(null as never), TypeError, 'Expected a list of numbers for values but received null'],
      ...DTYPES.map(
        (dtype): ErrorRow => [
          `a BigInt64Array for ${dtype}`,
          () => three(dtype).set(new BigInt64Array(3) as never),
          TypeError,
          'Expected a list of numbers for values but received a BigInt64Array',
        ],
      ),
    ]);
  });

  describe('copyFrom', () => {
    it('should copy the bits, whatever they stand for', () => {
      const random = randomFrom(10);
      for (const dtype of DTYPES) {
        const source = Tensor.from(new ArrayBuffer(BYTES[dtype] * 1000), { dtype, shape: [10, 100] });
        const bytes = new Uint8Array(source.data.buffer).map(() => 256 * random());
        new Uint8Array(source.data.buffer).set(bytes);
        const target = Tensor.zeros(1000, { dtype });
        expect(target.copyFrom(source)).to.equal(target);
        const { buffer, byteOffset, byteLength } = target.data;
        expect(Buffer.compare(new Uint8Array(buffer, byteOffset, byteLength), bytes)).to.equal(0);
      }
    });

    it('should copy between parts of the same memory', () => {
      const memory = Float32Array.of(1, 2, 3, 4, 5);
      Tensor.from(memory.subarray(1)).copyFrom(Tensor.from(memory.subarray(0, 4)));
      expect([...memory]).to.deep.equal([1, 1, 2, 3, 4]);
    });

    itRefuses([
      [
        'a typed array',
        () => Tensor.zeros(3).copyFrom(new Float32Array(3) as never),
        TypeError,
        'Expected a Tensor for source but received a Float32Array',
      ],
      [
        'another dtype',
        () => Tensor.zeros(3, { dtype: 'float16' }).copyFrom(Tensor.zeros(3, { dtype: 'bfloat16' })),
        TypeError,
        'Expected a float16 Tensor for source but received bfloat16',
      ],
      [
        'another length',
        () => Tensor.zeros(3).copyFrom(Tensor.zeros(4)),
        RangeError,
        'Expected length 3 for source but received length 4',
      ],
      [
        'a tensor that was disposed of',
        () => Tensor.zeros(3).copyFrom(disposed(Tensor.zeros(3))),
        RangeError,
        'Expected a live Tensor for source but received one that was disposed of',
      ],
    ]);
  });

  describe('to', () => {
    it('should be itself where it is there already', () => {
      const tensor = Tensor.zeros(3);
      expect(tensor.to('cpu')).to.equal(tensor);
      expect(withoutCuda(() => tensor.to('auto'))).to.equal(tensor);
    });

    itRefuses([
      [
        'a device that is not there',
        () => withoutCuda(() => Tensor.zeros(3).to('cuda')),
        RangeError,
        "Expected a usable device for device but received 'cuda' (FUSED_ADAMW_DEVICE is cpu)",
      ],
      [
        'no such device',
        () => Tensor.zeros(3).to('tpu' as never),
        TypeError,
        "Expected 'cpu', 'cuda', 'cuda:N' or 'auto' for device but received \"tpu\"",
      ],
    ]);
  });

  describe('pointer', () => {
    itUnless(noNative, 'should be the address of the first element', () => {
      if (!native) throw new Error();
      inEnvironment(native, () => {
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

    it('should say that the TypeScript backend has none', () => {
      if (!typescript) throw new Error();
      inEnvironment(typescript, () => {
        expectError(
          () => Tensor.zeros(1).pointer,
          RangeError,
          'Expected the native backend for pointer but received the TypeScript backend (FUSED_ADAMW_BACKEND is javascript)',
        );
      });
    });
  });

  describe('dispose', () => {
    it("should let go of the memory and leave the caller's as it is", () => {
      const memory = Float32Array.of(1, 2);
      const tensor = Tensor.from(memory, { shape: [1, 2] });
      tensor.dispose();
      expect(tensor.disposed).to.equal(true);
      expect(tensor.shape).to.deep.equal([1, 2]);
      expect([...memory]).to.deep.equal([1, 2]);
      tensor.dispose();
      expect(tensor.disposed).to.equal(true);
    });

    it('should be what Symbol.dispose calls', () => {
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

    it('should be noticed by a step that was bound before', () => {
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
          expect(bound.step()).to.deep.equal({ skipped: false });
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
      if (!native) throw new Error();
      inEnvironment(native, () => expectError(() => gone().pointer, RangeError, LIVE));
    });
  });
});
