/** Tensor.from(): tensors over the caller's memory. */
import vm from 'node:vm';
import { expect } from 'chai';
import { type DType, Tensor } from '../lib/index.js';
import { expectSameBits, type Values } from './support/bits.js';
import { detached, growableBuffer, resizableBuffer } from './support/buffers.js';
import { Float16Array, itUnless, noFloat16Array } from './support/conditions.js';
import { itRefuses } from './support/errors.js';

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
      it(`should share the memory of ${name}`, () => {
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

    itUnless(noFloat16Array, 'should share the memory of a Float16Array', () => {
      if (!Float16Array) throw new Error();
      const array = new Float16Array([1, -2, 0.1]);
      const tensor = Tensor.from(array, { shape: [1, 3] });
      expect(tensor.dtype).to.equal('float16');
      expect([...tensor.data]).to.deep.equal([0x3c00, 0xc000, 0x2e66]);
      tensor.set([0.5, 1, 2]);
      expect([...Array.from(array)]).to.deep.equal([0.5, 1, 2]);
      expect(tensor.pointer).to.equal(Tensor.from(array.buffer as ArrayBuffer, { dtype: 'float16' }).pointer);
    });

    it('should accept a part of a buffer by byteOffset and length', () => {
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

    it('should accept a shape as a number, as a list, or none', () => {
      const data = new Float32Array(6);
      expect(Tensor.from(data).shape).to.deep.equal([6]);
      expect(Tensor.from(data, { shape: 6 }).shape).to.deep.equal([6]);
      expect(Tensor.from(data, { shape: [2, 1, 3] }).shape).to.deep.equal([2, 1, 3]);
      expect(Tensor.from(new Float32Array(1), { shape: [] }).shape).to.deep.equal([]);
      expect(Tensor.from(new Float32Array(0), { shape: [4, 0] }).length).to.equal(0);
    });

    it('should keep its shape if the list is changed later', () => {
      const shape = [2, 3];
      const tensor = Tensor.from(new Float32Array(6), { shape });
      shape[0] = 5;
      expect(tensor.shape).to.deep.equal([2, 3]);
      expect(tensor.shape).to.be.frozen;
    });

    it('should accept arrays and buffers of another realm', () => {
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
        'a Uint16Array without a dtype',
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
        'a byteOffset with a typed array',
        () => Tensor.from(floats(), { byteOffset: 4 }),
        TypeError,
        'Expected nothing beside a typed array for byteOffset but received 4',
      ],
      [
        'a length with a typed array',
        () => Tensor.from(floats(), { length: 2 }),
        TypeError,
        'Expected nothing beside a typed array for length but received 2',
      ],
      [
        'a buffer without a dtype',
        () => Tensor.from(bytes(), {} as never),
        TypeError,
        `${DTYPE} but received undefined`,
      ],
      [
        'an unknown dtype',
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
        'a fractional length',
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
        'a number of bytes that is not a multiple of the element size',
        () => Tensor.from(new ArrayBuffer(15), { dtype: 'float64' }),
        RangeError,
        'Expected a multiple of 8 bytes for data but received 15 bytes',
      ],
      [
        'a shape of the wrong size',
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
        () => Tensor.from(resizableBuffer(16), { dtype: 'float32' }),
        RangeError,
        'Expected memory of a fixed size for data but received a resizable ArrayBuffer',
      ],
      [
        'an array of a resizable buffer',
        () => Tensor.from(new Float32Array(resizableBuffer(16))),
        RangeError,
        'Expected memory of a fixed size for data but received a resizable ArrayBuffer',
      ],
      [
        'a growable buffer',
        () => Tensor.from(growableBuffer(16), { dtype: 'float32' }),
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
});
