import vm from 'node:vm';
import { expect } from 'chai';
import fc from 'fast-check';
import {
  AdamW,
  type AdamWOptions,
  type AdamWState,
  backendInfo,
  CosineScheduler,
  createOptimizer,
  FactorScheduler,
  type Index,
  LRScheduler,
  MultiFactorScheduler,
  multiAdamwUpdate,
  type OneOrMany,
  Optimizer,
  type OptimizerOptions,
  PolyScheduler,
  register,
  type StepResult,
  setNumThreads,
  syncMaster,
  Tensor,
  type TensorLike,
} from '../lib/index.js';
import { expectSameBits } from './support/bits.js';
import { withoutCuda } from './support/conditions.js';
import { environments, inEnvironment } from './support/environments.js';
import { type ErrorRow, expectError, itRefuses } from './support/errors.js';
import { copyOf, tensorOf, valuesIn } from './support/memory.js';
import {
  ALL_LAYOUTS,
  arraysOf,
  cloneArrays,
  cloneModel,
  expectSameModel,
  type Layout,
  type Model,
  makeGrads,
  makeModel,
  remember,
} from './support/model.js';
import { randomFrom } from './support/random.js';
import { CALLS, stepper } from './support/replay.js';
import { quietly, warningsOf } from './support/warnings.js';

const DONE: StepResult = { skipped: false };
const OVERWRITTEN = 'learning rate from `lrScheduler` has been overwritten by `learningRate` in optimizer.';
const POOR_ACCURACY =
  'Accumulating with float16 in optimizer can lead to poor accuracy or slow convergence. ' +
  'Consider using multiPrecision: true option of the optimizer';

/** Three small float32 tensors and a few gradients for each, the same for every test. */
const start = makeModel(
  [
    ['float32', 5],
    ['float32', 8],
    ['float32', 3],
  ],
  randomFrom(30),
);
const gradsOf = Array.from({ length: 5 }, (_, i) => makeGrads(start, randomFrom(300 + i)));

/** Tensor i of a model, alone. */
function only({ weights, states }: Model, i: number, index: Index = i): Model & { indices: Index[] } {
  return { indices: [index as number], weights: [weights[i]], states: [states[i]] };
}

function scheduler(baseLr = 0.5): FactorScheduler {
  return new FactorScheduler({ step: 2, factor: 0.5, baseLr });
}

/** A schedule of a user's own. */
class InverseRoot extends LRScheduler {
  protected override afterWarmup(numUpdate: number, baseLr: number): number {
    return baseLr / Math.sqrt(Math.max(1, numUpdate));
  }
}

/** A schedule that says what it is asked and goes its own way. */
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

function listOf<T>(value: OneOrMany<T>): readonly T[] {
  return Array.isArray(value) ? value : [value as T];
}

/** Plain gradient descent, as a user would write it. */
class SGD extends Optimizer<null> {
  override createState(): null {
    return null;
  }

  override step(
    indices: OneOrMany<Index>,
    weights: OneOrMany<TensorLike>,
    grads: OneOrMany<TensorLike>,
    _states: OneOrMany<null>,
  ): StepResult {
    const grad = listOf(grads);
    const weight = listOf(weights);
    this.advanceCounts(listOf(indices));
    listOf(indices).forEach((index, i) => {
      const w = valuesIn(weight[i]);
      const g = valuesIn(grad[i]);
      const lr = this.learningRateOf(index);
      const wd = this.weightDecayOf(index);
      for (let k = 0; k < w.length; k++) w[k] -= lr * (this.rescaleGrad * g[k] + wd * w[k]);
    });
    return DONE;
  }
}

describe('Optimizer', () => {
  describe('learningRate', () => {
    it('should be 0.001 in AdamW and 0.01 in others where it is left out', () => {
      expect(new AdamW().learningRate).to.equal(0.001);
      expect(new AdamW({ learningRate: undefined }).learningRate).to.equal(0.001);
      expect(new SGD().learningRate).to.equal(0.01);
    });

    it('should be 0.01 where it is null', () => {
      expect(new AdamW({ learningRate: null }).learningRate).to.equal(0.01);
      expect(new SGD({ learningRate: null }).learningRate).to.equal(0.01);
    });

    it("should be the scheduler's own where it is left out or null, without a warning", () => {
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

    it('should be what is given, 0 included', () => {
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

      it(`should override the base of a ${name}, which is not changed, with a warning`, () => {
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

    it("should follow the scheduler's baseLr as long as it is not overridden", () => {
      const lrScheduler = scheduler(0.5);
      const own = new AdamW({ lrScheduler });
      const overridden = quietly(() => new AdamW({ lrScheduler, learningRate: 3 }));
      lrScheduler.baseLr = 0.25;
      expect(own.learningRate).to.equal(0.25);
      expect(overridden.learningRate).to.equal(3);
    });

    it('should be that of numUpdate, from beginNumUpdate on', () => {
      const optimizer = new AdamW({ lrScheduler: scheduler(0.5), beginNumUpdate: 4 });
      expect(optimizer.learningRate).to.equal(0.25);
      const { indices, weights, states } = cloneModel(start);
      optimizer.fusedStep(indices, weights, gradsOf[0], states);
      expect(optimizer.learningRate).to.equal(0.125);
    });

    for (const call of CALLS) {
      it(`should be asked of the scheduler for the update that is made: ${call}`, () => {
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

    it('should be asked once for a call, for the largest count of all', () => {
      const lrScheduler = new Recorder();
      const optimizer = new AdamW({ lrScheduler });
      const { indices, weights, states } = cloneModel(start);
      optimizer.fusedStep(indices, weights, gradsOf[0], states);
      optimizer.fusedStep(1, weights[1], gradsOf[1][1], states[1]);
      optimizer.fusedStep(2, weights[2], gradsOf[1][2], states[2]);
      optimizer.fusedStep(indices, weights, gradsOf[2], states);
      expect(lrScheduler.asked).to.deep.equal([1, 2, 2, 3]);
    });

    it('should change nothing where the scheduler gives none', () => {
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
        'a rate of the wrong kind beside a scheduler',
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
        'a scheduler of the wrong kind',
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
      ['a rate beside a scheduler', () => new AdamW({ lrScheduler: scheduler() }).setLearningRate(1), Error, BESIDE],
      [
        'a rate beside a scheduler that it overrides',
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

  describe('multipliers', () => {
    const LR = 0.1;
    const WD = 0.2;
    const base = { learningRate: LR, wd: WD };

    /** Asserts that each tensor goes the way of an optimizer of its own with these multiples of rate and decay. */
    function expectMultiples(
      optimizer: AdamW,
      indices: readonly Index[],
      lrMults: readonly number[],
      wdMults: readonly number[],
    ): void {
      const model = cloneModel(start);
      for (const grads of gradsOf.slice(0, 2)) optimizer.fusedStep(indices, model.weights, grads, model.states);
      indices.forEach((_, i) => {
        const alone = only(cloneModel(start), i);
        const own = new AdamW({ learningRate: LR * lrMults[i], wd: WD * wdMults[i] });
        for (const grads of gradsOf.slice(0, 2)) own.step(alone.indices, alone.weights, [grads[i]], alone.states);
        expectSameModel(only(model, i), alone, `tensor ${i} with lrMult ${lrMults[i]} and wdMult ${wdMults[i]}`);
      });
    }

    const numbers = [0, 1, 2];
    const names = { 0: 'first', 1: 'second', 2: 'third' };
    interface Row {
      readonly what: string;
      readonly options?: AdamWOptions;
      readonly set?: (optimizer: AdamW) => void;
      readonly indices?: readonly Index[];
      readonly lr?: readonly number[];
      readonly wd?: readonly number[];
    }
    const rows: readonly Row[] = [
      { what: 'none' },
      { what: 'a rate by index, in an object', set: (o) => o.setLrMult({ 0: 0.5, 2: 0 }), lr: [0.5, 1, 0] },
      { what: 'a decay by index, in an object', set: (o) => o.setWdMult({ 1: 0, 2: 7 }), wd: [1, 0, 7] },
      { what: 'by index, in a Map', set: (o) => o.setLrMult(new Map([[1, 3]])), lr: [1, 3, 1] },
      {
        what: 'by name',
        options: { paramIdx2name: names },
        set: (o) => {
          o.setLrMult({ second: 0.25, nobody: 9 });
          o.setWdMult(new Map([['third', 2]]));
        },
        lr: [1, 0.25, 1],
        wd: [1, 1, 2],
      },
      {
        what: 'by name, with names in a Map',
        options: { paramIdx2name: new Map([[2, 'last']]) },
        set: (o) => o.setLrMult({ last: 0.25 }),
        lr: [1, 1, 0.25],
      },
      {
        what: 'by index before by name',
        options: { paramIdx2name: names },
        set: (o) => {
          o.setLrMult({ 0: 2, first: 0.5, second: 4 });
          o.setWdMult({ first: 3, 0: 0 });
        },
        lr: [2, 4, 1],
        wd: [0, 1, 1],
      },
      {
        what: 'from paramDict before by index and by name',
        options: { paramIdx2name: names, paramDict: { 0: { lrMult: 5 }, 1: { wdMult: 6 }, 7: { lrMult: 9 } } },
        set: (o) => {
          o.setLrMult({ 0: 2, 1: 2, third: 8 });
          o.setWdMult({ first: 3, second: 3 });
        },
        lr: [5, 1, 8],
        wd: [1, 6, 1],
      },
      {
        what: 'from paramDict in a Map',
        options: { paramDict: new Map([[1, { lrMult: 0.5, wdMult: 0 }]]) },
        lr: [1, 0.5, 1],
        wd: [1, 0, 1],
      },
      {
        what: 'by indices that are strings',
        indices: ['x', 'y', '1'],
        options: { paramIdx2name: { y: 'why' }, paramDict: new Map([['1', { lrMult: 4 }]]) },
        set: (o) => {
          o.setLrMult({ x: 0.5, why: 3, 1: 100 });
          o.setWdMult(new Map([['y', 2]]));
        },
        lr: [0.5, 3, 4],
        wd: [1, 2, 1],
      },
      {
        what: "by an object's keys only where they are canonical whole numbers",
        set: (o) => o.setLrMult({ '01': 5, '1.0': 5, ' 1': 5, '-1': 5, '2': 0.5 }),
        lr: [1, 1, 0.5],
      },
      { what: "not by a Map's keys that are strings", set: (o) => o.setLrMult(new Map([['1', 5]])) },
      {
        what: 'what was set last, in place of all before',
        set: (o) => {
          o.setLrMult({ 0: 5, 1: 5 });
          o.setLrMult({ 2: 2 });
          o.setWdMult({ 0: 5 });
          o.setWdMult({});
        },
        lr: [1, 1, 2],
      },
      {
        what: 'in a Map of another realm',
        set: (o) => o.setLrMult(vm.runInNewContext('new Map([[1, 3]])')),
        lr: [1, 3, 1],
      },
    ];
    for (const { what, options, set, indices = numbers, lr = [1, 1, 1], wd = [1, 1, 1] } of rows) {
      it(`should be taken ${what}`.replace('taken none', 'taken for 1 where there are none'), () => {
        const optimizer = new AdamW({ ...base, ...options });
        set?.(optimizer);
        expectMultiples(optimizer, indices, lr, wd);
      });
    }

    for (const call of CALLS) {
      it(`should be taken as they are at each step: ${call}`, () => {
        const parameter = { lrMult: 1, wdMult: 1 };
        const optimizer = new AdamW({ ...base, paramDict: new Map([[1, parameter]]) });
        const model = cloneModel(start);
        const step = stepper(optimizer, model, call);
        const multiples: [lr: number[], wd: number[]][] = [];
        const stepWith = (lr: number[], wd: number[]) => {
          step(gradsOf[multiples.length]);
          multiples.push([lr, wd]);
        };
        stepWith([1, 1, 1], [1, 1, 1]);
        parameter.lrMult = 0.5;
        stepWith([1, 0.5, 1], [1, 1, 1]);
        parameter.wdMult = 3;
        optimizer.setLrMult({ 0: 2, 1: 9 });
        stepWith([2, 0.5, 1], [1, 3, 1]);
        optimizer.setWdMult({ 2: 0 });
        stepWith([2, 0.5, 1], [1, 3, 0]);
        numbers.forEach((i) => {
          const alone = only(cloneModel(start), i);
          multiples.forEach(([lr, wd], t) => {
            const own = new AdamW({ learningRate: LR * lr[i], wd: WD * wd[i], beginNumUpdate: t });
            own.step(alone.indices, alone.weights, [gradsOf[t][i]], alone.states);
          });
          expectSameModel(only(model, i), alone, `tensor ${i}`);
        });
        const expectKept = remember(model);
        parameter.lrMult = -1;
        expectError(
          () => step(gradsOf[0]),
          RangeError,
          'Expected a finite number of at least 0 for paramDict[1].lrMult but received -1',
        );
        expectKept('after a multiplier that is none');
        expect(optimizer.numUpdate).to.equal(4);
      });
    }

    const MULTIPLES = 'Expected a finite number of at least 0 for';
    itRefuses([
      [
        'multipliers of the wrong kind',
        () => new AdamW().setLrMult(3 as never),
        TypeError,
        'Expected a Map or an object for lrMult but received 3',
      ],
      [
        'a list of multipliers',
        () => new AdamW().setWdMult([1] as never),
        TypeError,
        'Expected a Map or an object for wdMult but received an array of length 1',
      ],
      [
        'a negative multiplier',
        () => new AdamW().setLrMult({ 0: 1, 1: -1 }),
        RangeError,
        `${MULTIPLES} lrMult[1] but received -1`,
      ],
      [
        'a multiplier that is NaN',
        () => new AdamW().setWdMult(new Map([['a', NaN]])),
        RangeError,
        `${MULTIPLES} wdMult["a"] but received NaN`,
      ],
      [
        'an infinite multiplier',
        () => new AdamW().setLrMult({ a: Infinity }),
        RangeError,
        `${MULTIPLES} lrMult["a"] but received Infinity`,
      ],
      [
        'a multiplier of the wrong kind',
        () => new AdamW().setLrMult({ a: '1' as never }),
        TypeError,
        `${MULTIPLES} lrMult["a"] but received "1"`,
      ],
      [
        'a key that is no index',
        () => new AdamW().setLrMult(new Map([[1.5, 1]])),
        TypeError,
        'Expected a whole number of at least 0 or a string for a key of lrMult but received 1.5',
      ],
      [
        'a name of the wrong kind',
        () => new AdamW({ paramIdx2name: { 0: 1 as never } }),
        TypeError,
        'Expected a string for paramIdx2name[0] but received 1',
      ],
      [
        'a parameter of the wrong kind',
        () => new AdamW({ paramDict: { 0: 1 as never } }),
        TypeError,
        'Expected an object with lrMult and wdMult for paramDict[0] but received 1',
      ],
      [
        "a parameter's multiplier out of range",
        () => new AdamW({ paramDict: { w: { wdMult: -1 } } }),
        RangeError,
        `${MULTIPLES} paramDict["w"].wdMult but received -1`,
      ],
    ]);

    it('should keep what was set where setting throws', () => {
      const optimizer = new AdamW(base);
      optimizer.setLrMult({ 0: 0.5 });
      expect(() => optimizer.setLrMult({ 0: 2, 1: -1 })).to.throw(RangeError);
      expectMultiples(optimizer, numbers, [0.5, 1, 1], [1, 1, 1]);
    });
  });

  describe('counts', () => {
    it('should be kept by index, and numUpdate be their maximum', () => {
      const optimizer = new AdamW();
      const { weights, states } = cloneModel(start);
      const step = (...indices: number[]) =>
        optimizer.fusedStep(
          indices,
          indices.map((i) => weights[i]),
          indices.map((i) => gradsOf[0][i]),
          indices.map((i) => states[i]),
        );
      const counts = () => [0, 1, 2].map((index) => optimizer.updateCount(index));
      expect([...counts(), optimizer.numUpdate]).to.deep.equal([0, 0, 0, 0]);
      step(0, 1, 2);
      expect([...counts(), optimizer.numUpdate]).to.deep.equal([1, 1, 1, 1]);
      step(1);
      step(1, 2);
      expect([...counts(), optimizer.numUpdate]).to.deep.equal([1, 3, 2, 3]);
      step(0);
      expect([...counts(), optimizer.numUpdate]).to.deep.equal([2, 3, 2, 3]);
      step(2, 0);
      step(0, 2, 1);
      expect([...counts(), optimizer.numUpdate]).to.deep.equal([4, 4, 4, 4]);
      step();
      expect(optimizer.numUpdate).to.equal(4);
      expect(optimizer.updateCount(9)).to.equal(0);
    });

    it('should be kept by device', () => {
      const optimizer = new AdamW({ beginNumUpdate: 2 });
      const { indices, weights, states } = cloneModel(start);
      optimizer.fusedStep(indices, weights, gradsOf[0], states);
      expect(optimizer.updateCount(0)).to.equal(3);
      expect(optimizer.updateCount(0, 'cpu')).to.equal(3);
      expect(optimizer.updateCount(0, 'cuda:0')).to.equal(2);
    });

    it('should begin at beginNumUpdate', () => {
      const optimizer = new AdamW({ beginNumUpdate: 41 });
      expect(optimizer.numUpdate).to.equal(41);
      expect(optimizer.updateCount('any')).to.equal(41);
      const { indices, weights, states } = cloneModel(start);
      optimizer.step(indices, weights, gradsOf[0], states);
      expect(optimizer.numUpdate).to.equal(42);
      expect(optimizer.updateCount(2)).to.equal(42);
      expect(optimizer.updateCount('any')).to.equal(41);
    });

    it('should correct the bias by the count of each index', () => {
      const model = cloneModel(start);
      const optimizer = new AdamW({ learningRate: 0.1, beginNumUpdate: 3 });
      optimizer.step(1, model.weights[1], gradsOf[0][1], model.states[1]);
      optimizer.step(model.indices, model.weights, gradsOf[1], model.states);
      const expected = only(cloneModel(start), 1);
      const third = new AdamW({ learningRate: 0.1, beginNumUpdate: 3 });
      third.step(expected.indices, expected.weights, [gradsOf[0][1]], expected.states);
      const fourth = new AdamW({ learningRate: 0.1, beginNumUpdate: 4 });
      fourth.step(expected.indices, expected.weights, [gradsOf[1][1]], expected.states);
      expectSameModel(only(model, 1), expected, 'tensor 1');
      const other = only(cloneModel(start), 0);
      third.step([0], other.weights, [gradsOf[1][0]], other.states);
      expectSameModel(only(model, 0), other, 'tensor 0');
    });

    /** base ** exponent, exactly, and then rounded once. */
    function exactPower(base: number, exponent: number): number {
      // base is numerator / 2 ** 60 as a rule, and never less fine than / 2 ** 1074.
      let shift = 0;
      for (let scaled = base; !Number.isInteger(scaled); scaled *= 2) shift++;
      const numerator = BigInt(base * 2 ** shift) ** BigInt(exponent);
      // 2 ** 70 parts of the result are more than enough of it to round, once what is below is known not to be 0.
      const surplus = Math.max(0, numerator.toString(2).length - 70);
      const rest = numerator & ((1n << BigInt(surplus)) - 1n);
      const leading = (numerator >> BigInt(surplus)) | (rest > 0n ? 1n : 0n);
      return Number(leading) * 2 ** (surplus - shift * exponent);
    }

    it('should correct the bias as the formula says, to the bit of float64', () => {
      const random = randomFrom(33);
      for (const count of [1, 2, 3, 4, 7, 10, 64, 99, 100, 1000, 4321]) {
        for (const [beta1, beta2] of [
          [0.9, 0.999],
          [0.7, 0.95],
          [0, 0.5],
        ]) {
          const learningRate = random();
          const lrMult = 2 * random();
          const wd = random();
          const correction = Math.sqrt(1 - exactPower(beta2, count)) / (1 - exactPower(beta1, count));
          const eta =
            (learningRate * lrMult * Math.sqrt(1 - exactPower(beta2, count))) / (1 - exactPower(beta1, count));
          expect(eta).to.be.closeTo(learningRate * lrMult * correction, 1e-12);
          const model = makeModel([['float64', 9]], random);
          const expected = cloneModel(model);
          const grads = makeGrads(model, random);
          const optimizer = new AdamW({ learningRate, beta1, beta2, wd, epsilon: 1e-8, beginNumUpdate: count - 1 });
          optimizer.setLrMult({ 0: lrMult });
          optimizer.step(model.indices, model.weights, grads, model.states);
          const [{ mean, variance }] = expected.states;
          multiAdamwUpdate(expected.weights, grads, [mean], [variance], {
            etas: [eta],
            lrs: [1],
            wds: [wd],
            beta1,
            beta2,
          });
          expectSameModel(model, expected, `update ${count} with betas ${beta1} and ${beta2}`);
        }
      }
    });

    const TENSORS = 6;
    const six = makeModel(
      Array.from({ length: TENSORS }, (_, i) => ['float32', 1 + (i % 3)] as const),
      randomFrom(31),
    );
    const sixGrads = makeGrads(six, randomFrom(32));
    const indicesOf: readonly (readonly Index[])[] = [
      [0, 1, 2, 3, 4, 5],
      ['a', 'b', 0, '0', 'c', 7],
    ];

    interface Action {
      readonly call: 'fusedStep()' | 'step()' | 'bind()' | 'bound before';
      readonly subset: readonly number[];
    }
    const actions: fc.Arbitrary<Action[]> = fc.array(
      fc.record({
        call: fc.constantFrom('fusedStep()', 'step()', 'bind()', 'bound before'),
        subset: fc.oneof(
          fc.shuffledSubarray([0, 1, 2, 3, 4, 5]),
          // Some that come again and again, overlapping.
          fc.constantFrom([0, 1, 2], [2, 3], [1, 2, 3, 4], [0, 1, 2, 3, 4, 5], [5]),
        ),
      }),
      { maxLength: 25 },
    );

    /** Runs actions with one optimizer for all; `check` sees the subset after each. */
    function runActions(
      optimizer: AdamW,
      model: Model,
      indices: readonly Index[],
      sequence: readonly Action[],
      check: (subset: readonly number[]) => void,
    ): void {
      const boundBefore = new Map<string, { step(): StepResult }>();
      for (const { call, subset } of sequence) {
        const pick = <T>(list: readonly T[]) => subset.map((i) => list[i]);
        const lists = [pick(indices), pick(model.weights), pick(sixGrads), pick(model.states)] as const;
        const key = subset.join();
        if (call === 'fusedStep()') optimizer.fusedStep(...lists);
        else if (call === 'step()') optimizer.step(...lists);
        else if (call === 'bind()') optimizer.bind(...lists).step();
        else {
          const bound = boundBefore.get(key) ?? optimizer.bind(...lists);
          boundBefore.set(key, bound);
          bound.step();
        }
        check(subset);
      }
    }

    for (const indices of indicesOf) {
      it(`should give subsets at different times the bits of optimizers of their own: indices ${indices.join()}`, () => {
        fc.assert(
          fc.property(actions, fc.integer({ min: 0, max: 5 }), (sequence, beginNumUpdate) => {
            const options = { learningRate: 0.1, wd: 0.1, beginNumUpdate };
            const optimizer = new AdamW(options);
            const model = cloneModel(six);
            const expected = cloneModel(six);
            const own = indices.map(() => new AdamW(options));
            runActions(optimizer, model, indices, sequence, (subset) => {
              for (const i of subset) own[i].step(indices[i], expected.weights[i], sixGrads[i], expected.states[i]);
              const counts = own.map(({ numUpdate }) => numUpdate);
              expect(indices.map((index) => optimizer.updateCount(index))).to.deep.equal(counts);
              expect(optimizer.numUpdate).to.equal(Math.max(...counts));
            });
            expectSameModel(model, expected, 'at the end');
          }),
          { numRuns: 150 },
        );
      });
    }

    it('should give subsets at different times the rate of the largest count', () => {
      const [indices] = indicesOf;
      fc.assert(
        fc.property(actions, (sequence) => {
          const lrScheduler = new InverseRoot({ baseLr: 0.1, warmupSteps: 3 });
          const optimizer = new AdamW({ lrScheduler });
          const model = cloneModel(six);
          const expected = cloneModel(six);
          const own = indices.map(() => new AdamW());
          runActions(optimizer, model, indices, sequence, (subset) => {
            const counts = own.map(({ numUpdate }, i) => numUpdate + (subset.includes(i) ? 1 : 0));
            for (const i of subset) {
              own[i].setLearningRate(lrScheduler.learningRateAt(Math.max(...counts)));
              own[i].step(i, expected.weights[i], sixGrads[i], expected.states[i]);
            }
          });
          expectSameModel(model, expected, 'at the end');
        }),
        { numRuns: 100 },
      );
    });

    it('should hold for overlapping bound steps in alternation', () => {
      const model = cloneModel(six);
      const expected = cloneModel(six);
      const optimizer = new AdamW({ learningRate: 0.1 });
      const own = six.indices.map(() => new AdamW({ learningRate: 0.1 }));
      const subsets = [
        [0, 1, 2],
        [2, 3],
        [3, 4, 5, 0],
      ];
      const bounds = subsets.map((subset) =>
        optimizer.bind(
          subset,
          subset.map((i) => model.weights[i]),
          subset.map((i) => sixGrads[i]),
          subset.map((i) => model.states[i]),
        ),
      );
      for (let round = 0; round < 20; round++) {
        const k = [0, 1, 2, 1, 0, 0, 2][round % 7];
        bounds[k].step();
        for (const i of subsets[k]) own[i].step(i, expected.weights[i], sixGrads[i], expected.states[i]);
        expectSameModel(model, expected, `round ${round}`);
      }
      expect(six.indices.map((i) => optimizer.updateCount(i))).to.deep.equal(own.map(({ numUpdate }) => numUpdate));
    });
  });

  describe('arguments', () => {
    for (const call of CALLS) {
      it(`should be one index with one tensor, or lists: ${call}`, () => {
        const lists = cloneModel(start);
        const single = cloneModel(start);
        const byLists = new AdamW();
        const bySingle = new AdamW();
        for (const i of [0, 1, 2]) {
          stepper(byLists, only(lists, i), call)([gradsOf[0][i]]);
          const args = [i, single.weights[i], gradsOf[0][i], single.states[i]] as const;
          if (call === 'fusedStep()') bySingle.fusedStep(...args);
          else if (call === 'step()') bySingle.step(...args);
          else bySingle.bind(...args).step();
        }
        expectSameModel(single, lists, 'single');
        expect(() => expectSameModel(single, start, 'nothing')).to.throw();
      });

      it(`should be bare arrays as well as Tensors: ${call}`, () => {
        const tensors = cloneModel(start);
        const arrays: Model = {
          indices: [...start.indices],
          weights: start.weights.map(copyOf) as TensorLike[],
          states: start.states.map(({ mean, variance }) => ({
            mean: copyOf(mean) as TensorLike,
            variance: copyOf(variance) as TensorLike,
          })),
        };
        stepper(new AdamW(), tensors, call)(gradsOf[0]);
        stepper(new AdamW(), arrays, call)(gradsOf[0].map(copyOf) as TensorLike[]);
        expectSameModel(arrays, tensors, 'arrays');
      });

      it(`should be lists of none, and tensors of none: ${call}`, () => {
        const optimizer = new AdamW();
        expect(stepper(optimizer, { indices: [], weights: [], states: [] }, call)([])).to.deep.equal(DONE);
        expect(optimizer.numUpdate).to.equal(0);
        const empty = makeModel([['float32', 0]], randomFrom(1));
        expect(stepper(optimizer, empty, call)([new Float32Array(0)])).to.deep.equal(DONE);
        expect(optimizer.numUpdate).to.equal(1);
      });
    }
  });

  describe('update', () => {
    class Witness extends AdamW {
      readonly calls: string[] = [];
      override step(...args: Parameters<AdamW['step']>): StepResult {
        this.calls.push('step');
        return super.step(...args);
      }
      override fusedStep(...args: Parameters<AdamW['fusedStep']>): StepResult {
        this.calls.push('fusedStep');
        return super.fusedStep(...args);
      }
    }

    for (const [useFusedStep, called] of [
      [undefined, 'fusedStep'],
      [true, 'fusedStep'],
      [false, 'step'],
    ] as const) {
      it(`should be ${called}() where useFusedStep is ${useFusedStep}`, () => {
        const optimizer = new Witness({ useFusedStep });
        const model = cloneModel(start);
        optimizer.update(model.indices, model.weights, gradsOf[0], model.states);
        optimizer.updateMultiPrecision(model.indices, model.weights, gradsOf[1], model.states);
        expect(optimizer.calls).to.deep.equal([called, called]);
        expect(optimizer.numUpdate).to.equal(2);
      });
    }
  });

  describe('rescaleGrad', () => {
    it('should be that of the next step when it is set', () => {
      const optimizer = new AdamW({ rescaleGrad: 0.5 });
      expect(optimizer.rescaleGrad).to.equal(0.5);
      optimizer.rescaleGrad = 0.125;
      expect(optimizer.rescaleGrad).to.equal(0.125);
      const model = cloneModel(start);
      const expected = cloneModel(start);
      optimizer.fusedStep(model.indices, model.weights, gradsOf[0], model.states);
      const scaled = cloneArrays(gradsOf[0]);
      for (const array of scaled) valuesIn(array).set(valuesIn(array).map((value) => value / 8)); // exact
      new AdamW().fusedStep(expected.indices, expected.weights, scaled, expected.states);
      expectSameModel(model, expected, 'rescaled');
    });

    itRefuses([
      [
        'anything but a number',
        () => {
          new AdamW().rescaleGrad = '1' as never;
        },
        TypeError,
        'Expected a number for rescaleGrad but received "1"',
      ],
      [
        'nothing',
        () => {
          new AdamW().rescaleGrad = undefined as never;
        },
        TypeError,
        'Expected a number for rescaleGrad but received undefined',
      ],
    ]);
  });

  describe('createState', () => {
    const weightOf = (layout: Layout) => makeModel([[layout, 6]], randomFrom(5)).weights[0];

    it("should be zeros of the weight's dtype and shape", () => {
      for (const dtype of ['float32', 'float64'] as const) {
        const { mean, variance, master } = new AdamW({ multiPrecision: true }).createState(
          0,
          Tensor.zeros([2, 3], { dtype }),
        );
        for (const moment of [mean, variance]) {
          expect(moment).to.be.an.instanceOf(Tensor);
          expect(tensorOf(moment)).to.include({ dtype, length: 6 });
          expect(tensorOf(moment).shape).to.deep.equal([2, 3]);
          expect([...valuesIn(moment)]).to.deep.equal([0, 0, 0, 0, 0, 0]);
        }
        expect(master).to.equal(undefined);
        expect(mean).not.to.equal(variance);
      }
    });

    it('should have a master of a half-precision weight with multiPrecision', () => {
      for (const dtype of ['float16', 'bfloat16'] as const) {
        const weight = Tensor.zeros([2, 3], { dtype }).set([1, -2, 0.1, NaN, Infinity, 1e-7]);
        const warnings = warningsOf(() => {
          const { mean, variance, master } = new AdamW({ multiPrecision: true }).createState('w', weight);
          if (!master) throw new Error('no master');
          for (const array of [mean, variance, master]) {
            expect(tensorOf(array).dtype).to.equal('float32');
            expect(tensorOf(array).shape).to.deep.equal([2, 3]);
          }
          expectSameBits(valuesIn(master), weight.toArray(), 'master');
        });
        expect(warnings).to.deep.equal([]);
      }
    });

    const dtypes: readonly [weight: Layout, stateDtype: AdamWOptions['stateDtype'], expected: string][] = [
      ['float16', undefined, 'float16'],
      ['float16', 'float16', 'float16'],
      ['float16', 'float32', 'float32'],
      ['bfloat16', undefined, 'float32'],
      ['bfloat16', 'bfloat16', 'bfloat16'],
      ['bfloat16', 'float32', 'float32'],
      ['float32', 'float16', 'float32'],
      ['float64', 'bfloat16', 'float64'],
    ];
    for (const [layout, stateDtype, expected] of dtypes) {
      it(`should be ${expected} for ${layout} without a master where stateDtype is ${stateDtype}`, () => {
        const { mean, variance, master } = quietly(() => new AdamW({ stateDtype }).createState(0, weightOf(layout)));
        expect([tensorOf(mean).dtype, tensorOf(variance).dtype, master]).to.deep.equal([expected, expected, undefined]);
      });
    }

    it('should be the same as createStateMultiPrecision', () => {
      const optimizer = new AdamW({ multiPrecision: true });
      const weight = weightOf('float16');
      const state = optimizer.createStateMultiPrecision(0, weight);
      const other = optimizer.createState(0, weight);
      const model = (one: AdamWState): Model => ({ indices: [0], weights: [weight], states: [one] });
      expectSameModel(model(state), model(other), 'state');
    });

    itRefuses([
      [
        'an index that is none',
        () => new AdamW().createState(-1, new Float32Array(1)),
        TypeError,
        'Expected a whole number of at least 0 or a string for index but received -1',
      ],
      [
        'a weight that is none',
        () => new AdamW().createState(0, [1] as never),
        TypeError,
        'Expected a Tensor, Float32Array, Float64Array or Float16Array for weight but received an array of length 1',
      ],
      [
        'a Uint16Array',
        () => new AdamW().createState(0, new Uint16Array(1) as never),
        TypeError,
        "Expected a Tensor (make one with Tensor.from(array, { dtype: 'float16' }) or 'bfloat16') for weight " +
          'but received a Uint16Array, which does not say its dtype',
      ],
      [
        'bfloat16 states of float16',
        () => new AdamW({ stateDtype: 'bfloat16' }).createState(0, weightOf('float16')),
        RangeError,
        'Expected float32 or float16 beside a float16 weight for stateDtype but received bfloat16',
      ],
      [
        'float16 states of bfloat16',
        () => new AdamW({ stateDtype: 'float16' }).createState(0, weightOf('bfloat16')),
        RangeError,
        'Expected float32 or bfloat16 beside a bfloat16 weight for stateDtype but received float16',
      ],
    ]);
  });

  describe('The warning of half precision', () => {
    for (const layout of ['float16', 'float16+float32 states', 'bfloat16', 'bfloat16+float32 states'] as const) {
      it(`should come once for each optimizer: ${layout}`, () => {
        const model = makeModel(
          [
            [layout, 3],
            [layout, 4],
          ],
          randomFrom(8),
        );
        const grads = makeGrads(model, randomFrom(9));
        expect(
          warningsOf(() => {
            const optimizer = new AdamW();
            optimizer.createState(0, model.weights[0]);
            optimizer.createState(1, model.weights[1]);
            for (const call of CALLS) stepper(optimizer, model, call)(grads);
          }),
        ).to.deep.equal([POOR_ACCURACY]);
        for (const call of CALLS) {
          expect(warningsOf(() => stepper(new AdamW(), model, call)(grads))).to.deep.equal([POOR_ACCURACY]);
        }
      });
    }

    it('should not come where there are masters or wider weights', () => {
      const layouts: readonly Layout[] = ['float32', 'float64', 'float16+master', 'bfloat16+master'];
      const model = makeModel(
        layouts.map((layout) => [layout, 3]),
        randomFrom(8),
      );
      const grads = makeGrads(model, randomFrom(9));
      const warnings = warningsOf(() => {
        const optimizer = new AdamW({ multiPrecision: true });
        model.weights.forEach((weight, i) => {
          optimizer.createState(i, weight);
        });
        // What the state holds decides, not the option.
        for (const multiPrecision of [true, false]) stepper(new AdamW({ multiPrecision }), model, 'fusedStep()')(grads);
      });
      expect(warnings).to.deep.equal([]);
    });
  });

  describe('bind', () => {
    for (const environment of environments()) {
      it(`should make the steps of fusedStep(): ${environment.name}`, () => {
        inEnvironment(environment, () => {
          const model = cloneModel(start);
          const expected = cloneModel(start);
          const optimizer = new AdamW({ learningRate: 0.1, aggregateNum: 2 });
          const bound = optimizer.bind(model.indices, model.weights, gradsOf[0], model.states);
          const by = new AdamW({ learningRate: 0.1 });
          for (const grads of gradsOf) {
            bound.setGrads(grads);
            for (let i = 0; i < 2; i++) {
              expect(bound.step()).to.deep.equal(DONE);
              by.fusedStep(expected.indices, expected.weights, grads, expected.states);
            }
          }
          expectSameModel(model, expected, 'bound');
          expect(optimizer.numUpdate).to.equal(10);
        });
      });

      it(`should read gradients that are written anew: ${environment.name}`, () => {
        inEnvironment(environment, () => {
          const model = cloneModel(start);
          const expected = cloneModel(start);
          const grads = cloneArrays(gradsOf[0]);
          const bound = new AdamW().bind(model.indices, model.weights, grads, model.states);
          const by = new AdamW();
          for (const values of gradsOf) {
            grads.forEach((grad, i) => {
              valuesIn(grad).set(valuesIn(values[i]));
            });
            bound.step();
            by.step(expected.indices, expected.weights, values, expected.states);
          }
          expectSameModel(model, expected, 'bound');
        });
      });

      it(`should keep the last gradients where setGrads() throws: ${environment.name}`, () => {
        inEnvironment(environment, () => {
          const model = cloneModel(start);
          const expected = cloneModel(start);
          const bound = new AdamW().bind(model.indices, model.weights, gradsOf[0], model.states);
          const [first, second, third] = gradsOf[1];
          const rows: ErrorRow[] = [
            [
              '',
              () => bound.setGrads([first, new Float64Array(8), third]),
              TypeError,
              'Expected float32 for grads[1] but received float64',
            ],
            [
              '',
              () => bound.setGrads([first, second, first]),
              RangeError,
              'Expected length 3 for grads[2] but received length 5',
            ],
            [
              '',
              () => bound.setGrads([first, model.weights[1], third]),
              RangeError,
              'Expected memory of its own for weights[1] but received memory shared with grads[1]',
            ],
            [
              '',
              () => bound.setGrads([first, model.states[1].mean, third]),
              RangeError,
              'Expected memory of its own for states[1].mean but received memory shared with grads[1]',
            ],
          ];
          for (const [, call, kind, message] of rows) expectError(call, kind, message);
          bound.step();
          new AdamW().step(expected.indices, expected.weights, gradsOf[0], expected.states);
          expectSameModel(model, expected, 'bound');
        });
      });

      it(`should say what is shared although the last gradients are gone: ${environment.name}`, () => {
        inEnvironment(environment, () => {
          const weight = new Float32Array(4);
          const grad = new Float32Array(4);
          const optimizer = new AdamW();
          const bound = optimizer.bind([0], [weight], [grad], [optimizer.createState(0, weight)]);
          structuredClone(grad.buffer, { transfer: [grad.buffer] });
          expectError(
            () => bound.setGrads([weight]),
            RangeError,
            'Expected memory of its own for weights[0] but received memory shared with grads[0]',
          );
          expectError(
            () => bound.step(),
            RangeError,
            'Expected memory that is still there for grads[0] but received a detached ArrayBuffer',
          );
          bound.setGrads([new Float32Array(4)]);
          expect(bound.step()).to.deep.equal(DONE);
        });
      });
    }

    const ofThree = () => new AdamW().bind(start.indices, start.weights, gradsOf[0], start.states);
    itRefuses([
      [
        'too few gradients in setGrads()',
        () => ofThree().setGrads(gradsOf[0].slice(1)),
        RangeError,
        'Expected a list of length 3 for grads but received one of length 2',
      ],
      [
        'one gradient in setGrads()',
        () => ofThree().setGrads(Tensor.zeros(5) as never),
        TypeError,
        'Expected a list for grads but received a Tensor',
      ],
      [
        'a typed array in setGrads()',
        () => ofThree().setGrads(new Float32Array(3) as never),
        TypeError,
        'Expected a list for grads but received a Float32Array',
      ],
      [
        'nothing in setGrads()',
        () => ofThree().setGrads(undefined as never),
        TypeError,
        'Expected a list for grads but received undefined',
      ],
    ]);

    it('should not see later changes of the lists', () => {
      const model = cloneModel(start);
      const expected = cloneModel(start);
      const lists = { ...model, weights: [...model.weights], states: [...model.states], grads: [...gradsOf[0]] };
      const bound = new AdamW().bind(lists.indices, lists.weights, lists.grads, lists.states);
      bound.setGrads(lists.grads);
      lists.indices.reverse();
      lists.weights.pop();
      lists.grads[0] = new Float32Array(5);
      lists.states.length = 0;
      bound.step();
      new AdamW().step(expected.indices, expected.weights, gradsOf[0], expected.states);
      expectSameModel(model, expected, 'bound');
    });

    it('should follow what is set on the optimizer', () => {
      const model = cloneModel(start);
      const expected = cloneModel(start);
      const optimizer = new AdamW();
      const by = new AdamW();
      const bound = optimizer.bind(model.indices, model.weights, gradsOf[0], model.states);
      const changes: readonly ((o: AdamW) => void)[] = [
        (o) => o.setLearningRate(0.3),
        (o) => o.setLrMult({ 1: 0.5 }),
        (o) => o.setWdMult({ 2: 4 }),
        (o) => {
          o.rescaleGrad = 0.3;
        },
      ];
      for (const change of changes) {
        change(optimizer);
        change(by);
        bound.step();
        by.fusedStep(expected.indices, expected.weights, gradsOf[0], expected.states);
        expectSameModel(model, expected, 'bound');
      }
    });

    it('should let go of the arrays when it is disposed of', () => {
      const model = cloneModel(start);
      const optimizer = new AdamW();
      const bound = optimizer.bind(model.indices, model.weights, gradsOf[0], model.states);
      bound.step();
      bound.dispose();
      bound.dispose();
      const expectKept = remember(model);
      const message = 'Expected a live BoundStep for this but received one that was disposed of';
      expectError(() => bound.step(), RangeError, message);
      expectError(() => bound.setGrads(gradsOf[1]), RangeError, message);
      expectKept('after dispose()');
      expect(optimizer.numUpdate).to.equal(1);
      expect(optimizer.fusedStep(model.indices, model.weights, gradsOf[1], model.states)).to.deep.equal(DONE);
    });
  });

  describe('fusedStep', () => {
    type Lists = { indices: Index[]; weights: TensorLike[]; grads: TensorLike[]; states: AdamWState[] };

    function makeLists(layouts: readonly Layout[] = ['float32', 'float32', 'float32']): Lists {
      const model = makeModel(
        layouts.map((layout, i) => [layout, 4 + i]),
        randomFrom(40),
      );
      return { ...model, grads: makeGrads(model, randomFrom(41)) };
    }

    /** The same lists in other memory; the same array stays the same array. */
    function cloneLists(lists: Lists): Lists {
      return { ...cloneModel(lists as Model), indices: [...lists.indices], grads: cloneArrays(lists.grads) };
    }

    function expectSameLists(a: Lists, b: Lists, what: string): void {
      expectSameModel(a as Model, b as Model, what);
    }

    const other = (like: TensorLike, seed: number): TensorLike => {
      const { dtype, length } = tensorOf(like);
      return Tensor.zeros(length, { dtype }).set(
        makeGrads({ indices: [0], weights: [like], states: [] }, randomFrom(seed))
          .map(tensorOf)[0]
          .toArray(),
      );
    };

    const changes: readonly [what: string, change: (lists: Lists) => void, layouts?: readonly Layout[]][] = [
      ['nothing', () => {}],
      ['a gradient in the same list', (lists) => (lists.grads[1] = other(lists.grads[1], 50))],
      ['all gradients', (lists) => (lists.grads = lists.grads.map((grad, i) => other(grad, 60 + i)))],
      ['the list of gradients alone', (lists) => (lists.grads = [...lists.grads])],
      ['one weight', (lists) => (lists.weights[2] = other(lists.weights[2], 51))],
      [
        'one weight, of another length',
        (lists) => {
          lists.weights[0] = new Float32Array(9).fill(1);
          lists.grads[0] = new Float32Array(9).fill(2);
          lists.states[0] = { mean: new Float32Array(9), variance: new Float32Array(9) };
        },
      ],
      [
        'one weight, of another dtype',
        (lists) => {
          lists.weights[0] = new Float64Array(9).fill(1);
          lists.grads[0] = new Float64Array(9).fill(2);
          lists.states[0] = { mean: new Float64Array(9), variance: new Float64Array(9) };
        },
      ],
      ['one state', (lists) => (lists.states[1] = { mean: new Float32Array(5), variance: new Float32Array(5) })],
      ['the mean inside a state', (lists) => Object.assign(lists.states[1], { mean: new Float32Array(5).fill(0.5) })],
      [
        'the variance inside a state',
        (lists) => Object.assign(lists.states[1], { variance: new Float32Array(5).fill(0.5) }),
      ],
      [
        'the master inside a state',
        (lists) => Object.assign(lists.states[1], { master: new Float32Array(5).fill(0.5) }),
        ['float16+master', 'float16+master'],
      ],
      [
        'a state that loses its master',
        (lists) => Object.assign(lists.states[1], { master: undefined }),
        ['float16+master', 'float16+master'],
      ],
      [
        'a state that gets a master',
        (lists) => Object.assign(lists.states[0], { master: new Float32Array(4).fill(0.5) }),
        ['bfloat16+float32 states', 'float32'],
      ],
      ['the index of a tensor', (lists) => (lists.indices[2] = 'other')],
      [
        'the order of the tensors',
        (lists) => {
          for (const list of Object.values(lists)) list.reverse();
        },
      ],
      [
        'one tensor less',
        (lists) => {
          for (const list of Object.values(lists)) list.pop();
        },
      ],
      [
        'one tensor more',
        (lists) => {
          lists.indices.push(9);
          lists.weights.push(new Float32Array(3).fill(1));
          lists.grads.push(new Float32Array(3).fill(1));
          lists.states.push({ mean: new Float32Array(3), variance: new Float32Array(3) });
        },
      ],
    ];

    for (const [what, change, layouts] of changes) {
      for (const call of ['fusedStep()', 'step()'] as const) {
        it(`should see ${what} changed between steps: ${call}`, () => {
          const lists = makeLists(layouts);
          const expected = cloneLists(lists);
          const optimizer = new AdamW({ learningRate: 0.1 });
          const by = new AdamW({ learningRate: 0.1 });
          const stepBoth = (t: string) => {
            const { indices, weights, grads, states } = lists;
            if (call === 'fusedStep()') quietly(() => optimizer.fusedStep(indices, weights, grads, states));
            else quietly(() => optimizer.step(indices, weights, grads, states));
            quietly(() => by.bind(expected.indices, expected.weights, expected.grads, expected.states)).step();
            expectSameLists(lists, expected, t);
          };
          stepBoth('step 1');
          stepBoth('step 2');
          change(lists);
          change(expected);
          stepBoth('step 3');
          stepBoth('step 4');
          expect(lists.indices.map((index) => optimizer.updateCount(index))).to.deep.equal(
            expected.indices.map((index) => by.updateCount(index)),
          );
        });
      }
    }

    it('should see gradients changed in the same list again and again', () => {
      const lists = makeLists();
      const expected = cloneLists(lists);
      const optimizer = new AdamW();
      const by = new AdamW();
      for (let t = 0; t < 6; t++) {
        optimizer.fusedStep(lists.indices, lists.weights, lists.grads, lists.states);
        by.bind(expected.indices, expected.weights, expected.grads, expected.states).step();
        expectSameLists(lists, expected, `step ${t}`);
        lists.grads[t % 3] = other(lists.grads[t % 3], 90 + t);
        expected.grads[t % 3] = other(expected.grads[t % 3], 90 + t);
      }
    });

    it('should go back and forth between lists', () => {
      const lists = [makeLists(), makeLists(['float64', 'float32'])];
      const expected = lists.map(cloneLists);
      const optimizer = new AdamW();
      const by = new AdamW();
      for (const k of [0, 1, 0, 0, 1, 1, 0]) {
        const { indices, weights, grads, states } = lists[k];
        optimizer.fusedStep(indices, weights, grads, states);
        by.bind(expected[k].indices, expected[k].weights, expected[k].grads, expected[k].states).step();
        expectSameLists(lists[k], expected[k], `lists ${k}`);
      }
    });

    it('should take the last good lists after a call that threw', () => {
      const lists = makeLists();
      const expected = cloneLists(lists);
      const optimizer = new AdamW();
      const by = new AdamW();
      const { indices, weights, grads, states } = lists;
      for (let t = 0; t < 3; t++) {
        optimizer.fusedStep(indices, weights, grads, states);
        by.bind(expected.indices, expected.weights, expected.grads, expected.states).step();
        expectSameLists(lists, expected, `step ${t}`);
        expect(() => optimizer.fusedStep(indices, weights, [grads[0], grads[1], weights[2]], states)).to.throw(
          RangeError,
        );
        expect(() => optimizer.fusedStep(indices, weights, [grads[0], grads[1], grads[1]], states)).to.throw(
          RangeError,
        );
        expect(() => optimizer.fusedStep([0, 0, 1], weights, grads, states)).to.throw(RangeError);
        expectSameLists(lists, expected, `failed step ${t}`);
      }
      expect(optimizer.numUpdate).to.equal(3);
    });

    it('should go on after dispose()', () => {
      const lists = makeLists();
      const expected = cloneLists(lists);
      const optimizer = new AdamW();
      const by = new AdamW();
      optimizer.dispose();
      for (let t = 0; t < 3; t++) {
        optimizer.fusedStep(lists.indices, lists.weights, lists.grads, lists.states);
        optimizer.dispose();
        by.bind(expected.indices, expected.weights, expected.grads, expected.states).step();
        expectSameLists(lists, expected, `step ${t}`);
      }
      expect(optimizer.numUpdate).to.equal(3);
    });

    it('should let go of the last lists by dispose()', async () => {
      const optimizer = new AdamW();
      const stepOnce = () => {
        const weight = Tensor.zeros(100_000); // too large for a slab
        optimizer.fusedStep(0, weight, Tensor.zeros(100_000), optimizer.createState(0, weight));
        return new WeakRef(weight.data.buffer);
      };
      const memory = stepOnce();
      optimizer.dispose();
      for (let i = 0; i < 10 && memory.deref(); i++) {
        await new Promise((resolve) => setImmediate(resolve));
        globalThis.gc?.();
      }
      expect(memory.deref()).to.equal(undefined);
    });
  });

  describe('A step that throws', () => {
    /** Two float32 tensors, a float16 one with a master and a float64 one. */
    function make() {
      const model = makeModel(
        [
          ['float32', 4],
          ['float32', 5],
          ['float16+master', 6],
          ['float64', 3],
        ],
        randomFrom(70),
      );
      return { ...model, indices: [0, 1, 2, 3] as Index[], grads: makeGrads(model, randomFrom(71)) };
    }
    type Arguments = ReturnType<typeof make>;
    const view = (array: TensorLike) => valuesIn(array) as Float32Array;

    const rows: readonly [
      what: string,
      spoil: (args: Arguments) => void,
      kind: typeof TypeError,
      message: string,
      options?: AdamWOptions,
    ][] = [
      [
        'too few gradients',
        ({ grads }) => grads.pop(),
        RangeError,
        'Expected a list of length 4 for grads but received one of length 3',
      ],
      [
        'too many weights',
        ({ weights }) => weights.push(new Float32Array(1)),
        RangeError,
        'Expected a list of length 4 for weights but received one of length 5',
      ],
      [
        'states that are no list',
        (args) => Object.assign(args, { states: args.states[0] }),
        TypeError,
        'Expected a list, as of indices, for states but received an object',
      ],
      [
        'one index for lists',
        (args) => Object.assign(args, { indices: 0 }),
        TypeError,
        'Expected one, as of indices, for weights but received an array of length 4',
      ],
      [
        'no index',
        (args) => Object.assign(args, { indices: undefined }),
        TypeError,
        'Expected a whole number of at least 0 or a string for indices but received undefined',
      ],
      [
        'a negative index',
        ({ indices }) => (indices[3] = -1),
        TypeError,
        'Expected a whole number of at least 0 or a string for indices[3] but received -1',
      ],
      [
        'a fractional index',
        ({ indices }) => (indices[1] = 1.5),
        TypeError,
        'Expected a whole number of at least 0 or a string for indices[1] but received 1.5',
      ],
      [
        'the same index twice',
        ({ indices }) => (indices[3] = 1),
        RangeError,
        'Expected an index of its own for indices[3] but received 1, as indices[1]',
      ],
      [
        'the same name twice',
        ({ indices }) => indices.fill('w', 2),
        RangeError,
        'Expected an index of its own for indices[3] but received "w", as indices[2]',
      ],
      [
        'a weight that is none',
        ({ weights }) => (weights[1] = [1] as never),
        TypeError,
        'Expected a Tensor, Float32Array, Float64Array or Float16Array for weights[1] but received an array of length 1',
      ],
      [
        'a Uint16Array',
        ({ grads }) => (grads[2] = new Uint16Array(6) as never),
        TypeError,
        "Expected a Tensor (make one with Tensor.from(array, { dtype: 'float16' }) or 'bfloat16') for grads[2] but received a Uint16Array, which does not say its dtype",
      ],
      [
        'a gradient of another dtype',
        ({ grads }) => (grads[3] = new Float32Array(3)),
        TypeError,
        'Expected float64 for grads[3] but received float32',
      ],
      [
        'a gradient of another length',
        ({ grads }) => (grads[3] = new Float64Array(4)),
        RangeError,
        'Expected length 3 for grads[3] but received length 4',
      ],
      [
        'no gradient',
        ({ grads }) => (grads[0] = undefined as never),
        TypeError,
        'Expected a Tensor, Float32Array, Float64Array or Float16Array for grads[0] but received undefined',
      ],
      [
        'no state',
        ({ states }) => (states[3] = null as never),
        TypeError,
        'Expected a state with mean and variance for states[3] but received null',
      ],
      [
        'a state without a variance',
        ({ states }) => (states[3] = { mean: new Float64Array(3) } as never),
        TypeError,
        'Expected a state with mean and variance for states[3] but received an object',
      ],
      [
        'a mean of another dtype',
        ({ states }) => Object.assign(states[0], { mean: new Float64Array(4) }),
        TypeError,
        'Expected float32 for states[0].mean but received float64',
      ],
      [
        'a variance of another dtype',
        ({ states }) => Object.assign(states[3], { variance: new Float32Array(3) }),
        TypeError,
        'Expected float64 for states[3].variance but received float32',
      ],
      [
        'a variance of another length',
        ({ states }) => Object.assign(states[3], { variance: new Float64Array(2) }),
        RangeError,
        'Expected length 3 for states[3].variance but received length 2',
      ],
      [
        'half states beside a master',
        ({ states }) => Object.assign(states[2], { mean: Tensor.zeros(6, { dtype: 'float16' }) }),
        TypeError,
        'Expected float32 for states[2].mean but received float16',
      ],
      [
        'a master beside float32',
        ({ states }) => Object.assign(states[1], { master: new Float32Array(5) }),
        TypeError,
        'Expected no master beside a float32 weight for states[1].master but received a Float32Array',
      ],
      [
        'a master of another dtype',
        ({ states }) => Object.assign(states[2], { master: new Float64Array(6) }),
        TypeError,
        'Expected float32 for states[2].master but received float64',
      ],
      [
        'a master of another length',
        ({ states }) => Object.assign(states[2], { master: new Float32Array(5) }),
        RangeError,
        'Expected length 6 for states[2].master but received length 5',
      ],
      [
        'a weight that is its gradient',
        ({ weights, grads }) => (grads[1] = weights[1]),
        RangeError,
        'Expected memory of its own for weights[1] but received memory shared with grads[1]',
      ],
      [
        "a gradient that is another tensor's variance",
        ({ states, grads }) => (grads[0] = view(states[1].variance).subarray(1)),
        RangeError,
        'Expected memory of its own for states[1].variance but received memory shared with grads[0]',
      ],
      [
        'a mean that is the variance',
        ({ states }) => (states[0] = { mean: states[0].mean, variance: states[0].mean }),
        RangeError,
        'Expected memory of its own for states[0].variance but received memory shared with states[0].mean',
      ],
      [
        'weights that overlap',
        ({ weights }) => {
          const memory = new Float32Array(8);
          weights[0] = memory.subarray(0, 4);
          weights[1] = memory.subarray(3, 8);
        },
        RangeError,
        'Expected memory of its own for weights[1] but received memory shared with weights[0]',
      ],
      [
        'a gradient that was disposed of',
        ({ grads }) => tensorOf(grads[3]).dispose(),
        RangeError,
        'Expected a live Tensor for grads[3] but received one that was disposed of',
      ],
      [
        'a rate that float32 cannot hold',
        () => {},
        RangeError,
        'Expected a number that float32 can hold for learningRate but received 1e+39',
        { learningRate: 1e39, correctBias: false },
      ],
      [
        'a decay that float32 cannot hold',
        () => {},
        RangeError,
        'Expected a number that float32 can hold for wd but received 1e+39',
        { wd: 1e39 },
      ],
      [
        'an epsilon that float32 cannot hold',
        () => {},
        RangeError,
        'Expected a number that float32 can hold for epsilon but received 1e+39',
        { epsilon: 1e39 },
      ],
      [
        'a clipGradient that float32 cannot hold',
        () => {},
        RangeError,
        'Expected a number that float32 can hold for clipGradient but received 1e+39',
        { clipGradient: 1e39 },
      ],
      [
        'a clipGradient that is 0 in float32',
        () => {},
        RangeError,
        'Expected a positive number in float32 for clipGradient but received 1e-60',
        { clipGradient: 1e-60 },
      ],
      [
        'a beta1 that is 1 in float32',
        () => {},
        RangeError,
        'Expected less than 1 in float32 for beta1 but received 0.9999999999',
        { beta1: 0.9999999999 },
      ],
      [
        'a beta2 that is 1 in float32',
        () => {},
        RangeError,
        'Expected less than 1 in float32 for beta2 but received 0.9999999999',
        { beta2: 0.9999999999 },
      ],
      [
        "a decay of rule 'pytorch' that float32 cannot hold",
        () => {},
        RangeError,
        'Expected a number that float32 can hold for learningRate * wd but received 1.6069380442589903e+60',
        { learningRate: 2 ** 100, wd: 2 ** 100, rule: 'pytorch', correctBias: false },
      ],
    ];

    for (const environment of [environments()[0], ...environments().slice(-1)]) {
      for (const [what, spoil, kind, message, options] of rows) {
        it(`should have changed nothing, for ${what}: ${environment.name}`, () => {
          inEnvironment(environment, () => {
            for (const call of CALLS) {
              const args = make();
              const written = arraysOf(args as Model).map(([name, array]) => ({ name, values: valuesIn(array) }));
              const before = written.map(({ values }) => values.slice());
              spoil(args);
              const optimizer = new AdamW({ learningRate: 0.1, ...options });
              const { indices, weights, grads, states } = args;
              const step = stepper(optimizer, { indices: indices as number[], weights, states }, call);
              expectError(() => quietly(() => step(grads)), kind, message);
              written.forEach(({ name, values }, k) => {
                expectSameBits(values, before[k], name);
              });
              expect(optimizer.numUpdate).to.equal(0);
              for (const index of [0, 1, 2, 3]) expect(optimizer.updateCount(index)).to.equal(0);
            }
          });
        });
      }
    }

    it('should check scalars against the types of the call alone', () => {
      const wide = makeModel([['float64', 3]], randomFrom(1));
      const options = { learningRate: 1e39, wd: 0, epsilon: 1e39, clipGradient: 1e-60, beta1: 0.9999999999 };
      expect(stepper(new AdamW(options), wide, 'fusedStep()')(makeGrads(wide, randomFrom(2)))).to.deep.equal(DONE);
    });
  });

  describe('syncMaster', () => {
    for (const layout of ['float16+master', 'bfloat16+master'] as const) {
      it(`should set the masters to the weights: ${layout}`, () => {
        const model = makeModel(
          [
            [layout, 3],
            [layout, 2],
            ['float32', 2],
          ],
          randomFrom(80),
        );
        const [first, second, third] = model.weights;
        tensorOf(first).set([1, -2, 0.1]);
        tensorOf(second).set([NaN, Infinity]);
        const [mean, variance] = [copyOf(model.states[0].mean), copyOf(model.states[0].variance)];
        syncMaster(model.weights, model.states);
        model.states.slice(0, 2).forEach(({ master }, i) => {
          if (!master) throw new Error('no master');
          expectSameBits(valuesIn(master), tensorOf(model.weights[i]).toArray(), `master ${i}`);
        });
        expectSameBits(valuesIn(model.states[0].mean), mean, 'mean');
        expectSameBits(valuesIn(model.states[0].variance), variance, 'variance');
        expect(model.states[2].master).to.equal(undefined);
        expect(third).to.equal(model.weights[2]);
      });

      it(`should take one weight with one state: ${layout}`, () => {
        const { weights, states } = makeModel([[layout, 2]], randomFrom(81));
        tensorOf(weights[0]).set([3, 4]);
        syncMaster(weights[0], states[0]);
        expect([...valuesIn(states[0].master as TensorLike)]).to.deep.equal([3, 4]);
      });
    }

    const half = (length = 2) => Tensor.zeros(length, { dtype: 'float16' });
    const state = (master: TensorLike): AdamWState => ({
      mean: new Float32Array(2),
      variance: new Float32Array(2),
      master,
    });
    itRefuses([
      [
        'lists of different lengths',
        () => syncMaster([half(), half()], [state(new Float32Array(2))]),
        RangeError,
        'Expected a list of length 2 for states but received one of length 1',
      ],
      [
        'a master of another dtype',
        () => syncMaster([half()], [state(new Float64Array(2))]),
        TypeError,
        'Expected float32 for states[0].master but received float64',
      ],
      [
        'a master of another length',
        () => syncMaster([half(3)], [state(new Float32Array(2))]),
        RangeError,
        'Expected length 3 for states[0].master but received length 2',
      ],
      [
        'a state that is none',
        () => syncMaster([half()], [null as never]),
        TypeError,
        'Expected a state with mean and variance for states[0] but received null',
      ],
    ]);

    it('should have changed nothing where it throws', () => {
      const master = Float32Array.of(5, 6);
      expect(() => syncMaster([half(), half(3)], [state(master), state(new Float32Array(2))])).to.throw(RangeError);
      expect([...master]).to.deep.equal([5, 6]);
    });
  });
});

describe('The registry', () => {
  it('should make an optimizer by its name, whatever its case', () => {
    for (const name of ['adamw', 'AdamW', 'ADAMW']) {
      for (const create of [createOptimizer, Optimizer.createOptimizer]) {
        const optimizer = create(name, { learningRate: 0.25, beta1: 0.5 });
        expect(optimizer).to.be.an.instanceOf(AdamW);
        expect(optimizer).to.include({ learningRate: 0.25, beta1: 0.5 });
        expect(create(name).learningRate).to.equal(0.001);
      }
    }
  });

  it('should know a class by its name, or by one that is given', () => {
    const warnings = warningsOf(() => {
      class RegisteredOne extends SGD {}
      class RegisteredTwo extends SGD {}
      class RegisteredThree extends SGD {}
      expect(register(RegisteredOne)).to.equal(RegisteredOne);
      expect(Optimizer.register(RegisteredTwo)).to.equal(RegisteredTwo);
      expect(register(RegisteredThree, 'Another-Name')).to.equal(RegisteredThree);
      expect(createOptimizer('registeredone')).to.be.an.instanceOf(RegisteredOne);
      expect(createOptimizer('REGISTEREDTWO')).to.be.an.instanceOf(RegisteredTwo);
      expect(createOptimizer('another-name', { wd: 0.5 }))
        .to.be.an.instanceOf(RegisteredThree)
        .with.property('wd', 0.5);
      expect(() => createOptimizer('RegisteredThree')).to.throw(RangeError);
    });
    expect(warnings).to.deep.equal([]);
  });

  it('should warn where a class takes the name of another', () => {
    class Overridden extends SGD {}
    class Overriding extends SGD {}
    register(Overridden, 'contested');
    expect(warningsOf(() => register(Overridden, 'Contested'))).to.deep.equal([]);
    expect(warningsOf(() => register(Overriding, 'Contested'))).to.deep.equal([
      'New optimizer Overriding is overriding existing optimizer Overridden',
    ]);
    expect(createOptimizer('contested')).to.be.an.instanceOf(Overriding);
  });

  it('should name what it knows for a name that it does not', () => {
    expect(() => createOptimizer('nobody')).to.throw(
      RangeError,
      /^Expected one of adamw(, [a-z-]+)* for name but received "nobody"$/,
    );
  });

  itRefuses([
    [
      'a name of the wrong kind',
      () => createOptimizer(3 as never),
      TypeError,
      'Expected a name for name but received 3',
    ],
    [
      'options of the wrong kind',
      () => createOptimizer('adamw', null as never),
      TypeError,
      'Expected an object for options but received null',
    ],
    [
      'a class that is no optimizer',
      () => register(class Foreign {} as never),
      TypeError,
      'Expected a subclass of Optimizer for optimizer but received the function Foreign',
    ],
    [
      'no class',
      () => register(undefined as never),
      TypeError,
      'Expected a subclass of Optimizer for optimizer but received undefined',
    ],
    ['an empty name', () => register(SGD, ''), TypeError, 'Expected a name for name but received ""'],
  ]);
});

describe("An optimizer of a user's own", () => {
  function byHand(
    weights: readonly Float32Array[],
    lrs: readonly number[],
    wds: readonly number[],
    rescale: number,
    t: number,
  ) {
    weights.forEach((w, i) => {
      const g = valuesIn(gradsOf[t][i]);
      w.forEach((value, k) => {
        w[k] = value - lrs[i] * (rescale * g[k] + wds[i] * value);
      });
    });
  }

  for (const call of ['step', 'fusedStep', 'update', 'updateMultiPrecision'] as const) {
    it(`should have rates, decays and counts: ${call}()`, () => {
      const options: OptimizerOptions = { learningRate: 0.5, wd: 0.1, rescaleGrad: 0.25, paramIdx2name: { 1: 'bias' } };
      const optimizer = new SGD(options);
      optimizer.setLrMult({ 0: 2 });
      optimizer.setWdMult({ bias: 0 });
      const { indices, weights } = cloneModel(start);
      const expected = start.weights.map((weight) => copyOf(weight) as Float32Array);
      const states = weights.map(() => optimizer.createState());
      for (let t = 0; t < 3; t++) {
        expect(optimizer[call](indices, weights, gradsOf[t], states)).to.deep.equal(DONE);
        byHand(expected, [1, 0.5, 0.5], [0.1, 0, 0.1], 0.25, t);
      }
      weights.forEach((weight, i) => {
        expectSameBits(valuesIn(weight), expected[i], `weights[${i}]`);
      });
      expect(optimizer.numUpdate).to.equal(3);
      expect(optimizer.updateCount(2)).to.equal(3);
    });
  }

  it('should follow a scheduler', () => {
    const lrScheduler = new InverseRoot({ baseLr: 0.5, warmupSteps: 2 });
    const optimizer = new SGD({ lrScheduler });
    const { weights } = cloneModel(start);
    const expected = start.weights.map((weight) => copyOf(weight) as Float32Array);
    for (let t = 0; t < 4; t++) {
      optimizer.step([0, 1, 2], weights, gradsOf[t], [null, null, null]);
      const rate = lrScheduler.learningRateAt(t + 1);
      byHand(expected, [rate, rate, rate], [0, 0, 0], 1, t);
      expect(optimizer.learningRate).to.equal(rate);
    }
    weights.forEach((weight, i) => {
      expectSameBits(valuesIn(weight), expected[i], `weights[${i}]`);
    });
  });

  it('should default to single steps', () => {
    expect(new SGD().useFusedStep).to.equal(false);
    expect(new AdamW().useFusedStep).to.equal(true);
  });
});

describe('backendInfo', () => {
  for (const environment of environments()) {
    it(`should say what runs: ${environment.name}`, () => {
      inEnvironment(environment, () => {
        const info = withoutCuda(backendInfo);
        expect(Object.keys(info)).to.have.members(['backend', 'native', 'threads', 'threading', 'cuda', 'javascript']);
        expect(info.backend).to.equal(environment.backend);
        expect(info.threads).to.satisfy((threads: number) => Number.isInteger(threads) && threads >= 1);
        expect(info.cuda).to.deep.equal({ available: false, reason: 'FUSED_ADAMW_DEVICE is cpu' });
        expect(info.javascript).to.deep.equal({ flushesSubnormals: false });
        if (environment.backend === 'javascript') {
          expect(info.native).to.deep.equal({ available: false, reason: 'FUSED_ADAMW_BACKEND is javascript' });
          expect(info.threads).to.equal(1);
          return;
        }
        if (!info.native.available) throw new Error(info.native.reason);
        const { path, build, compiler, isa, isas } = info.native;
        expect(Object.keys(info.native)).to.have.lengthOf(6);
        expect(path).to.match(/fused_adamw\.node$/);
        expect(build).to.be.oneOf(['node-gyp', 'cmake']);
        expect(compiler).to.match(/\d/);
        expect(isa).to.equal(environment.isa);
        expect(isas).to.include(isa);
        expect(isas.at(-1)).to.equal('baseline');
      });
    });
  }

  it('should not hand out what it keeps', () => {
    const { native } = backendInfo();
    if (native.available) (native.isas as string[]).length = 0;
    const again = backendInfo().native;
    if (again.available) expect(again.isas).to.not.have.lengthOf(0);
  });
});

describe('setNumThreads', () => {
  const isNative = backendInfo().native.available;

  afterEach(() => setNumThreads(null));

  it('should set the threads of large steps, and null return to the default', () => {
    const before = backendInfo().threads;
    for (const count of [1, 3, 64]) {
      setNumThreads(count);
      expect(backendInfo().threads).to.equal(isNative ? count : 1);
    }
    setNumThreads(null);
    expect(backendInfo().threads).to.equal(before);
  });

  it('should set nothing of the TypeScript backend', () => {
    inEnvironment({ name: 'TypeScript', backend: 'javascript' }, () => {
      setNumThreads(4);
      expect(backendInfo().threads).to.equal(1);
    });
  });

  itRefuses(
    (
      [
        [0, RangeError, '0'],
        [-1, RangeError, '-1'],
        [1.5, RangeError, '1.5'],
        [NaN, RangeError, 'NaN'],
        [Infinity, RangeError, 'Infinity'],
        ['2', TypeError, '"2"'],
        [undefined, TypeError, 'undefined'],
      ] as const
    ).map(
      ([count, kind, received]): ErrorRow => [
        `${received} threads`,
        () => setNumThreads(count as number),
        kind,
        `Expected an integer of at least 1 for count but received ${received}`,
      ],
    ),
  );
});

describe('The layouts of a step', () => {
  it('should be all that are tested', () => {
    expect([...ALL_LAYOUTS]).to.have.lengthOf(8);
  });
});
