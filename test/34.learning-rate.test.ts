/** The learning rate of the next step: options, schedulers and setLearningRate(). */
import { expect } from 'chai';
import {
  AdamW,
  CosineScheduler,
  FactorScheduler,
  LRScheduler,
  MultiFactorScheduler,
  PolyScheduler,
} from '../lib/index.js';
import { type ErrorRow, expectError, itRefuses } from './support/errors.js';
import { cloneModel, expectSameModel, remember } from './support/model.js';
import { InverseRoot } from './support/schedulers.js';
import { SGD } from './support/sgd.js';
import { gradsOf, start } from './support/small-model.js';
import { CALLS, stepper } from './support/steps.js';
import { quietly, warningsOf } from './support/warnings.js';

const OVERWRITTEN = 'learning rate from `lrScheduler` has been overwritten by `learningRate` in optimizer.';

function scheduler(baseLr = 0.5): FactorScheduler {
  return new FactorScheduler({ step: 2, factor: 0.5, baseLr });
}

/** A schedule that records the counts it is asked for and returns a fixed rate. */
class Recorder extends LRScheduler {
  readonly asked: number[] = [];
  rate = 0.25;

  override learningRateAt(numUpdate: number): number {
    this.asked.push(numUpdate);
    return this.rate;
  }

  protected override afterWarmup(): number {
    throw new Error('not reached');
  }
}

describe('learningRate', () => {
  it('should default to 0.001 in AdamW and to 0.01 in other optimizers', () => {
    expect(new AdamW().learningRate).to.equal(0.001);
    expect(new AdamW({ learningRate: undefined }).learningRate).to.equal(0.001);
    expect(new SGD().learningRate).to.equal(0.01);
  });

  it('should be 0.01 if it is null', () => {
    expect(new AdamW({ learningRate: null }).learningRate).to.equal(0.01);
    expect(new SGD({ learningRate: null }).learningRate).to.equal(0.01);
  });

  it('should come from the scheduler if it is left out or null, without a warning', () => {
    const warnings = warningsOf(() => {
      for (const Class of [AdamW, SGD]) {
        expect(new Class({ lrScheduler: scheduler() }).learningRate).to.equal(0.5);
        expect(new Class({ lrScheduler: scheduler(), learningRate: undefined }).learningRate).to.equal(0.5);
        expect(new Class({ lrScheduler: scheduler(), learningRate: null }).learningRate).to.equal(0.5);
        expect(new Class({ lrScheduler: scheduler(), learningRate: 0.5 }).learningRate).to.equal(0.5);
      }
    });
    expect(warnings).to.deep.equal([]);
  });

  it('should be the given value, including 0', () => {
    expect(new AdamW({ learningRate: 0.3 }).learningRate).to.equal(0.3);
    expect(new AdamW({ learningRate: 0 }).learningRate).to.equal(0);
  });

  const warmup = { baseLr: 0.5, warmupSteps: 10, warmupBeginLr: 0.1 };
  const schedulers: readonly (() => LRScheduler)[] = [
    () => new FactorScheduler({ ...warmup, step: 20, factor: 0.5 }),
    () => new MultiFactorScheduler({ ...warmup, step: [20, 30], factor: 0.5 }),
    () => new PolyScheduler({ ...warmup, maxUpdate: 50, finalLr: 0.01 }),
    () => new CosineScheduler({ ...warmup, maxUpdate: 50, finalLr: 0.01 }),
    () => new InverseRoot(warmup),
  ];
  for (const make of schedulers) {
    const { name } = make().constructor;

    it(`should override the base rate of a ${name} with a warning and leave the scheduler unchanged`, () => {
      const lrScheduler = make();
      const untouched = make();
      const expected = make();
      expected.baseLr = 2;
      const warnings = warningsOf(() => {
        const optimizer = new AdamW({ lrScheduler, learningRate: 2 });
        const model = cloneModel(start);
        for (let t = 0; t <= 60; t++) {
          expect(optimizer.numUpdate).to.equal(t);
          expect(optimizer.learningRate, `rate at ${t}`).to.equal(expected.learningRateAt(t));
          // The warm-up ends at the new base.
          if (t < 10) expect(optimizer.learningRate).to.be.closeTo(0.1 + (1.9 * t) / 10, 1e-12);
          optimizer.fusedStep(model.indices, model.weights, gradsOf[0], model.states);
        }
      });
      expect(warnings).to.deep.equal([OVERWRITTEN]);
      expect(lrScheduler.baseLr).to.equal(0.5);
      for (let t = 0; t <= 60; t++) expect(lrScheduler.learningRateAt(t)).to.equal(untouched.learningRateAt(t));
    });
  }

  it("should follow the scheduler's baseLr and an override until that is assigned again", () => {
    const lrScheduler = scheduler(0.5);
    const own = new AdamW({ lrScheduler });
    const overridden = quietly(() => new AdamW({ lrScheduler, learningRate: 3 }));
    expect(overridden.learningRate).to.equal(3);
    lrScheduler.baseLr = 0.25;
    expect(own.learningRate).to.equal(0.25);
    // As MXNet, where the override is an assignment to the scheduler: the later one counts.
    expect(overridden.learningRate).to.equal(0.25);
  });

  it('should be the rate at numUpdate, starting from beginNumUpdate', () => {
    const optimizer = new AdamW({ lrScheduler: scheduler(0.5), beginNumUpdate: 4 });
    expect(optimizer.learningRate).to.equal(0.25);
    const { indices, weights, states } = cloneModel(start);
    optimizer.fusedStep(indices, weights, gradsOf[0], states);
    expect(optimizer.learningRate).to.equal(0.125);
  });

  for (const call of CALLS) {
    it(`should be the scheduler's rate for the update being made: ${call}`, () => {
      const lrScheduler = scheduler(0.5);
      const scheduled = cloneModel(start);
      const manual = cloneModel(start);
      const optimizer = new AdamW({ lrScheduler });
      const by = new AdamW({ learningRate: 9 });
      const step = stepper(optimizer, scheduled, call);
      gradsOf.forEach((grads, t) => {
        step(grads);
        by.setLearningRate(lrScheduler.learningRateAt(t + 1));
        by.fusedStep(manual.indices, manual.weights, grads, manual.states);
        expectSameModel(scheduled, manual, `step ${t + 1}`);
      });
    });
  }

  it('should be asked of the scheduler once per call, for the largest count', () => {
    const lrScheduler = new Recorder();
    const optimizer = new AdamW({ lrScheduler });
    const { indices, weights, states } = cloneModel(start);
    optimizer.fusedStep(indices, weights, gradsOf[0], states);
    optimizer.fusedStep(1, weights[1], gradsOf[1][1], states[1]);
    optimizer.fusedStep(2, weights[2], gradsOf[1][2], states[2]);
    optimizer.fusedStep(indices, weights, gradsOf[2], states);
    expect(lrScheduler.asked).to.deep.equal([1, 2, 2, 3]);
  });

  it('should make a step throw and change nothing if the scheduler returns an invalid rate', () => {
    const lrScheduler = new Recorder();
    const optimizer = new AdamW({ lrScheduler });
    const model = cloneModel(start);
    const expectKept = remember(model);
    for (const [rate, kind] of [
      [NaN, RangeError],
      [-1, RangeError],
      [Infinity, RangeError],
      ['1', TypeError],
    ] as const) {
      lrScheduler.rate = rate as number;
      for (const call of CALLS) {
        const step = stepper(optimizer, model, call);
        const received = typeof rate === 'string' ? '"1"' : rate;
        const message = `Expected a finite number of at least 0 for the learning rate of lrScheduler but received ${received}`;
        expectError(() => step(gradsOf[0]), kind, message);
      }
      expectKept(`rate ${rate}`);
      expect(optimizer.numUpdate).to.equal(0);
      expect(optimizer.updateCount(0)).to.equal(0);
    }
  });

  itRefuses([
    [
      'a negative rate',
      () => new AdamW({ learningRate: -1 }),
      RangeError,
      'Expected a finite number of at least 0 for learningRate but received -1',
    ],
    [
      'a rate of the wrong type with a scheduler',
      () => new AdamW({ learningRate: '1' as never, lrScheduler: scheduler() }),
      TypeError,
      'Expected a finite number of at least 0 for learningRate but received "1"',
    ],
    [
      'a rate below the beginning of the warm-up',
      () => new AdamW({ learningRate: 0.05, lrScheduler: new CosineScheduler({ ...warmup, maxUpdate: 50 }) }),
      RangeError,
      'Expected at least warmupBeginLr (0.1) for learningRate but received 0.05',
    ],
    [
      'an object that is not an LRScheduler',
      () => new AdamW({ lrScheduler: { learningRateAt: () => 1 } as never }),
      TypeError,
      'Expected an LRScheduler for lrScheduler but received an object',
    ],
  ]);
});

describe('setLearningRate', () => {
  it('should set the rate of the next step', () => {
    const optimizer = new AdamW({ learningRate: 0.1 });
    const model = cloneModel(start);
    const expected = cloneModel(start);
    optimizer.fusedStep(model.indices, model.weights, gradsOf[0], model.states);
    optimizer.setLearningRate(0.025);
    expect(optimizer.learningRate).to.equal(0.025);
    optimizer.fusedStep(model.indices, model.weights, gradsOf[1], model.states);
    new AdamW({ learningRate: 0.1 }).step(expected.indices, expected.weights, gradsOf[0], expected.states);
    new AdamW({ learningRate: 0.025, beginNumUpdate: 1 }).step(
      expected.indices,
      expected.weights,
      gradsOf[1],
      expected.states,
    );
    expectSameModel(model, expected, 'after two rates');
  });

  const BESIDE = 'Expected no lrScheduler for setLearningRate but received one: the scheduler sets the rate';
  itRefuses([
    ['a rate with a scheduler', () => new AdamW({ lrScheduler: scheduler() }).setLearningRate(1), Error, BESIDE],
    [
      'a rate with a scheduler whose base is overridden',
      () => quietly(() => new AdamW({ lrScheduler: scheduler(), learningRate: 1 })).setLearningRate(1),
      Error,
      BESIDE,
    ],
    ...(
      [
        [-1, RangeError, '-1'],
        [NaN, RangeError, 'NaN'],
        [Infinity, RangeError, 'Infinity'],
        [null, TypeError, 'null'],
        ['1', TypeError, '"1"'],
      ] as const
    ).map(
      ([value, kind, received]): ErrorRow => [
        `a rate of ${received}`,
        () => new AdamW().setLearningRate(value as number),
        kind,
        `Expected a finite number of at least 0 for learningRate but received ${received}`,
      ],
    ),
  ]);
});
