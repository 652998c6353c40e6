/** beta ** t against exact integer arithmetic, and the bias correction that uses it. */
import { expect } from 'chai';
import fc from 'fast-check';
import { AdamW } from '../lib/index.js';
import { power } from '../lib/numerics/power.js';
import { environments, inEnvironment } from './support/environments.js';
import { exactPower, nearlyExactPower, rounded, scaledOf } from './support/exact-power.js';

/** Below this the low halves of products underflow; 1 - beta ** t is 1 there anyway. */
const EXACT_FROM = 2 ** -900;

function expectPower(base: number, exponent: number, expected: number): void {
  const actual = power(base, exponent);
  const bound = expected >= EXACT_FROM ? 0 : Math.max(2 ** -1074, expected * 2 ** -52);
  if (!(Math.abs(actual - expected) <= bound)) {
    expect.fail(`power(${base}, ${exponent}) is ${actual}, expected ${expected} within ${bound}`);
  }
  expect(1 - actual).to.equal(1 - expected);
}

const BASES = [
  0.9,
  0.99,
  0.999,
  0.9999,
  0.95,
  0.98,
  0.85,
  0.7,
  0.5,
  1 / 3,
  0.1,
  1e-5,
  2 ** -30,
  1 - 2 ** -53,
  1 - 2 ** -30,
  Math.fround(0.9),
  Math.fround(0.999),
  1e-160,
  Number.MIN_VALUE,
];

describe('power', () => {
  for (const base of BASES) {
    it(`should be ${base} ** t, correctly rounded, for t from 0 to 1,500`, () => {
      const { whole, exponent } = scaledOf(base);
      let product = 1n;
      for (let t = 0; t <= 1500; t++) {
        expectPower(base, t, rounded({ whole: product, exponent: t * exponent }));
        product *= whole;
      }
    });
  }

  it('should be correctly rounded for any base and count', () => {
    const base = fc.oneof(
      fc.double({ min: 0, max: 1, maxExcluded: true, noNaN: true }),
      fc
        .double({ min: 0, max: 2 ** -5, noNaN: true })
        .map((small) => 1 - small)
        .filter((b) => b < 1),
    );
    fc.assert(
      fc.property(base, fc.integer({ min: 0, max: 20000 }), (beta, t) => {
        expectPower(beta, t, exactPower(beta, t));
      }),
      { numRuns: 60 },
    );
  });

  it('should be correctly rounded after many updates', () => {
    const bases = [0.9999, 0.999999, 1 - 1e-9, 1 - 2 ** -40, 1 - 2 ** -53, Math.fround(0.99999)];
    const exponents = [10 ** 5, 123457, 2 ** 20 - 1, 10 ** 6, 2 ** 24 + 1, 10 ** 9 + 7, 2 ** 32, 2 ** 40 - 1];
    for (const base of bases) for (const t of exponents) expectPower(base, t, nearlyExactPower(base, t));
  });

  it('should be 1 for no updates and 0 for a base of 0', () => {
    for (const base of BASES) expect(power(base, 0)).to.equal(1);
    for (const t of [1, 2, 3, 1000]) expect(power(0, t)).to.equal(0);
  });
});

for (const environment of environments()) {
  describe(`bias correction: ${environment.name}`, () => {
    for (const rule of ['mxnet', 'pytorch'] as const) {
      it(`should use correctly rounded powers with rule '${rule}'`, () => {
        for (const t of [1, 2, 3, 10, 100, 999, 1000, 5000]) {
          for (const [beta1, beta2] of [
            [0.9, 0.999],
            [0.95, 0.98],
            [0, 0.9999],
          ]) {
            const learningRate = 0.1;
            const weight = Float64Array.of(0);
            const state = { mean: Float64Array.of(0.3), variance: Float64Array.of(0.7) };
            const optimizer = new AdamW({ learningRate, beta1, beta2, epsilon: 0, rule, beginNumUpdate: t - 1 });
            inEnvironment(environment, () => optimizer.fusedStep(0, weight, Float64Array.of(0), state));
            const mean = 1 - exactPower(beta1, t);
            const root = Math.sqrt(1 - exactPower(beta2, t));
            const m = rule === 'pytorch' ? 0.3 + (1 - beta1) * (0 - 0.3) : beta1 * 0.3;
            const v = beta2 * 0.7;
            const expected =
              rule === 'pytorch'
                ? 0 - ((learningRate / mean) * m) / (Math.sqrt(v) / root)
                : 0 - ((learningRate * root) / mean) * (m / Math.sqrt(v));
            expect(weight[0], `t = ${t}, betas ${beta1} and ${beta2}`).to.equal(expected);
          }
        }
      });
    }
  });
}
