/** Multiples of the learning rate and the weight decay, by index, by name and by parameter. */
import vm from 'node:vm';
import { expect } from 'chai';
import { AdamW, type AdamWOptions, type Index } from '../lib/index.js';
import { expectError, itRefuses } from './support/errors.js';
import { cloneModel, expectSameModel, remember } from './support/model.js';
import { gradsOf, only, start } from './support/small-model.js';
import { CALLS, stepper } from './support/steps.js';

describe('multipliers', () => {
  const LR = 0.1;
  const WD = 0.2;
  const base = { learningRate: LR, wd: WD };

  /** Asserts that each tensor is updated as by a separate optimizer with these multiples of rate and decay. */
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
    { what: 'as 1 if none are set' },
    { what: 'by index, for the rate, from an object', set: (o) => o.setLrMult({ 0: 0.5, 2: 0 }), lr: [0.5, 1, 0] },
    { what: 'by index, for the decay, from an object', set: (o) => o.setWdMult({ 1: 0, 2: 7 }), wd: [1, 0, 7] },
    { what: 'by index, from a Map', set: (o) => o.setLrMult(new Map([[1, 3]])), lr: [1, 3, 1] },
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
      what: "by an object's keys only if they are canonical whole numbers",
      set: (o) => o.setLrMult({ '01': 5, '1.0': 5, ' 1': 5, '-1': 5, '2': 0.5 }),
      lr: [1, 1, 0.5],
    },
    {
      what: "by a Map's keys that are strings of whole numbers",
      set: (o) => o.setLrMult(new Map([['1', 5]])),
      lr: [1, 5, 1],
    },
    {
      what: 'from the last call, which replaces all before',
      set: (o) => {
        o.setLrMult({ 0: 5, 1: 5 });
        o.setLrMult({ 2: 2 });
        o.setWdMult({ 0: 5 });
        o.setWdMult({});
      },
      lr: [1, 1, 2],
    },
    {
      what: 'from a Map of another realm',
      set: (o) => o.setLrMult(vm.runInNewContext('new Map([[1, 3]])')),
      lr: [1, 3, 1],
    },
  ];
  for (const { what, options, set, indices = numbers, lr = [1, 1, 1], wd = [1, 1, 1] } of rows) {
    it(`should be read ${what}`, () => {
      const optimizer = new AdamW({ ...base, ...options });
      set?.(optimizer);
      expectMultiples(optimizer, indices, lr, wd);
    });
  }

  for (const call of CALLS) {
    it(`should be read anew at each step: ${call}`, () => {
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
      expectKept('after an invalid multiplier');
      expect(optimizer.numUpdate).to.equal(4);
    });
  }

  const MULTIPLES = 'Expected a finite number of at least 0 for';
  itRefuses([
    [
      'multipliers of the wrong type',
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
      'a multiplier of the wrong type',
      () => new AdamW().setLrMult({ a: '1' as never }),
      TypeError,
      `${MULTIPLES} lrMult["a"] but received "1"`,
    ],
    [
      'a key that is not an index',
      () => new AdamW().setLrMult(new Map([[1.5, 1]])),
      TypeError,
      'Expected a whole number of at least 0 or a string for a key of lrMult but received 1.5',
    ],
    [
      'a name of the wrong type',
      () => new AdamW({ paramIdx2name: { 0: 1 as never } }),
      TypeError,
      'Expected a string for paramIdx2name[0] but received 1',
    ],
    [
      'a parameter of the wrong type',
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

  it('should keep the previous multipliers if setting throws', () => {
    const optimizer = new AdamW(base);
    optimizer.setLrMult({ 0: 0.5 });
    expectError(() => optimizer.setLrMult({ 0: 2, 1: -1 }), RangeError, `${MULTIPLES} lrMult[1] but received -1`);
    expectMultiples(optimizer, numbers, [0.5, 1, 1], [1, 1, 1]);
  });
});
