/** float16 and bfloat16: the conversions of TypeScript, and those of every backend as seen through a step. */
import { expect } from 'chai';
import { AdamW, type AdamWOptions, type AdamWState, Tensor } from '../lib/index.js';
import { expectSameBits } from './support/bits.js';
import { environments, inEnvironment } from './support/environments.js';
import {
  decodeBits,
  everyBits,
  everyKindOfNaN,
  everyRounding,
  HALF_FORMATS,
  type HalfFormat,
  roundedTo,
} from './support/halves.js';
import { withoutWarningOfHalf } from './support/warnings.js';

describe('halves in TypeScript', () => {
  for (const format of HALF_FORMATS) {
    const { dtype } = format;

    describe(dtype, () => {
      it('should decode all 65,536 bit patterns', () => {
        const values = Tensor.from(everyBits, { dtype }).toArray();
        expectSameBits(
          values,
          Float32Array.from(everyBits, (bits) => decodeBits(format, bits)),
          'values',
        );
      });

      it('should round float32 values to the nearest, ties to even', () => {
        const { values, expected } = everyRounding(format, 'float32');
        expectSameBits(roundedTo(format, Float32Array.from(values)), Uint16Array.from(expected), 'bits');
      });

      it('should round doubles once', () => {
        const { values, expected } = everyRounding(format, 'float64');
        expectSameBits(roundedTo(format, Float64Array.from(values)), Uint16Array.from(expected), 'bits');
        expectSameBits(roundedTo(format, values), Uint16Array.from(expected), 'bits of a list');
      });

      it('should store a single NaN', () => {
        const nans = everyKindOfNaN();
        const bits = new Uint16Array(nans.length).fill(format.nan);
        expectSameBits(roundedTo(format, nans), bits, 'bits of float32 NaN');
        expectSameBits(roundedTo(format, Float64Array.from(nans)), bits, 'bits of float64 NaN');
      });

      it('should restore its own bits', () => {
        const expected = everyBits.map((bits) => (Number.isNaN(decodeBits(format, bits)) ? format.nan : bits));
        expectSameBits(roundedTo(format, Tensor.from(everyBits, { dtype }).toArray()), expected, 'bits');
      });
    });
  }

  // [value, float16, bfloat16], computed by hand
  const BY_HAND: readonly (readonly [number, number, number])[] = [
    [0, 0x0000, 0x0000],
    [-0, 0x8000, 0x8000],
    [1, 0x3c00, 0x3f80],
    [-2, 0xc000, 0xc000],
    [1 / 3, 0x3555, 0x3eab],
    [65504, 0x7bff, 0x4780],
    [65519.99999999999, 0x7bff, 0x4780], // float16: just below the half way to 65536
    [65520, 0x7c00, 0x4780],
    [-65520, 0xfc00, 0xc780],
    [3.3895313892515355e38, 0x7c00, 0x7f7f], // the largest bfloat16
    [2 ** 128 * (1 - 2 ** -9) * (1 - 2 ** -53), 0x7c00, 0x7f7f], // bfloat16: just below the half way to 2^128
    [2 ** 128 * (1 - 2 ** -9), 0x7c00, 0x7f80],
    [2 ** 128, 0x7c00, 0x7f80],
    [-1e300, 0xfc00, 0xff80],
    [2 ** -14, 0x0400, 0x3880], // the least normal float16
    [2 ** -14 - 2 ** -25, 0x0400, 0x3880], // a tie that rounds up to it
    [2 ** -24, 0x0001, 0x3380], // the least float16
    [2 ** -25, 0x0000, 0x3300], // a tie with nothing
    [2 ** -25 * (1 + 2 ** -52), 0x0001, 0x3300],
    [1.5 * 2 ** -24, 0x0002, 0x33c0],
    [2 ** -126, 0x0000, 0x0080], // the least normal bfloat16
    [2 ** -133, 0x0000, 0x0001], // the least bfloat16
    [2 ** -134, 0x0000, 0x0000],
    [2 ** -134 * (1 + 2 ** -52), 0x0000, 0x0001],
    [-(2 ** -134), 0x8000, 0x8000],
    [Number.MIN_VALUE, 0x0000, 0x0000],
    [1 + 2 ** -11, 0x3c00, 0x3f80], // a tie in float16
    [1 + 2 ** -11 + 2 ** -40, 0x3c01, 0x3f80], // which rounding to float32 first would make
    [1 + 2 ** -8, 0x3c04, 0x3f80], // a tie in bfloat16
    [1 + 2 ** -8 + 2 ** -40, 0x3c04, 0x3f81],
    [1 + 3 * 2 ** -8 - 2 ** -40, 0x3c0c, 0x3f81],
  ];

  it('should round the values computed by hand', () => {
    const values = BY_HAND.map(([value]) => value);
    expectSameBits(
      roundedTo({ dtype: 'float16' }, values),
      Uint16Array.from(BY_HAND, ([, half]) => half),
      'float16',
    );
    expectSameBits(
      roundedTo({ dtype: 'bfloat16' }, values),
      Uint16Array.from(BY_HAND, ([, , brain]) => brain),
      'bfloat16',
    );
  });
});

/** Cuts [0, length) into tensors of lengths that leave every tail of a vector, a block and a chunk. */
function pieces(length: number): [number, number][] {
  const lengths = [...Array.from({ length: 66 }, (_, i) => i), 255, 256, 257, 511, 513, 1000, 20011];
  const cut: [number, number][] = [];
  for (let begin = 0, i = 0; begin < length; i++) {
    const end = Math.min(length, begin + lengths[i % lengths.length]);
    cut.push([begin, end]);
    begin = end;
  }
  return cut;
}

/** A half-precision tensor over elements [begin, end) of an array. */
function cutHalf(bits: Uint16Array, dtype: 'float16' | 'bfloat16', [begin, end]: readonly [number, number]): Tensor {
  return Tensor.from(bits.subarray(begin, end), { dtype });
}

function misplaced(bits: ArrayLike<number>): Uint16Array {
  const array = new Uint16Array(new ArrayBuffer(2 * bits.length + 2), 2);
  array.set(bits);
  return array;
}

function misplacedSingle(values: ArrayLike<number>): Float32Array {
  const array = new Float32Array(new ArrayBuffer(4 * values.length + 4), 4);
  array.set(values);
  return array;
}

/** The arrays of a step over halves before they are cut into tensors. Default zeros. */
interface Whole {
  readonly weights: Uint16Array;
  readonly grads?: Uint16Array;
  readonly means: Uint16Array | Float32Array;
  readonly masters?: Float32Array;
}

/** One step over the arrays, cut into many tensors. */
function stepWhole({ dtype }: HalfFormat, whole: Whole, options: AdamWOptions): void {
  const { length } = whole.weights;
  const grads = whole.grads ?? misplaced(new Uint16Array(length));
  const variances = whole.means instanceof Uint16Array ? new Uint16Array(length) : new Float32Array(length);
  const cuts = pieces(length);
  const part = (array: Uint16Array | Float32Array, [begin, end]: [number, number]): Tensor | Float32Array =>
    array instanceof Uint16Array ? cutHalf(array, dtype, [begin, end]) : array.subarray(begin, end);
  const optimizer = new AdamW({ correctBias: false, wd: 0, ...options });
  optimizer.fusedStep(
    cuts.map((_, i) => i),
    cuts.map((cut) => part(whole.weights, cut)),
    cuts.map((cut) => part(grads, cut)),
    cuts.map(
      (cut): AdamWState => ({
        mean: part(whole.means, cut),
        variance: part(variances, cut),
        master: whole.masters && part(whole.masters, cut),
      }),
    ),
  );
}

for (const environment of environments()) {
  describe(`halves in a step: ${environment.name}`, () => {
    withoutWarningOfHalf();

    for (const format of HALF_FORMATS) {
      const { dtype } = format;

      it(`should round masters to ${dtype} weights`, () => {
        const { values, expected } = everyRounding(format, 'float32');
        const nans = everyKindOfNaN();
        const masters = misplacedSingle([...values, ...nans]);
        masters.set(nans, values.length); // with their payloads
        const weights = misplaced(new Uint16Array(masters.length).fill(0x1234));
        const means = misplacedSingle(new Float32Array(masters.length));
        // MXNet's rule multiplies infinities by zero; PyTorch's leaves them.
        inEnvironment(environment, () =>
          stepWhole(format, { weights, means, masters }, { learningRate: 0, rule: 'pytorch' }),
        );
        const bits = Uint16Array.from([...expected, ...new Array<number>(nans.length).fill(format.nan)]);
        expectSameBits(weights, bits, 'weights');
        expectSameBits(masters, Float32Array.from([...values, ...nans]), 'masters');
      });

      for (const states of ['float32', dtype] as const) {
        it(`should leave ${dtype} weights unchanged with ${states} states`, () => {
          const weights = misplaced(everyBits);
          const means = states === 'float32' ? new Float32Array(weights.length) : new Uint16Array(weights.length);
          inEnvironment(environment, () => stepWhole(format, { weights, means }, { learningRate: 0, rule: 'pytorch' }));
          const expected = everyBits.map((bits) => (Number.isNaN(decodeBits(format, bits)) ? format.nan : bits));
          expectSameBits(weights, expected, 'weights');
        });
      }

      for (const master of [false, true]) {
        it(`should decode ${dtype} gradients${master ? ' with masters' : ''}`, () => {
          const grads = misplaced(everyBits);
          const before = grads.slice();
          const weights = misplaced(new Uint16Array(grads.length));
          const means = misplacedSingle(new Float32Array(grads.length));
          const masters = master ? misplacedSingle(new Float32Array(grads.length)) : undefined;
          inEnvironment(environment, () =>
            stepWhole(format, { weights, grads, means, masters }, { learningRate: 0, beta1: 0.75, rule: 'pytorch' }),
          );
          // m = 0 + 0.25 * (g - 0), which takes the sign from -0
          expectSameBits(
            means,
            Float32Array.from(everyBits, (bits) => decodeBits(format, bits) / 4 + 0),
            'means',
          );
          expectSameBits(grads, before, 'gradients');
        });
      }

      it(`should round ${dtype} means to the nearest, ties to even`, () => {
        // m = beta1 * (m - g) + g of two adjacent halves is a tie if beta1 is 1/2, and close to one if beta1 is close.
        for (const [beta1, expected] of [
          [0.5, (low: number) => low + (low % 2)],
          [0.5 + 2 ** -6, (low: number) => low],
          [0.5 - 2 ** -6, (low: number) => low + 1],
        ] as const) {
          // bfloat16's subnormals lie too close to the least float32 for values close to a tie.
          const least = dtype === 'bfloat16' && beta1 !== 0.5 ? 0x80 : 0;
          const lows = everyBits.filter((bits) => (bits & 0x7fff) >= least && (bits & 0x7fff) < format.infinity - 1);
          const means = misplaced(lows);
          const grads = misplaced(lows.map((low) => low + 1));
          const weights = misplaced(new Uint16Array(lows.length));
          inEnvironment(environment, () =>
            stepWhole(format, { weights, grads, means }, { learningRate: 0, beta1, stateDtype: dtype }),
          );
          expectSameBits(means, lows.map(expected), `means with beta1 = ${beta1}`);
        }
      });
    }

    it('should store a single NaN in weights and states', () => {
      for (const { dtype, nan } of HALF_FORMATS) {
        const of = (bits: number): Tensor => Tensor.from(new Uint16Array(100).fill(bits), { dtype });
        for (const bits of [nan, nan + 1, nan | 0x8000, 0x7fff, 0xffff]) {
          const [weight, mean, variance] = [of(0), of(0), of(0)];
          inEnvironment(environment, () => new AdamW().step(0, weight, of(bits), { mean, variance }));
          for (const [name, tensor] of Object.entries({ weight, mean, variance })) {
            expect([...new Set(tensor.data)], `${dtype} ${name}`).to.deep.equal([nan]);
          }
        }
      }
    });
  });
}
