import { expect } from 'chai';
import { CosineScheduler, FactorScheduler, LRScheduler, MultiFactorScheduler, PolyScheduler } from '../lib/index.js';
import { expectClose, expectSameBits } from './support/bits.js';
import { type ErrorRow, itRefuses } from './support/errors.js';
import { type FixtureScheduler, readFixture } from './support/fixtures.js';
import { randomFrom } from './support/random.js';

const { schedulers } = readFixture('mxnet-adamw');

const CLASSES = { FactorScheduler, MultiFactorScheduler, PolyScheduler, CosineScheduler };
/** Tolerance for schedules whose powers and cosines may differ in the last bits. */
const RELATIVE = 1e-12;

function make({ scheduler, options }: FixtureScheduler): LRScheduler {
  return new CLASSES[scheduler](options as never);
}

function shuffled<T>(list: readonly T[], random: () => number): T[] {
  return list
    .map((value) => ({ value, at: random() }))
    .sort((a, b) => a.at - b.at)
    .map(({ value }) => value);
}

/** Asserts that a scheduler gives these rates when it is asked in the order of `order`. */
function expectRates(test: FixtureScheduler, scheduler: LRScheduler, order: readonly number[]): void {
  const exact = test.scheduler === 'FactorScheduler' || test.scheduler === 'MultiFactorScheduler';
  const actual = Float64Array.from(order, (k) => scheduler.learningRateAt(test.numUpdate[k]));
  const expected = Float64Array.from(order, (k) => test.learningRate[k]);
  const what = `${test.scheduler} ${JSON.stringify(test.options)}`;
  if (exact) expectSameBits(actual, expected, what);
  else expectClose(actual, expected, (i) => RELATIVE * Math.abs(expected[i]), what);
}

describe('Schedulers', () => {
  it("should have MXNet's values in the fixture", () => {
    expect(schedulers.map(({ scheduler }) => scheduler)).to.have.members([
      ...new Array(3).fill('FactorScheduler'),
      ...new Array(2).fill('MultiFactorScheduler'),
      ...new Array(2).fill('PolyScheduler'),
      ...new Array(2).fill('CosineScheduler'),
    ]);
    for (const { numUpdate, learningRate } of schedulers) {
      expect(numUpdate.length).to.equal(learningRate.length).and.be.above(80);
    }
  });

  schedulers.forEach((test, i) => {
    // Past maxUpdate, MXNet repeats the rate of its last call; the fixture's calls include each maxUpdate.
    const inOrder = test.numUpdate.map((_, k) => k);
    const what = `${test.scheduler} ${i + 1}`;

    it(`should give MXNet's rates: ${what}`, () => {
      expectRates(test, make(test), inOrder);
    });

    it(`should give the same rates in any order, repeatedly: ${what}`, () => {
      const random = randomFrom(31 + i);
      const scheduler = make(test);
      expectRates(test, scheduler, [...inOrder].reverse());
      for (let round = 0; round < 5; round++) expectRates(test, scheduler, shuffled(inOrder, random));
    });

    it(`should give the same rate from a new scheduler: ${what}`, () => {
      for (const k of inOrder) expectRates(test, make(test), [k]);
    });

    it(`should accept another base for one call: ${what}`, () => {
      const scheduler = make(test);
      const { baseLr } = scheduler;
      const larger = make({ ...test, options: { ...test.options, baseLr: 2 * baseLr } });
      for (const numUpdate of test.numUpdate) {
        expect(scheduler.learningRateAt(numUpdate, 2 * baseLr)).to.equal(larger.learningRateAt(numUpdate));
        expect(scheduler.learningRateAt(numUpdate)).to.equal(make(test).learningRateAt(numUpdate));
      }
      expect(scheduler.baseLr).to.equal(baseLr);
      scheduler.baseLr = 2 * baseLr;
      for (const numUpdate of test.numUpdate) {
        expect(scheduler.learningRateAt(numUpdate)).to.equal(larger.learningRateAt(numUpdate));
      }
    });
  });

  const warmup = { baseLr: 0.8, warmupSteps: 8, warmupBeginLr: 0.2 };
  const others = {
    FactorScheduler: { step: 100, factor: 0.5 },
    MultiFactorScheduler: { step: [100], factor: 0.5 },
    PolyScheduler: { maxUpdate: 100 },
    CosineScheduler: { maxUpdate: 100 },
  };
  for (const [name, Class] of Object.entries(CLASSES)) {
    const options = others[name as keyof typeof others];
    const makeOne = (more: object): LRScheduler => new Class({ ...options, ...more } as never);

    it(`should rise linearly to any base: ${name}`, () => {
      const scheduler = makeOne(warmup);
      for (const base of [0.8, 0.2, 1.8]) {
        for (let t = 0; t <= 8; t++) {
          expect(scheduler.learningRateAt(t, base)).to.be.closeTo(0.2 + ((base - 0.2) * t) / 8, 1e-15);
        }
      }
      expect(scheduler.learningRateAt(4)).to.equal(0.5);
      expect(scheduler.learningRateAt(0)).to.equal(0.2);
    });

    it(`should stay at warmupBeginLr with warmupMode 'constant': ${name}`, () => {
      const scheduler = makeOne({ ...warmup, warmupMode: 'constant' });
      for (let t = 0; t < 8; t++) expect(scheduler.learningRateAt(t, 5)).to.equal(0.2);
      expect(scheduler.learningRateAt(8)).to.be.closeTo(0.8, 1e-15);
    });

    it(`should have MXNet's defaults: ${name}`, () => {
      expect(makeOne({})).to.include({ baseLr: 0.01, warmupSteps: 0, warmupBeginLr: 0, warmupMode: 'linear' });
      const nothing = { baseLr: undefined, warmupSteps: undefined, warmupBeginLr: undefined, warmupMode: undefined };
      expect(makeOne(nothing)).to.include({ baseLr: 0.01, warmupSteps: 0, warmupBeginLr: 0, warmupMode: 'linear' });
    });
  }

  it('should have their specific defaults', () => {
    expect(new FactorScheduler({ step: 3 })).to.include({ step: 3, factor: 1, stopFactorLr: 1e-8 });
    expect(new MultiFactorScheduler({ step: [3, 4] })).to.include({ factor: 1 });
    expect(new MultiFactorScheduler({ step: [3, 4] }).step).to.deep.equal([3, 4]);
    expect(new PolyScheduler({ maxUpdate: 5 })).to.include({ maxUpdate: 5, power: 2, finalLr: 0 });
    expect(new CosineScheduler({ maxUpdate: 5 })).to.include({ maxUpdate: 5, finalLr: 0 });
  });

  it('should stay at finalLr from maxUpdate on', () => {
    for (const Class of [PolyScheduler, CosineScheduler]) {
      const scheduler = new Class({ maxUpdate: 50, baseLr: 1, finalLr: 0.125, warmupSteps: 5 });
      for (const t of [50, 51, 100, 1e6, Number.MAX_SAFE_INTEGER]) {
        expect(scheduler.learningRateAt(t)).to.equal(0.125);
        expect(scheduler.learningRateAt(t, 7)).to.equal(0.125);
      }
      expect(scheduler.learningRateAt(49)).to.be.above(0.125);
    }
  });

  it('should rise if finalLr is above the base', () => {
    const scheduler = new PolyScheduler({ maxUpdate: 10, baseLr: 0.1, finalLr: 0.5, power: 1 });
    expect(scheduler.learningRateAt(5)).to.be.closeTo(0.3, 1e-15);
  });

  it('should reduce only after a step, and not below stopFactorLr', () => {
    const scheduler = new FactorScheduler({ step: 10, factor: 0.5, baseLr: 1, stopFactorLr: 0.2 });
    const rates = [0, 1, 10, 11, 20, 21, 30, 31, 1e9].map((t) => scheduler.learningRateAt(t));
    expect(rates).to.deep.equal([1, 1, 1, 0.5, 0.5, 0.25, 0.25, 0.2, 0.2]);
    const several = new MultiFactorScheduler({ step: [10, 12], factor: 0.5, baseLr: 1 });
    expect([0, 10, 11, 12, 13, 1e9].map((t) => several.learningRateAt(t))).to.deep.equal([1, 1, 0.5, 0.5, 0.25, 0.25]);
  });

  it('should find the rate of a very late update in constant time', () => {
    const scheduler = new FactorScheduler({ step: 1, factor: 0.999, baseLr: 1, stopFactorLr: 1e-3 });
    const begin = process.hrtime.bigint();
    expect(scheduler.learningRateAt(Number.MAX_SAFE_INTEGER)).to.equal(1e-3);
    expect(scheduler.learningRateAt(Number.MAX_SAFE_INTEGER, 2)).to.equal(1e-3);
    expect(scheduler.learningRateAt(Number.MAX_SAFE_INTEGER, NaN)).to.be.NaN;
    expect(Number(process.hrtime.bigint() - begin)).to.be.below(1e9);
  });

  it('should ignore later changes to the list of steps', () => {
    const step = [2, 4];
    const scheduler = new MultiFactorScheduler({ step, factor: 0.5, baseLr: 1 });
    step[0] = 1;
    step.pop();
    expect([2, 3, 5].map((t) => scheduler.learningRateAt(t))).to.deep.equal([1, 0.5, 0.25]);
  });

  it('should be usable as a base class', () => {
    class Sawtooth extends LRScheduler {
      protected override afterWarmup(numUpdate: number, baseLr: number): number {
        return baseLr * (1 + (numUpdate % 3));
      }
    }
    const scheduler = new Sawtooth({ baseLr: 0.5, warmupSteps: 2 });
    expect(scheduler).to.be.an.instanceOf(LRScheduler);
    expect([0, 1, 2, 3, 4].map((t) => scheduler.learningRateAt(t))).to.deep.equal([0, 0.25, 1.5, 0.5, 1]);
    expect(scheduler.learningRateAt(4, 2)).to.equal(4);
  });

  describe('errors', () => {
    const RATE = 'Expected a finite number of at least 0 for';
    const factor = (more: object) => () => new FactorScheduler({ step: 1, ...more } as never);
    const multi = (more: object) => () => new MultiFactorScheduler({ step: [1], ...more } as never);
    const poly = (more: object) => () => new PolyScheduler({ maxUpdate: 10, ...more } as never);
    const cosine = (more: object) => () => new CosineScheduler({ maxUpdate: 10, ...more } as never);

    const shared: ErrorRow[] = Object.entries({ factor, multi, poly, cosine }).flatMap(([name, with_]): ErrorRow[] => [
      [`${name}: a negative base`, with_({ baseLr: -1 }), RangeError, `${RATE} baseLr but received -1`],
      [`${name}: a base that is NaN`, with_({ baseLr: NaN }), RangeError, `${RATE} baseLr but received NaN`],
      [`${name}: an infinite base`, with_({ baseLr: Infinity }), RangeError, `${RATE} baseLr but received Infinity`],
      [`${name}: a base of the wrong kind`, with_({ baseLr: '1' }), TypeError, `${RATE} baseLr but received "1"`],
      [
        `${name}: fractional warm-up steps`,
        with_({ warmupSteps: 1.5 }),
        RangeError,
        'Expected an integer of at least 0 for warmupSteps but received 1.5',
      ],
      [
        `${name}: negative warm-up steps`,
        with_({ warmupSteps: -1 }),
        RangeError,
        'Expected an integer of at least 0 for warmupSteps but received -1',
      ],
      [
        `${name}: a warm-up that begins above the base`,
        with_({ warmupBeginLr: 0.02 }),
        RangeError,
        'Expected at most baseLr (0.01) for warmupBeginLr but received 0.02',
      ],
      [
        `${name}: a negative beginning`,
        with_({ warmupBeginLr: -0.1 }),
        RangeError,
        `${RATE} warmupBeginLr but received -0.1`,
      ],
      [
        `${name}: an unknown mode`,
        with_({ warmupMode: 'quadratic' }),
        RangeError,
        "Expected 'linear' or 'constant' for warmupMode but received \"quadratic\"",
      ],
      [
        `${name}: a mode of the wrong kind`,
        with_({ warmupMode: 1 }),
        TypeError,
        "Expected 'linear' or 'constant' for warmupMode but received 1",
      ],
    ]);

    itRefuses([
      ...shared,
      ...Object.entries(CLASSES).flatMap(([name, Class]): ErrorRow[] =>
        [undefined, null].map((options) => [
          `${name}: options that are ${options}`,
          () => new Class(options as never),
          TypeError,
          `Expected an object for options but received ${options}`,
        ]),
      ),
      [
        'factor: no step',
        factor({ step: undefined }),
        TypeError,
        'Expected an integer of at least 1 for step but received undefined',
      ],
      [
        'factor: a step of 0',
        factor({ step: 0 }),
        RangeError,
        'Expected an integer of at least 1 for step but received 0',
      ],
      [
        'factor: a fractional step',
        factor({ step: 1.5 }),
        RangeError,
        'Expected an integer of at least 1 for step but received 1.5',
      ],
      [
        'factor: a factor above 1',
        factor({ factor: 1.1 }),
        RangeError,
        'Expected a number of at most 1 for factor but received 1.1',
      ],
      ['factor: a negative factor', factor({ factor: -0.5 }), RangeError, `${RATE} factor but received -0.5`],
      ['factor: a factor of the wrong kind', factor({ factor: '1' }), TypeError, `${RATE} factor but received "1"`],
      [
        'factor: a negative stopFactorLr',
        factor({ stopFactorLr: -1 }),
        RangeError,
        `${RATE} stopFactorLr but received -1`,
      ],
      [
        'multi: a number of steps',
        multi({ step: 3 }),
        TypeError,
        'Expected a list of at least one number for step but received 3',
      ],
      [
        'multi: no steps',
        multi({ step: [] }),
        TypeError,
        'Expected a list of at least one number for step but received an array of length 0',
      ],
      [
        'multi: a step of 0',
        multi({ step: [0, 1] }),
        RangeError,
        'Expected an integer of at least 1 for step[0] but received 0',
      ],
      [
        'multi: a step of the wrong kind',
        multi({ step: [1, '2'] }),
        TypeError,
        'Expected an integer of at least 1 for step[1] but received "2"',
      ],
      [
        'multi: steps that do not increase',
        multi({ step: [3, 3] }),
        RangeError,
        'Expected more than step[0] for step[1] but received 3',
      ],
      [
        'multi: a factor above 1',
        multi({ factor: 2 }),
        RangeError,
        'Expected a number of at most 1 for factor but received 2',
      ],
      [
        'poly: no maxUpdate',
        poly({ maxUpdate: undefined }),
        TypeError,
        'Expected an integer of at least 1 for maxUpdate but received undefined',
      ],
      [
        'poly: a maxUpdate of 0',
        poly({ maxUpdate: 0 }),
        RangeError,
        'Expected an integer of at least 1 for maxUpdate but received 0',
      ],
      [
        'poly: a maxUpdate within the warm-up',
        poly({ warmupSteps: 10 }),
        RangeError,
        'Expected more than warmupSteps (10) for maxUpdate but received 10',
      ],
      ['poly: a negative finalLr', poly({ finalLr: -1 }), RangeError, `${RATE} finalLr but received -1`],
      ['poly: a negative power', poly({ power: -1 }), RangeError, `${RATE} power but received -1`],
      ['poly: an infinite power', poly({ power: Infinity }), RangeError, `${RATE} power but received Infinity`],
      [
        'cosine: a fractional maxUpdate',
        cosine({ maxUpdate: 1.5 }),
        RangeError,
        'Expected an integer of at least 1 for maxUpdate but received 1.5',
      ],
      ['cosine: a finalLr of the wrong kind', cosine({ finalLr: '0' }), TypeError, `${RATE} finalLr but received "0"`],
    ]);
  });
});
