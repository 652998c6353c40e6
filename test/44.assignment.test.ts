/** Options that are assigned between steps: a step after it is that of an optimizer made with them. */
import { expect } from 'chai';
import { ADAMW_OPTIONS, AdamW, type AdamWOptions, FactorScheduler, LossScaler, Tensor } from '../lib/index.js';
import { environments, inEnvironment } from './support/environments.js';
import { type ErrorRow, expectError, itRefuses } from './support/errors.js';
import { cloneModel, expectSameModel } from './support/model.js';
import { gradsOf, start } from './support/small-model.js';
import { CALLS, stepper } from './support/steps.js';

type Assignable = Pick<
  AdamWOptions,
  'beta1' | 'beta2' | 'epsilon' | 'wd' | 'correctBias' | 'clipGradient' | 'maxGradNorm' | 'aggregateNum' | 'rescaleGrad'
>;

const VALUES: readonly Required<Assignable>[] = [
  {
    beta1: 0.5,
    beta2: 0.9,
    epsilon: 1e-3,
    wd: 0.25,
    correctBias: false,
    clipGradient: 0.125,
    maxGradNorm: 0.5,
    aggregateNum: 2,
    rescaleGrad: 0.5,
  },
  {
    beta1: 0,
    beta2: 0,
    epsilon: 0,
    wd: 0,
    correctBias: true,
    clipGradient: null,
    maxGradNorm: null,
    aggregateNum: null,
    rescaleGrad: -2,
  },
];

for (const environment of environments()) {
  describe(`assignment of options: ${environment.name}`, () => {
    for (const values of VALUES) {
      for (const [name, value] of Object.entries(values)) {
        for (const rule of ['mxnet', 'pytorch'] as const) {
          it(`should take ${name} = ${value} in full, with rule ${rule}`, () => {
            inEnvironment(environment, () => {
              for (const call of CALLS) {
                const [assigned, made] = [cloneModel(start), cloneModel(start)];
                const optimizer = new AdamW({ rule });
                const run = stepper(optimizer, assigned, call);
                optimizer.setLearningRate(0);
                run(gradsOf[0]);
                optimizer.setLearningRate(0.01);
                Object.assign(optimizer, { [name]: value });
                run(gradsOf[1]);

                // The first step with the defaults and no rate, the second with the value from the start.
                const first = new AdamW({ rule, learningRate: 0 });
                stepper(first, made, call)(gradsOf[0]);
                const second = new AdamW({ rule, learningRate: 0.01, beginNumUpdate: 1, [name]: value });
                stepper(second, made, call)(gradsOf[1]);
                expectSameModel(assigned, made, call);
              }
            });
          });
        }
      }
    }
  });
}

describe('assignment of options', () => {
  const adamw = new AdamW();
  const rows: readonly (readonly [string, unknown, typeof TypeError, string])[] = [
    ['beta1', 1, RangeError, 'Expected a number in [0, 1) for beta1 but received 1'],
    ['beta2', NaN, RangeError, 'Expected a finite number of at least 0 for beta2 but received NaN'],
    ['epsilon', -1, RangeError, 'Expected a finite number of at least 0 for epsilon but received -1'],
    ['wd', '0.1', TypeError, 'Expected a finite number of at least 0 for wd but received "0.1"'],
    ['clipGradient', 0, RangeError, 'Expected a positive number, or null for none, for clipGradient but received 0'],
    ['maxGradNorm', 0, RangeError, 'Expected a positive number, or null for none, for maxGradNorm but received 0'],
    ['aggregateNum', NaN, RangeError, 'Expected an integer of at least 0 for aggregateNum but received NaN'],
    ['aggregateNum', -1, RangeError, 'Expected an integer of at least 0 for aggregateNum but received -1'],
    ['correctBias', 0, TypeError, 'Expected a boolean for correctBias but received 0'],
    ['useFusedStep', 1, TypeError, 'Expected a boolean for useFusedStep but received 1'],
    ['multiPrecision', 'yes', TypeError, 'Expected a boolean for multiPrecision but received "yes"'],
    ['rescaleGrad', null, TypeError, 'Expected a number for rescaleGrad but received null'],
  ];
  itRefuses(
    rows.map(
      ([name, value, kind, message]): ErrorRow => [
        `${name} = ${value}`,
        () => Object.assign(adamw, { [name]: value }),
        kind,
        message,
      ],
    ),
  );

  it('should leave the value that was, where it is refused', () => {
    const values = { beta1: 0.9, beta2: 0.999, epsilon: 1e-6, wd: 0, clipGradient: null, aggregateNum: Infinity };
    expect(adamw).to.include(values);
  });

  it('should take 0 for one tensor a call, as the constructor does', () => {
    const optimizer = new AdamW();
    optimizer.aggregateNum = 0;
    expect(optimizer.aggregateNum).to.equal(1);
  });

  it('should refuse undefined and null, which the constructor takes for the default', () => {
    for (const name of ['learningRate', 'beta1', 'beta2', 'epsilon', 'wd', 'correctBias', 'rescaleGrad'] as const) {
      for (const value of [undefined, null]) {
        const before = adamw[name];
        expect(() => Object.assign(adamw, { [name]: value }), name).to.throw(TypeError, ` for ${name} but received`);
        expect(adamw[name]).to.equal(before);
      }
    }
  });

  it('should set the learning rate as setLearningRate() does, and refuse it beside a scheduler', () => {
    const optimizer = new AdamW();
    optimizer.learningRate = 0.25;
    expect([optimizer.learningRate, optimizer.stateDict().learningRate]).to.deep.equal([0.25, 0.25]);
    const scheduled = new AdamW({ lrScheduler: new FactorScheduler({ step: 1 }) });
    expectError(
      () => {
        scheduled.learningRate = 0.1;
      },
      Error,
      'Expected no lrScheduler for setLearningRate but received one: the scheduler sets the rate',
    );
  });
});

describe('assignment of what is fixed', () => {
  const make = () => new AdamW({ paramDict: { 0: { lrMult: 0.5 } }, beginNumUpdate: 3, lrScheduler: null });
  // In sloppy mode, as in a script without 'use strict', the engine itself would say nothing.
  const assign = new Function('object', 'name', 'value', 'object[name] = value') as (
    object: object,
    name: string,
    value: unknown,
  ) => void;
  const assignable = Object.keys({ ...VALUES[0], learningRate: 0, multiPrecision: true, useFusedStep: true });
  const fixed = [
    ...ADAMW_OPTIONS.filter((name) => !assignable.includes(name)).map((name): [string, string] => [
      name,
      `Expected an option of the constructor for ${name} but received an assignment, which cannot change it`,
    ]),
    [
      'numUpdate',
      'Expected what loadStateDict() restores for numUpdate but received an assignment, which cannot change it',
    ],
    ...Object.entries({ lr: 'learningRate', betas: 'beta1 and beta2', eps: 'epsilon', weightDecay: 'wd' }).map(
      ([name, meant]): [string, string] => [
        name,
        `Expected a known option for this but received "${name}"; did you mean ${meant}?`,
      ],
    ),
  ] as const;
  for (const [name, message] of fixed) {
    it(`should throw for ${name}, and leave it`, () => {
      const optimizer = make();
      const before = Reflect.get(optimizer, name);
      for (const value of [before, null, 'pytorch', 1]) {
        expectError(() => assign(optimizer, name, value), TypeError, message);
        expectError(() => Object.assign(optimizer, { [name]: value }), TypeError, message);
      }
      expect(Reflect.get(optimizer, name)).to.equal(before);
    });
  }

  it('should be all options that are fixed', () => {
    expect(fixed.slice(0, -5).map(([name]) => name)).to.have.members([
      'rule',
      'coupledWeightDecay',
      'stateDtype',
      'rounding',
      'seed',
      'maximize',
      'amsgrad',
      'stream',
      'lrScheduler',
      'beginNumUpdate',
      'paramIdx2name',
      'paramDict',
    ]);
  });

  it('should throw for the scale of a LossScaler', () => {
    const scaler = new LossScaler();
    const message =
      'Expected what loadStateDict() restores for scale but received an assignment, which cannot change it';
    expectError(() => assign(scaler, 'scale', 1), TypeError, message);
    expect(scaler.scale).to.equal(65536);
  });

  it('should throw for the data of a Tensor', () => {
    const tensor = Tensor.zeros(2);
    expectError(
      () => assign(tensor, 'data', new Float32Array(2)),
      TypeError,
      'Expected values by set() or copyFrom() for data but received an assignment, which cannot change it',
    );
  });

  it('should leave a subclass its own fields, methods and spies', () => {
    class Mine extends AdamW {
      readonly lr = 5;
    }
    expect(new Mine()).to.include({ lr: 5 });
    const optimizer = make();
    Object.assign(optimizer, { update: () => 'spied', label: 'mine' });
    expect(optimizer).to.include({ label: 'mine' });
  });
});

describe("the defaults of rule 'pytorch'", () => {
  it('should be those of torch.optim.AdamW', () => {
    const { learningRate, beta1, beta2, epsilon, wd } = new AdamW({ rule: 'pytorch' });
    expect({ learningRate, beta1, beta2, epsilon, wd }).to.deep.equal({
      learningRate: 0.001,
      beta1: 0.9,
      beta2: 0.999,
      epsilon: 1e-8,
      wd: 0.01,
    });
  });

  it('should leave those of MXNet with its own rule, and what is given with either', () => {
    expect(new AdamW()).to.include({ epsilon: 1e-6, wd: 0 });
    expect(new AdamW({ rule: 'pytorch', wd: 0, epsilon: 1e-6 })).to.include({ epsilon: 1e-6, wd: 0 });
  });
});
