/** Options that nobody knows are errors that name the nearest one: training would run on defaults otherwise. */
import { expect } from 'chai';
import {
  AdamW,
  CosineScheduler,
  createOptimizer,
  FactorScheduler,
  MultiFactorScheduler,
  multiAdamwUpdate,
  OPTIMIZER_OPTIONS,
  Optimizer,
  type OptimizerOptions,
  PolyScheduler,
  type StepResult,
} from '../lib/index.js';
import { type ErrorRow, expectError, itRefuses } from './support/errors.js';

const unknown = (key: string, meant: string, name = 'options'): string =>
  `Expected a known option for ${name} but received "${key}"; did you mean ${meant}?`;

describe('options that are not known', () => {
  const adamw: readonly (readonly [string, string])[] = [
    ['lr', 'learningRate'],
    ['learning_rate', 'learningRate'],
    ['learningrate', 'learningRate'],
    ['weightDecay', 'wd'],
    ['weight_decay', 'wd'],
    ['betas', 'beta1 and beta2'],
    ['beta_1', 'beta1'],
    ['eps', 'epsilon'],
    ['clipgradient', 'clipGradient'],
    ['lr_scheduler', 'lrScheduler'],
    ['multi_precision', 'multiPrecision'],
  ];
  itRefuses(
    adamw.map(([key, meant]): ErrorRow => [key, () => new AdamW({ [key]: 1 }), TypeError, unknown(key, meant)]),
  );
  itRefuses([
    ['one that is undefined', () => new AdamW({ lr: undefined } as object), TypeError, unknown('lr', 'learningRate')],
    [
      'one that is inherited',
      () => new AdamW(Object.create({ eps: 1 }) as object),
      TypeError,
      unknown('eps', 'epsilon'),
    ],
    ['one by name', () => createOptimizer('adamw', { lr: 1 }), TypeError, unknown('lr', 'learningRate')],
    [
      'a list of parameters',
      () => new AdamW([new Float32Array(1)] as object),
      TypeError,
      'Expected an object for options but received a list: parameters are given to each step, not to the constructor',
    ],
    ['warmup', () => new FactorScheduler({ step: 1, warmup: 5 } as never), TypeError, unknown('warmup', 'warmupSteps')],
    ['minLr', () => new CosineScheduler({ maxUpdate: 10, minLr: 5 } as never), TypeError, unknown('minLr', 'finalLr')],
    ['pwr', () => new PolyScheduler({ maxUpdate: 10, pwr: 5 } as never), TypeError, unknown('pwr', 'power')],
    [
      'milestones',
      () => new MultiFactorScheduler({ step: [1], milestones: [1] } as never),
      TypeError,
      unknown('milestones', 'step'),
    ],
    [
      'lr of multiAdamwUpdate',
      () => multiAdamwUpdate([], [], [], [], { etas: [], lrs: [], wds: [], lr: 1 } as never),
      TypeError,
      unknown('lr', 'lrs'),
    ],
    [
      'wd_mult of a parameter',
      () => new AdamW({ paramDict: { a: { wd_mult: 0 } } as never }),
      TypeError,
      unknown('wd_mult', 'wdMult', 'paramDict["a"]'),
    ],
    [
      'weightDecay of a parameter, as of a parameter group of PyTorch',
      () => new AdamW({ paramDict: { a: { weight_decay: 0 } } as never }),
      TypeError,
      unknown('weight_decay', 'wdMult', 'paramDict["a"]'),
    ],
    [
      'learningRate of a parameter',
      () => new AdamW({ paramDict: { a: { learningRate: 0 } } as never }),
      TypeError,
      unknown('learningRate', 'lrMult', 'paramDict["a"]'),
    ],
    [
      'options after the parameters',
      () => new AdamW({}, { lr: 0.1 } as never),
      TypeError,
      'Expected a list of names for known but received an object',
    ],
    [
      'parameters by name',
      () => new AdamW(new Map([['weight', new Float32Array(1)]]) as object),
      TypeError,
      'Expected an object for options but received a Map',
    ],
  ]);

  it('should name all options where none is near', () => {
    expectError(
      () => new CosineScheduler({ maxUpdate: 10, nesterov: true } as never),
      TypeError,
      'Expected a known option for options but received "nesterov"; known are baseLr, warmupSteps, ' +
        'warmupBeginLr, warmupMode, maxUpdate, finalLr',
    );
  });

  it('should leave what else an object of paramDict holds', () => {
    const parameter = { lrMult: 0.5, weight: null, name: 'fc', data: new Float32Array(1), gradient: null };
    expect(() => new AdamW({ paramDict: { 0: parameter } })).not.to.throw();
  });

  it('should be told by a subclass that adds its own to them', () => {
    class Momentum extends Optimizer<null> {
      readonly momentum: number;
      constructor(options: OptimizerOptions & { readonly momentum?: number }) {
        super(options, [...OPTIMIZER_OPTIONS, 'momentum']);
        this.momentum = options.momentum ?? 0;
      }
      override createState(): null {
        return null;
      }
      override step(): StepResult {
        return { skipped: false };
      }
    }
    expect(new Momentum({ momentum: 0.5, wd: 0.1 })).to.include({ momentum: 0.5, wd: 0.1 });
    expectError(() => new Momentum({ momentun: 1 } as object), TypeError, unknown('momentun', 'momentum'));
  });

  it('should read each option once', () => {
    const reads = new Map<string, number>();
    const counting = new Proxy(
      { learningRate: 0.5, beta1: 0.5, wd: 0.5, rule: 'pytorch' as const },
      {
        get: (target, key, receiver) => {
          reads.set(String(key), (reads.get(String(key)) ?? 0) + 1);
          return Reflect.get(target, key, receiver);
        },
      },
    );
    const optimizer = new AdamW(counting);
    expect(optimizer).to.include({ learningRate: 0.5, beta1: 0.5, wd: 0.5, rule: 'pytorch' });
    expect([...reads].filter(([, count]) => count !== 1)).to.deep.equal([]);
  });
});
