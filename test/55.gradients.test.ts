import { expect } from 'chai';
import { ACCUMULATIONS } from '../lib/backend/abi.js';
import { AdamW, accumulate, type DType, gradientStats, Tensor, type TensorLike } from '../lib/index.js';
import { expectSameBits } from './support/bits.js';
import { itUnless, noCuda } from './support/conditions.js';
import { deviceMemory, noDriverCalls, noStandIn, OddDeviceMemory, useDriverCalls } from './support/cuda.js';
import { environments, inEnvironment } from './support/environments.js';
import { type ErrorRow, expectError, itRefuses } from './support/errors.js';
import { copyOf, DTYPES, OddMemory, ownMemory, type Place, tensorOf, valuesIn } from './support/memory.js';
import { cloneArrays } from './support/model.js';
import { randomFrom, randomGrads } from './support/random.js';

const driverCalls = useDriverCalls();

/** Around the ends of lanes, of the blocks that halves are converted in, of blocks of the sum and of chunks of threads. */
const LENGTHS = [0, 1, 15, 16, 17, 255, 257, 4095, 4096, 4097, 70001];

/** The sum of squares as docs/architecture.md describes its order, written another way than the package's. */
function sumOfSquares(values: ArrayLike<number>): number {
  let sum = 0;
  for (let first = 0; first < values.length; first += 4096) {
    let lanes = Array.from({ length: 16 }, (_, lane) => {
      let ofLane = 0;
      for (let k = first + lane; k < Math.min(first + 4096, values.length); k += 16) ofLane += values[k] ** 2;
      return ofLane;
    });
    while (lanes.length > 1) {
      const half = lanes.length / 2;
      lanes = lanes.slice(0, half).map((lane, k) => lane + lanes[k + half]);
    }
    sum += lanes[0];
  }
  return sum;
}

function randomArrays(dtype: DType, place: Place, seed: number): TensorLike[] {
  const random = randomFrom(seed);
  return LENGTHS.map((length) => {
    const array = place(dtype, length);
    tensorOf(array).set(randomGrads(random, length));
    return array;
  });
}

function floatOf(value: number): Float32Array {
  return Float32Array.of(value);
}

describe('gradientStats', () => {
  const places: readonly (readonly [string, () => Place])[] = [
    ['memory of its own', () => ownMemory],
    ['odd addresses', () => new OddMemory().place],
  ];
  for (const environment of environments({ threads: true })) {
    it(`should sum in the order of the contract: ${environment.name}`, () => {
      for (const [where, place] of places) {
        for (const dtype of DTYPES) {
          const arrays = randomArrays(dtype, place(), 3);
          const sums = arrays.map((array) => sumOfSquares(tensorOf(array).toArray()));
          const expected = Math.sqrt(sums.reduce((sum, one) => sum + one, 0));
          const actual = inEnvironment(environment, () => gradientStats(arrays));
          expect(actual.finite, dtype).to.equal(true);
          expectSameBits(Float64Array.of(actual.norm), Float64Array.of(expected), `${dtype} in ${where}`);
          inEnvironment(environment, () => {
            arrays.forEach((array, i) => {
              const { norm } = gradientStats([array]);
              expectSameBits(Float64Array.of(norm), Float64Array.of(Math.sqrt(sums[i])), `${dtype}, ${LENGTHS[i]}`);
            });
          });
        }
      }
    });

    it(`should take huge and tiny gradients: ${environment.name}`, () => {
      inEnvironment(environment, () => {
        expect(gradientStats(new Float32Array(4).fill(1e30)).norm).to.equal(2 * Math.fround(1e30));
        expect(gradientStats(new Float32Array(4).fill(1e-45)).norm).to.equal(2 * 2 ** -149);
        expect(gradientStats(new Float64Array([1e200, 1]))).to.deep.equal({ norm: Infinity, finite: true });
        expect(gradientStats(new Float64Array([3e150, 4e150])).norm).to.be.closeTo(5e150, 1e135);
      });
    });

    it(`should find what is not finite, wherever it is: ${environment.name}`, () => {
      inEnvironment(environment, () => {
        for (const dtype of DTYPES) {
          for (const at of [0, 15, 16, 4095, 4096, 8192]) {
            for (const value of [NaN, Infinity, -Infinity]) {
              const values = new Float64Array(8193);
              values[at] = value;
              const grad = Tensor.zeros(8193, { dtype }).set(values);
              const { norm, finite } = gradientStats([new Float32Array(3), grad]);
              expect(finite, `${dtype}, ${value} at ${at}`).to.equal(false);
              expect(norm).to.deep.equal(Number.isNaN(value) ? NaN : Infinity);
            }
          }
        }
      });
    });
  }

  it('should take one array, a list, and an empty list', () => {
    const grad = Float32Array.of(3, 4);
    expect(gradientStats(grad)).to.deep.equal({ norm: 5, finite: true });
    expect(gradientStats([grad, Float64Array.of(12)])).to.deep.equal({ norm: 13, finite: true });
    expect(gradientStats([])).to.deep.equal({ norm: 0, finite: true });
  });

  it('should multiply the norm by the size of the scale', () => {
    const grad = Float32Array.of(3, 4);
    expect(gradientStats(grad, { scale: 0.5 }).norm).to.equal(2.5);
    expect(gradientStats(grad, { scale: -2 }).norm).to.equal(10);
    expect(gradientStats(grad, { scale: 0 }).norm).to.equal(0);
  });

  itRefuses([
    [
      'a plain array of numbers',
      () => gradientStats([1, 2] as never),
      TypeError,
      'Expected a Tensor, Float32Array, Float64Array or Float16Array for grads[0] but received 1',
    ],
    [
      'nothing',
      () => gradientStats(undefined as never),
      TypeError,
      'Expected a Tensor, Float32Array, Float64Array or Float16Array for grads but received undefined',
    ],
    [
      'an unknown option',
      () => gradientStats([], { rescale: 2 } as never),
      TypeError,
      'Expected a known option for options but received "rescale"; did you mean scale?',
    ],
    [
      'a scale that is no number',
      () => gradientStats([], { scale: '1' as never }),
      TypeError,
      'Expected a number for scale but received "1"',
    ],
    [
      'a scale that is not finite',
      () => gradientStats([], { scale: NaN }),
      RangeError,
      'Expected a finite number for scale but received NaN',
    ],
    [
      'a Tensor that was disposed of',
      () => {
        const grad = Tensor.zeros(3);
        grad.dispose();
        gradientStats([grad]);
      },
      RangeError,
      'Expected a live Tensor for grads[0] but received one that was disposed of',
    ],
  ]);
});

describe('accumulate', () => {
  /** Each operation rounded to the arithmetic type; storing to `into` rounds once more. */
  function expectedSum(into: TensorLike, grad: TensorLike, scale: number): TensorLike {
    const { dtype, length } = tensorOf(into);
    const round = dtype === 'float64' ? (value: number) => value : Math.fround;
    const sums = tensorOf(into).toArray();
    const grads = tensorOf(grad).toArray();
    const values = Float64Array.from({ length }, (_, k) => round(sums[k] + round(round(scale) * grads[k])));
    return Tensor.zeros(length, { dtype }).set(values);
  }

  for (const environment of environments({ threads: true })) {
    it(`should add with the bits of the contract: ${environment.name}`, () => {
      for (const { into, grad } of ACCUMULATIONS) {
        for (const scale of [1, 0.1, -3]) {
          const memory = new OddMemory();
          const sums = randomArrays(into, memory.place, 1);
          const grads = randomArrays(grad, memory.place, 2);
          const before = grads.map(copyOf);
          const expected = sums.map((sum, i) => expectedSum(sum, grads[i], scale));
          inEnvironment(environment, () => accumulate(sums, grads, { scale }));
          sums.forEach((sum, i) => {
            const what = `${grad} into ${into}, scale ${scale}, ${LENGTHS[i]}`;
            expectSameBits(valuesIn(sum), valuesIn(expected[i]), what);
            expectSameBits(valuesIn(grads[i]), before[i], `gradients, ${what}`);
          });
          memory.expectIntact();
        }
      }
    });
  }

  itUnless(noCuda, 'should add with the same bits on a GPU', () => {
    for (const { into, grad } of ACCUMULATIONS) {
      for (const scale of [1, 0.1, -3]) {
        const what = `${grad} into ${into}, scale ${scale}`;
        for (const place of [deviceMemory, new OddDeviceMemory().place]) {
          const [sums, grads] = [randomArrays(into, ownMemory, 1), randomArrays(grad, ownMemory, 2)];
          const [there, added] = [cloneArrays(sums, place), cloneArrays(grads, place)];
          for (let i = 0; i < 2; i++) {
            accumulate(there, added, { scale });
            accumulate(sums, grads, { scale });
          }
          there.forEach((sum, i) => {
            expectSameBits(valuesIn(sum), valuesIn(sums[i]), `${what}, ${LENGTHS[i]}`);
            expectSameBits(valuesIn(added[i]), valuesIn(grads[i]), `gradients, ${what}`);
          });
        }
      }
    }
    accumulate(Tensor.zeros(0, { device: 'cuda' }), Tensor.zeros(0, { device: 'cuda' }));
  });

  itUnless(noCuda, 'should add on the CPU and on a GPU in one call, and refuse a pair on both', () => {
    const onDevice = (values: number[]): Tensor => Tensor.zeros(values.length, { device: 'cuda' }).set(values);
    const into = [floatOf(1), onDevice([1, 2]), floatOf(3)];
    accumulate(into, [floatOf(10), onDevice([20, 30]), floatOf(40)]);
    expect(into.map((one) => [...tensorOf(one).toArray()])).to.deep.equal([[11], [21, 32], [43]]);
    expectError(
      () => accumulate(into, [floatOf(1), Tensor.zeros(2), floatOf(1)]),
      RangeError,
      'Expected memory on cuda:0, as of into[1], for grads[1] but received memory on cpu',
    );
    expectError(
      () => accumulate(floatOf(1), onDevice([1])),
      RangeError,
      'Expected memory on cpu, as of into, for grads but received memory on cuda:0',
    );
    const whole = onDevice([1, 2, 3]);
    const part = Tensor.fromDevicePointer(whole.pointer + 4n, { shape: 2, dtype: 'float32', owner: whole });
    expectError(
      () => accumulate([onDevice([0, 0]), part], [part, onDevice([1, 1])]),
      RangeError,
      'Expected memory of its own for into[1] but received memory shared with grads[0]',
    );
    expectError(
      () => accumulate([whole, part], [onDevice([1, 1, 1]), onDevice([1, 1])]),
      RangeError,
      'Expected memory of its own for into[1] but received memory shared with into[0]',
    );
    expect([...whole.toArray()]).to.deep.equal([1, 2, 3]);
  });

  itUnless(noDriverCalls, 'should come between the steps before and after it, on whatever stream they are', () => {
    const run = (device: 'cpu' | 'cuda', stream: bigint): ArrayLike<number> => {
      const optimizer = new AdamW({ learningRate: 0.1, stream });
      const weight = Tensor.zeros(50_000, { device });
      const [grad, micro] = [Tensor.zeros(50_000, { device }), Tensor.zeros(50_000, { device })];
      const state = optimizer.createState(0, weight);
      micro.set(Float32Array.from({ length: 50_000 }, (_, i) => (i % 100) - 50));
      for (let step = 0; step < 10; step++) {
        for (let i = 0; i < 3; i++) accumulate(grad, micro, { scale: (step + i) / 10 });
        optimizer.update(0, weight, grad, state, { zeroGrads: true });
      }
      return weight.toArray();
    };
    const expected = run('cpu', 0n);
    for (const stream of [0n, driverCalls().createStream()]) expect(run('cuda', stream)).to.deep.equal(expected);
  });

  itUnless(noStandIn, 'should not wait for a GPU', () => {
    const [into, grad] = [Tensor.zeros(5000, { device: 'cuda' }), Tensor.zeros(5000, { device: 'cuda' })];
    grad.set(new Float32Array(5000).fill(2));
    driverCalls().pause(1n);
    for (let i = 0; i < 5; i++) accumulate(into, grad);
    driverCalls().pause(0n);
    expect(into.toArray()).to.deep.equal(new Float32Array(5000).fill(10));
    // What fails before its work begins has changed nothing.
    driverCalls().fail('cuMemcpyHtoDAsync_v2', 0);
    expect(() => accumulate(into, grad)).to.throw('cuMemcpyHtoDAsync');
    expect(into.toArray()).to.deep.equal(new Float32Array(5000).fill(10));
  });

  it('should sum micro-batches to their mean', () => {
    const sum = new Float32Array(2);
    for (const grad of [Float32Array.of(1, 2), Float32Array.of(3, 6)]) accumulate(sum, grad, { scale: 0.5 });
    expect([...sum]).to.deep.equal([2, 4]);
  });

  const two = () => [new Float32Array(2), new Float32Array(3)];
  const rows: readonly ErrorRow[] = [
    [
      'one array and a list',
      () => accumulate(floatOf(1), [floatOf(1)]),
      TypeError,
      'Expected one array, as into, for grads but received an array of length 1',
    ],
    [
      'a list and one array',
      () => accumulate([floatOf(1)], floatOf(1)),
      TypeError,
      'Expected a list, as into, for grads but received a Float32Array',
    ],
    [
      'lists of different lengths',
      () => accumulate(two(), [floatOf(1)]),
      RangeError,
      'Expected a list of length 2 for grads but received one of length 1',
    ],
    [
      'arrays of different lengths',
      () => accumulate(two(), [new Float32Array(2), new Float32Array(4)]),
      RangeError,
      'Expected length 3 for grads[1] but received length 4',
    ],
    [
      'float64 gradients into float32',
      () => accumulate(floatOf(1), Float64Array.of(1)),
      TypeError,
      'Expected float32 or float16 or bfloat16 for grads but received float64',
    ],
    [
      'float32 gradients into bfloat16',
      () => accumulate([Tensor.zeros(1, { dtype: 'bfloat16' })], [floatOf(1)]),
      TypeError,
      'Expected bfloat16 for grads[0] but received float32',
    ],
    [
      'an array into itself',
      () => {
        const array = floatOf(1);
        accumulate(array, array);
      },
      RangeError,
      'Expected memory of its own for into but received memory shared with grads',
    ],
    [
      'one array twice',
      () => {
        const array = floatOf(1);
        accumulate([array, array], [floatOf(1), floatOf(2)]);
      },
      RangeError,
      'Expected memory of its own for into[1] but received memory shared with into[0]',
    ],
    [
      'a scale that float32 cannot hold',
      () => accumulate(floatOf(1), floatOf(1), { scale: 1e39 }),
      RangeError,
      'Expected a finite number for scale but received 1e+39',
    ],
    [
      'an unknown option',
      () => accumulate(floatOf(1), floatOf(1), { scales: 2 } as never),
      TypeError,
      'Expected a known option for options but received "scales"; did you mean scale?',
    ],
  ];
  for (const environment of environments().filter(({ isa }) => isa === undefined || isa === 'baseline')) {
    describe(`refused on ${environment.name}`, () => {
      itRefuses(
        rows.map(([what, call, kind, message]) => [what, () => inEnvironment(environment, call), kind, message]),
      );
    });
  }

  it('should change nothing if a later pair is refused', () => {
    const sums = [Float32Array.of(1), Float32Array.of(2)];
    expect(() => accumulate(sums, [Float32Array.of(5), new Float32Array(2)])).to.throw(RangeError);
    expect(sums.map(([value]) => value)).to.deep.equal([1, 2]);
  });
});
