/** Stochastic rounding of bfloat16 variances: the generator, its statistics, and every backend's bits. */
import { expect } from 'chai';
import { AdamW, type AdamWOptions, type Index, Tensor } from '../lib/index.js';
import {
  keyOfWeights,
  type RandomKey,
  randomBits,
  randomKey,
  tensorKey,
  toBfloat16Stochastic,
} from '../lib/numerics/stochastic-rounding.js';
import { expectSameBits } from './support/bits.js';
import { environments, inEnvironment } from './support/environments.js';
import { decodeBits, HALF_FORMATS } from './support/halves.js';
import { withoutWarningOfHalf } from './support/warnings.js';

const BFLOAT16 = HALF_FORMATS[1];
const decode = (bits: number): number => decodeBits(BFLOAT16, bits);

function float32OfBits(bits: number): number {
  return new Float32Array(Uint32Array.of(bits).buffer)[0];
}

describe('the generator of stochastic rounding', () => {
  it('should produce the recorded tensor keys', () => {
    const recorded: readonly (readonly [number, Index, number])[] = [
      [0, 0, 0x8fd0e8d0],
      [0, 1, 0x79472f8b],
      [1, 0, 0xa4458cd8],
      [12345, 7, 0xc21f9b89],
      [4294967295, 3, 0x7d008be3],
      [0, 4294967296, 0xfc354ed2],
      [0, 9007199254740991, 0xbed0e2eb],
      [0, '', 0x01f12bba],
      [0, '0', 0xcbb8ca62],
      [0, 'encoder.weight', 0x1cb776cf],
      [7, '\u00e9\u{1f600}', 0xe4bb94fd],
    ];
    for (const [seed, index, key] of recorded) expect(tensorKey(seed, index), `${seed}, ${index}`).to.equal(key);
  });

  it('should produce the recorded numbers', () => {
    // The same numbers are in test/native/kernels.test.cc.
    const elements = [0, 1, 2, 255, 256, 4294967295];
    const recorded: readonly (readonly [number, number, number, readonly number[]])[] = [
      [0, 1, 0, [0xe82e, 0xf454, 0xc2b1, 0x3262, 0x3ac1, 0x18db]],
      [0xfeb2d5c6, 1, 0, [0x5c2f, 0xec72, 0xb2ca, 0xd8c4, 0xa141, 0x05be]],
      [0xfeb2d5c6, 2, 0, [0x1081, 0x9047, 0x1395, 0xcbad, 0xa1ce, 0xc803]],
      [0xfeb2d5c6, 1, 1, [0x0b89, 0xff74, 0x521d, 0x3b66, 0x19b6, 0x8018]],
      [0x12345678, 1000000, 5, [0x15d8, 0x7ad2, 0xcf4a, 0xc415, 0xcd32, 0xea68]],
      [1, 4294967295, 0, [0x2e53, 0x8740, 0xad04, 0xca3a, 0x14ec, 0xabcb]],
    ];
    for (const [key, count, high, numbers] of recorded) {
      const random = randomKey(key, count, high);
      expect(elements.map((element) => randomBits(random, element))).to.deep.equal(numbers);
    }
  });
});

/** Sum of (observed - expected)^2 / expected over equally likely bins. */
function chiSquare(bins: readonly number[], binCount: number): number {
  const counts = new Array<number>(binCount).fill(0);
  for (const bin of bins) counts[bin]++;
  const expected = bins.length / binCount;
  return counts.reduce((sum, count) => sum + (count - expected) ** 2 / expected, 0);
}

/**
 * Whether values below 256 look uniform: with 255 degrees of freedom chi-square
 * has mean 255 and standard deviation 22.6; six of them are allowed.
 */
function looksUniform(bins: readonly number[]): boolean {
  return Math.abs(chiSquare(bins, 256) - 255) < 6 * Math.sqrt(2 * 255);
}

/**
 * Whether 16-bit numbers look like independent uniform ones: their two bytes,
 * their top nibbles beside those of the next number, and the changes from one
 * to the next.
 */
function looksRandom(numbers: readonly number[]): boolean {
  const next = (i: number): number => numbers[(i + 1) % numbers.length];
  return [
    numbers.map((x) => x >>> 8),
    numbers.map((x) => x & 0xff),
    numbers.map((x, i) => ((x >>> 8) & 0xf0) | (next(i) >>> 12)),
    numbers.map((x, i) => ((x << 4) & 0xf0) | (next(i) & 0xf)),
    numbers.map((x, i) => ((next(i) - x) & 0xffff) >>> 8),
    numbers.map((x, i) => (next(i) ^ x) >>> 8),
  ].every(looksUniform);
}

/** Whether pairs of 16-bit numbers look independent: every nibble of the one beside every nibble of the other, and the changes. */
function looksIndependent(pairs: readonly (readonly [number, number])[]): boolean {
  const shifts = [0, 4, 8, 12];
  const nibbles = shifts.flatMap((a) =>
    shifts.map((b) => pairs.map(([x, y]) => ((x >>> a) & 0xf) * 16 + ((y >>> b) & 0xf))),
  );
  const changes = [0, 8].flatMap((shift) => [
    pairs.map(([x, y]) => ((y - x) >>> shift) & 0xff),
    pairs.map(([x, y]) => ((y ^ x) >>> shift) & 0xff),
  ]);
  return [...nibbles, ...changes].every(looksUniform);
}

describe('the numbers of stochastic rounding', () => {
  const SIZE = 8192;
  const along = (number: (i: number) => number): number[] => Array.from({ length: SIZE }, (_, i) => number(i));
  const at = (seed: number, index: Index, count: number, element: number, high = 0): number =>
    randomBits(randomKey(tensorKey(seed, index), count, high), element);

  for (const [axis, numbers] of Object.entries({
    elements: along((i) => at(0, 0, 1, i)),
    'even elements': along((i) => at(0, 0, 1, 2 * i)),
    'odd elements': along((i) => at(0, 0, 1, 2 * i + 1)),
    'elements, 64 apart': along((i) => at(0, 0, 1, 64 * i)),
    'elements, a page apart': along((i) => at(3, 5, 1000, 4096 * i)),
    'elements, one of 2 ** 32 apart': along((i) => at(0, 0, 1, 7, i)),
    'update counts': along((i) => at(0, 0, i + 1, 0)),
    'update counts of a later element': along((i) => at(1, 9, i + 1, 123456)),
    indices: along((i) => at(0, i, 1, 0)),
    names: along((i) => at(0, `layers.${i}.weight`, 1, 0)),
    seeds: along((i) => at(i, 0, 1, 0)),
    'elements and counts at once': along((i) => at(0, 0, i + 1, i)),
  })) {
    it(`should be uniform and independent over ${axis}`, () => {
      expect(looksRandom(numbers)).to.equal(true);
    });
  }

  it('should be distinguishable from numbers that are not random', () => {
    expect(looksRandom(along((i) => i))).to.equal(false);
    expect(looksRandom(along((i) => (i * 0x9e37) & 0xffff))).to.equal(false);
    expect(looksRandom(along((i) => at(0, 0, 1, i >>> 1)))).to.equal(false);
    expect(looksRandom(along((i) => at(0, 0, 1, i) & ~1))).to.equal(false);
    expect(looksRandom(along((i) => at(0, 0, 1, i) | (i % 4 === 0 ? 0x8000 : 0)))).to.equal(false);
    const halves = along((i) => at(0, 0, 1, i));
    expect(looksIndependent(halves.map((x) => [x, x]))).to.equal(false);
    expect(looksIndependent(halves.map((x) => [x, ((x << 5) | (x >>> 11)) & 0xffff]))).to.equal(false);
    expect(looksIndependent(halves.map((x, i) => [x, (x + (i % 16)) & 0xffff]))).to.equal(false);
  });

  // Two neighbouring elements get the halves of one word.
  for (const [axis, pairOf] of Object.entries({
    elements: (i: number) => [at(0, 0, 1, 2 * i), at(0, 0, 1, 2 * i + 1)] as const,
    'elements of another tensor': (i: number) => [at(3, 'a', 1000, 2 * i), at(3, 'a', 1000, 2 * i + 1)] as const,
    'elements, rows of a matrix apart': (i: number) => [at(0, 0, 1, 4096 * i), at(0, 0, 1, 4096 * i + 1)] as const,
    'update counts': (i: number) => [at(0, 0, i + 1, 8), at(0, 0, i + 1, 9)] as const,
    indices: (i: number) => [at(0, i, 1, 0), at(0, i, 1, 1)] as const,
    seeds: (i: number) => [at(i, 0, 1, 0), at(i, 0, 1, 1)] as const,
    'elements, of two tensors': (i: number) => [at(0, 0, 1, i), at(0, 1, 1, i)] as const,
    'elements, at two counts': (i: number) => [at(0, 0, 1, i), at(0, 0, 2, i)] as const,
    'elements, two apart': (i: number) => [at(0, 0, 1, i), at(0, 0, 1, i + 2)] as const,
    'words beside one another': (i: number) => [at(0, 0, 1, 2 * i + 1), at(0, 0, 1, 2 * i + 2)] as const,
  })) {
    it(`should be independent pair by pair over ${axis}`, () => {
      expect(looksIndependent(Array.from({ length: 4 * SIZE }, (_, i) => pairOf(i)))).to.equal(true);
    });
  }

  it('should change half of all bits of a pair with any bit of the element, the count, the index or the seed', () => {
    const TRIALS = 1000;
    const wordOf = (inputs: readonly number[]): number => {
      const [seed, index, count, element] = inputs;
      const key = randomKey(tensorKey(seed, index), count, 0);
      return randomBits(key, 2 * element) | (randomBits(key, 2 * element + 1) << 16);
    };
    for (let input = 0; input < 4; input++) {
      for (let bit = 0; bit < 31; bit++) {
        const flips = new Array<number>(32).fill(0);
        for (let trial = 0; trial < TRIALS; trial++) {
          const inputs = [trial, 7 * trial, 3 * trial + 1, 1001 * trial];
          const others = inputs.map((value, i) => (i === input ? (value ^ (1 << bit)) >>> 0 : value));
          const changed = wordOf(inputs) ^ wordOf(others);
          for (let k = 0; k < 32; k++) flips[k] += (changed >>> k) & 1;
        }
        // Six standard deviations of a fair coin.
        for (const count of flips)
          expect(count / TRIALS).to.be.within(0.5 - 3 / Math.sqrt(TRIALS), 0.5 + 3 / Math.sqrt(TRIALS));
      }
    }
  });
});

describe('the random numbers of a variance and of its weight', () => {
  it('should differ in half of all bits', () => {
    const TRIALS = 4000;
    const flips = new Array<number>(32).fill(0);
    for (let trial = 0; trial < TRIALS; trial++) {
      const key = randomKey(tensorKey(trial, 3 * trial), trial + 1, 0);
      const word = (of: RandomKey): number => randomBits(of, 2 * trial) | (randomBits(of, 2 * trial + 1) << 16);
      const changed = word(key) ^ word(keyOfWeights(key));
      for (let k = 0; k < 32; k++) flips[k] += (changed >>> k) & 1;
    }
    // Five standard deviations of a fair coin.
    for (const count of flips) expect(count / TRIALS).to.be.closeTo(0.5, 2.5 / Math.sqrt(TRIALS));
  });
});

describe('stochastic rounding', () => {
  it('should round up with the probability that the discarded bits give', () => {
    for (const bits of [0x3f800000, 0x3f800001, 0x3f804000, 0x3f80c001, 0x3f80ffff, 0x00000001, 0x7f7e8000]) {
      const value = float32OfBits(bits);
      let ups = 0;
      for (let random = 0; random < 0x10000; random++) {
        const rounded = toBfloat16Stochastic(value, random);
        ups += rounded - (bits >>> 16);
        if (toBfloat16Stochastic(-value, random) !== (rounded | 0x8000)) expect.fail(`${-value} with ${random}`);
      }
      expect(ups, value.toString()).to.equal(bits & 0xffff);
    }
  });

  it('should be unbiased', () => {
    const N = 20000;
    for (const [i, fraction] of [0, 0.001, 0.1, 0.25, 0.5, 0.75, 0.9, 0.999].entries()) {
      const low = 0x3f80 + i; // 1.0 and what follows, an ulp of 2^-7
      const discarded = Math.round(fraction * 0x10000);
      const value = float32OfBits(low * 0x10000 + discarded);
      for (const along of ['elements', 'counts']) {
        const key = tensorKey(17, i);
        let sum = 0;
        for (let k = 0; k < N; k++) {
          const random =
            along === 'elements' ? randomBits(randomKey(key, 3, 0), k) : randomBits(randomKey(key, k, 0), 3);
          sum += decode(toBfloat16Stochastic(value, random));
        }
        const deviation = 2 ** -7 * Math.sqrt((fraction * (1 - fraction)) / N);
        expect(Math.abs(sum / N - value), `${value} over ${along}`).to.be.at.most(4 * deviation);
      }
    }
  });

  it('should round two neighbouring elements up independently of one another', () => {
    const N = 20000;
    for (const fraction of [0.02, 0.1, 0.5, 0.9]) {
      const value = float32OfBits(0x3f800000 + Math.round(fraction * 0x10000));
      const key = randomKey(tensorKey(23, 'pairs'), 3, 0);
      let both = 0;
      for (let k = 0; k < N; k++) {
        const [first, second] = [2 * k, 2 * k + 1].map((e) => toBfloat16Stochastic(value, randomBits(key, e)) - 0x3f80);
        both += first * second;
      }
      const p = fraction ** 2;
      expect(Math.abs(both / N - p), `both of ${fraction}`).to.be.at.most(4 * Math.sqrt((p * (1 - p)) / N) + 1e-5);
    }
  });

  it('should not exceed the largest finite value and should keep infinities and NaN', () => {
    for (const random of [0, 1, 0x8000, 0xffff]) {
      for (const bits of [0x7f7fffff, 0x7f7f0001, 0x7f7f0000]) {
        expect(toBfloat16Stochastic(float32OfBits(bits), random)).to.equal(0x7f7f);
        expect(toBfloat16Stochastic(-float32OfBits(bits), random)).to.equal(0xff7f);
      }
      expect(toBfloat16Stochastic(Infinity, random)).to.equal(0x7f80);
      expect(toBfloat16Stochastic(-Infinity, random)).to.equal(0xff80);
      expect(toBfloat16Stochastic(NaN, random)).to.equal(0x7fc0);
      expect(toBfloat16Stochastic(0, random)).to.equal(0);
      expect(toBfloat16Stochastic(-0, random)).to.equal(0x8000);
    }
  });
});

/** The bfloat16 arrays of one tensor, each starting at an odd element of a buffer. */
interface Arrays {
  readonly weight: Uint16Array;
  readonly grad: Uint16Array;
  readonly mean: Uint16Array;
  readonly variance: Uint16Array;
}

function makeArrays(length: number, offset: number, grad: (i: number) => number): Arrays {
  const place = (): Uint16Array => new Uint16Array(new ArrayBuffer(2 * (length + offset)), 2 * offset, length);
  return { weight: place(), grad: place().map((_, i) => grad(i)), mean: place(), variance: place() };
}

const tensor = (bits: Uint16Array): Tensor => Tensor.from(bits, { dtype: 'bfloat16' });

function stepAll(optimizer: AdamW, indices: readonly Index[], all: readonly Arrays[]): void {
  optimizer.fusedStep(
    indices,
    all.map(({ weight }) => tensor(weight)),
    all.map(({ grad }) => tensor(grad)),
    all.map(({ mean, variance }) => ({ mean: tensor(mean), variance: tensor(variance) })),
  );
}

/** A gradient between 1.01 and 1.99, whose square has bits that rounding discards. */
const someGradient = (i: number): number => 0x3f81 + (i % 127);

/** With beta2 = 0 the variance is the square of the gradient, rounded for storage: the rounding under test. */
const SQUARES: AdamWOptions = { beta2: 0, correctBias: false, learningRate: 0.01 };

function expectedSquares(arrays: Arrays, seed: number, index: Index, count: number): Uint16Array {
  const key = randomKey(tensorKey(seed, index), count, 0);
  return arrays.grad.map((bits, i) => toBfloat16Stochastic(Math.fround(decode(bits) ** 2), randomBits(key, i)));
}

for (const environment of environments({ threads: true })) {
  describe(`bfloat16 variances: ${environment.name}`, () => {
    withoutWarningOfHalf();

    it('should be rounded with the random numbers of their seed, index, count and element', () => {
      const lengths = [40961, 1, 0, 257, 70001, 33, 16384, 255, 20000];
      const all = lengths.map((length, i) => makeArrays(length, 2 * i + 1, (k) => someGradient(k * (i + 1))));
      const indices = lengths.map((_, i) => (i % 2 === 0 ? i * 1000 : `layers.${i}.weight`));
      const seed = 0xdeadbeef;
      const optimizer = new AdamW({ ...SQUARES, seed, beginNumUpdate: 41 });
      inEnvironment(environment, () => {
        for (const count of [42, 43]) {
          stepAll(optimizer, indices, all);
          all.forEach((arrays, i) => {
            const expected = expectedSquares(arrays, seed, indices[i], count);
            expectSameBits(arrays.variance, expected, `variance of ${indices[i]} after update ${count}`);
          });
        }
      });
    });

    it('should be the same whether updated alone or with others', () => {
      const lengths = [50000, 300, 60001, 7];
      const make = (i: number): Arrays => makeArrays(lengths[i], 1, (k) => someGradient(k + i));
      const together = lengths.map((_, i) => make(i));
      const alone = lengths.map((_, i) => make(i));
      inEnvironment(environment, () => {
        const options = { seed: 5, learningRate: 0.01, wd: 0.01 };
        const optimizer = new AdamW(options);
        const other = new AdamW(options);
        for (let step = 0; step < 3; step++) {
          stepAll(optimizer, [10, 11, 12, 'last'], together);
          for (const i of [2, 0, 3, 1]) stepAll(other, [[10, 11, 12, 'last'][i]], [alone[i]]);
        }
      });
      together.forEach((arrays, i) => {
        expectSameBits(arrays.variance, alone[i].variance, `variance of ${i}`);
        expectSameBits(arrays.weight, alone[i].weight, `weight of ${i}`);
      });
    });
  });
}

for (const environment of environments()) {
  describe(`bfloat16 variances over time: ${environment.name}`, () => {
    withoutWarningOfHalf();

    it('should differ with seed, index and count', () => {
      const step = (options: AdamWOptions, index: Index): Uint16Array => {
        const arrays = makeArrays(4000, 1, someGradient);
        inEnvironment(environment, () => stepAll(new AdamW({ ...SQUARES, ...options }), [index], [arrays]));
        return arrays.variance;
      };
      const reference = step({}, 0);
      expectSameBits(step({ seed: 0 }, 0), reference, 'variance of the same');
      const others = [
        step({ seed: 1 }, 0),
        step({ seed: 2 ** 32 - 1 }, 0),
        step({}, 1),
        step({}, '00'),
        step({}, 2 ** 32),
        step({ beginNumUpdate: 1 }, 0),
      ];
      const all = [reference, ...others];
      for (let a = 0; a < all.length; a++) {
        for (let b = 0; b < a; b++) {
          // With uniform discarded bits, independent roundings agree in 2/3 of cases, and equal ones in all.
          const same = all[a].reduce((sum, bits, i) => sum + (bits === all[b][i] ? 1 : 0), 0) / 4000;
          expect(same, `${a} and ${b}`).to.be.within(0.5, 0.8);
        }
      }
    });

    it('should not exceed the largest finite value and should keep infinities and NaN', () => {
      const length = 3000;
      // The rescaled gradient's square is 0x1.fffffcp127, so that all but two numbers of 65,536 would round it up.
      const rescaleGrad = 2 ** 64 * (1 - 2 ** -24);
      const [one, huge, infinity, nan] = [0x3f80, 0x7f00, 0xff80, 0x7fc0];
      const grads = [one, huge, infinity, nan, one | 0x8000];
      const arrays = makeArrays(length, 1, (i) => grads[i % grads.length]);
      inEnvironment(environment, () => stepAll(new AdamW({ ...SQUARES, rescaleGrad, rule: 'pytorch' }), [0], [arrays]));
      const expected = [0x7f7f, 0x7f80, 0x7f80, 0x7fc0, 0x7f7f];
      expectSameBits(
        arrays.variance,
        arrays.variance.map((_, i) => expected[i % expected.length]),
        'variance',
      );
    });

    for (const [what, gradient] of [
      ['zero', 0],
      ['small', 0.03125],
    ] as const) {
      it(`should decay like float32 variances with ${what} gradients`, () => {
        const length = 400;
        const steps = 3000;
        const first = 1.5;
        const bits = tensor(new Uint16Array(length)).set(new Array<number>(length).fill(gradient)).data;
        const arrays = makeArrays(length, 1, (i) => bits[i]);
        tensor(arrays.variance).set(new Array<number>(length).fill(first));
        const wide = new Float32Array(length).fill(first);
        const options: AdamWOptions = { learningRate: 0, beta2: 0.999 };
        inEnvironment(environment, () => {
          const weights = [tensor(arrays.weight), tensor(new Uint16Array(length))];
          const states = [
            { mean: tensor(arrays.mean), variance: tensor(arrays.variance) },
            { mean: new Float32Array(length), variance: wide },
          ];
          const bound = new AdamW(options).bind([0, 1], weights, [tensor(arrays.grad), tensor(arrays.grad)], states);
          for (let step = 0; step < steps; step++) bound.step();
        });
        const mean = arrays.variance.reduce((sum, half) => sum + decode(half), 0) / length;
        expect(wide[0]).to.be.below(0.1);
        expect(mean / wide[0]).to.be.within(0.95, 1.05);
      });
    }
  });
}

describe('bfloat16 variances rounded to nearest', () => {
  it('should never decay', () => {
    const variance = Tensor.zeros(1, { dtype: 'bfloat16' }).set([1.5]);
    for (let step = 0; step < 3000; step++) variance.set([Math.fround(0.999 * variance.toArray()[0])]);
    expect(variance.toArray()[0]).to.equal(1.5);
  });
});
