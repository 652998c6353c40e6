/** The values of a Tensor: toArray(), set() and copyFrom(). */
import { expect } from 'chai';
import { type DType, Tensor } from '../lib/index.js';
import { expectSameBits } from './support/bits.js';
import { disposed } from './support/buffers.js';
import { Float16Array, itUnless, noFloat16Array } from './support/conditions.js';
import { type ErrorRow, expectError, itRefuses } from './support/errors.js';
import { decodeBits, everyBits, everyRounding, HALF_FORMATS, roundedTo } from './support/halves.js';
import { DTYPE_BYTES, DTYPES } from './support/memory.js';
import { randomFrom } from './support/random.js';

describe('Tensor', () => {
  describe('toArray', () => {
    it('should return a copy: float64 for float64, float32 for every other dtype', () => {
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

    for (const format of HALF_FORMATS) {
      it(`should decode all ${format.dtype}`, () => {
        const values: Float32Array = Tensor.from(everyBits, { dtype: format.dtype }).toArray();
        expectSameBits(
          values,
          Float32Array.from(everyBits, (bits) => decodeBits(format, bits)),
          format.dtype,
        );
      });
    }
  });

  describe('set', () => {
    it('should accept a list, a typed array and an array-like object', () => {
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

    itUnless(noFloat16Array, 'should accept a Float16Array', () => {
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

    for (const format of HALF_FORMATS) {
      const { dtype, infinity, nan } = format;

      it(`should round to the nearest ${dtype}, ties to even`, () => {
        const { values, expected } = everyRounding(format, 'float64');
        expectSameBits(roundedTo(format, values), Uint16Array.from(expected), dtype);
      });

      it(`should store infinities, zeros and a single NaN in ${dtype}`, () => {
        const payloads = new Float64Array(new BigUint64Array([0x7ff0000000000001n, 0xfff8000000000123n]).buffer);
        expectSameBits(
          roundedTo(format, [Infinity, -Infinity, 0, -0, NaN, -NaN, ...payloads, 1e300, -1e300, 5e-324]),
          Uint16Array.of(infinity, infinity | 0x8000, 0, 0x8000, nan, nan, nan, nan, infinity, infinity | 0x8000, 0),
          dtype,
        );
      });

      it(`should restore what toArray() read from ${dtype}`, () => {
        const again = roundedTo(format, Tensor.from(everyBits, { dtype }).toArray());
        const expected = everyBits.map((bits) => (Number.isNaN(decodeBits(format, bits)) ? nan : bits));
        expectSameBits(again, expected, dtype);
      });
    }

    it('should change nothing if it throws', () => {
      for (const dtype of DTYPES) {
        const tensor = Tensor.zeros(3, { dtype }).set([1, 2, 3]);
        for (const [values, kind, message] of [
          [[4, 5], RangeError, 'Expected 3 values for values but received 2'],
          [[4, 5, 6, 7], RangeError, 'Expected 3 values for values but received 4'],
          [[4, 5, '6' as never], TypeError, 'Expected a number for values[2] but received "6"'],
          [[4, 5, undefined as never], TypeError, 'Expected a number for values[2] but received undefined'],
        ] as const) {
          expectError(() => tensor.set(values), kind, message);
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
    it('should copy bit patterns unchanged', () => {
      const random = randomFrom(10);
      for (const dtype of DTYPES) {
        const source = Tensor.from(new ArrayBuffer(DTYPE_BYTES[dtype] * 1000), { dtype, shape: [10, 100] });
        const bytes = new Uint8Array(source.data.buffer).map(() => 256 * random());
        new Uint8Array(source.data.buffer).set(bytes);
        const target = Tensor.zeros(1000, { dtype });
        expect(target.copyFrom(source)).to.equal(target);
        const { buffer, byteOffset, byteLength } = target.data;
        expect(Buffer.compare(new Uint8Array(buffer, byteOffset, byteLength), bytes)).to.equal(0);
      }
    });

    it('should copy between overlapping parts of the same memory', () => {
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
        'a source of another dtype',
        () => Tensor.zeros(3, { dtype: 'float16' }).copyFrom(Tensor.zeros(3, { dtype: 'bfloat16' })),
        TypeError,
        'Expected a float16 Tensor for source but received bfloat16',
      ],
      [
        'a source of another length',
        () => Tensor.zeros(3).copyFrom(Tensor.zeros(4)),
        RangeError,
        'Expected length 3 for source but received length 4',
      ],
      [
        'a source that was disposed of',
        () => Tensor.zeros(3).copyFrom(disposed(Tensor.zeros(3))),
        RangeError,
        'Expected a live Tensor for source but received one that was disposed of',
      ],
    ]);
  });
});
