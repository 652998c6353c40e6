import { expect } from 'chai';
import { AdamW, type AdamWOptions, FactorScheduler } from '../lib/index.js';
import { attempt, type ErrorRow, itRefuses } from './support/errors.js';
import { quietly } from './support/warnings.js';

/** The values that each option is set to, in the order of the columns in docs/options.md. */
const VALUES = { undefined, null: null, 0: 0, negative: -1, NaN, Infinity };
type Value = keyof typeof VALUES;

/** The result of a value: what the optimizer then holds, or the error that is thrown. */
type Outcome = { readonly gives: unknown } | { readonly throws: string };
type Outcomes = Readonly<Record<Value, Outcome>>;

const gives = (value: unknown): Outcome => ({ gives: value });
const rangeError = (expected: string, name: string, received: string): Outcome => ({
  throws: `RangeError: Expected ${expected} for ${name} but received ${received}`,
});
const typeError = (expected: string, name: string, received: string): Outcome => ({
  throws: `TypeError: Expected ${expected} for ${name} but received ${received}`,
});

/** An option that takes finite numbers of at least 0. */
function ofNumbers(expected: string, byDefault: number, byNull = byDefault): (name: string) => Outcomes {
  return (name) => ({
    undefined: gives(byDefault),
    null: gives(byNull),
    0: gives(0),
    negative: rangeError(expected, name, '-1'),
    NaN: rangeError(expected, name, 'NaN'),
    Infinity: rangeError(expected, name, 'Infinity'),
  });
}

/** An option that takes no number at all. */
function ofNoNumbers(expected: string, byDefault: unknown): (name: string) => Outcomes {
  return (name) => ({
    undefined: gives(byDefault),
    null: gives(byDefault),
    0: typeError(expected, name, '0'),
    negative: typeError(expected, name, '-1'),
    NaN: typeError(expected, name, 'NaN'),
    Infinity: typeError(expected, name, 'Infinity'),
  });
}

const FINITE = 'a finite number of at least 0';
const WHOLE = 'an integer of at least 0';
const CLIP = 'a positive number, or null for none,';
const DTYPE = "'float32' or 'float16' or 'bfloat16'";

interface Row {
  readonly option: keyof AdamWOptions;
  readonly outcomes: (name: string) => Outcomes;
  /** A value of the wrong type, and what its error says was expected and received. */
  readonly wrong: readonly [value: unknown, expected: string, received: string];
  /** Reads the option from the optimizer; by default its property of the same name. */
  readonly read?: (optimizer: AdamW) => unknown;
  /** Other options that are set. */
  readonly beside?: () => AdamWOptions;
}

const aString = (expected: string) => ['x', expected, '"x"'] as const;
const accepted = () => 'accepted';

const rows: readonly Row[] = [
  { option: 'learningRate', outcomes: ofNumbers(FINITE, 0.001, 0.01), wrong: aString(FINITE) },
  {
    option: 'learningRate',
    outcomes: ofNumbers(FINITE, 0.5),
    wrong: aString(FINITE),
    beside: () => ({ lrScheduler: new FactorScheduler({ step: 1, baseLr: 0.5 }) }),
  },
  { option: 'beta1', outcomes: ofNumbers(FINITE, 0.9), wrong: aString(FINITE) },
  { option: 'beta2', outcomes: ofNumbers(FINITE, 0.999), wrong: aString(FINITE) },
  { option: 'epsilon', outcomes: ofNumbers(FINITE, 1e-6), wrong: aString(FINITE) },
  { option: 'correctBias', outcomes: ofNoNumbers('a boolean', true), wrong: aString('a boolean') },
  { option: 'useFusedStep', outcomes: ofNoNumbers('a boolean', true), wrong: aString('a boolean') },
  {
    option: 'rescaleGrad',
    outcomes: () => ({
      undefined: gives(1),
      null: gives(1),
      0: gives(0),
      negative: gives(-1),
      NaN: gives(NaN),
      Infinity: gives(Infinity),
    }),
    wrong: aString('a number'),
  },
  {
    option: 'clipGradient',
    outcomes: (name) => ({
      ...ofNumbers(CLIP, 0)(name),
      undefined: gives(null),
      null: gives(null),
      0: rangeError(CLIP, name, '0'),
    }),
    wrong: aString(CLIP),
  },
  { option: 'wd', outcomes: ofNumbers(FINITE, 0), wrong: aString(FINITE) },
  {
    option: 'lrScheduler',
    outcomes: ofNoNumbers('an LRScheduler', null),
    wrong: [{}, 'an LRScheduler', 'an object'],
  },
  { option: 'multiPrecision', outcomes: ofNoNumbers('a boolean', false), wrong: aString('a boolean') },
  {
    option: 'paramIdx2name',
    outcomes: ofNoNumbers('a Map or an object', 'accepted'),
    wrong: [['w'], 'a Map or an object', 'an array of length 1'],
    read: accepted,
  },
  {
    option: 'paramDict',
    outcomes: ofNoNumbers('a Map or an object', 'accepted'),
    wrong: aString('a Map or an object'),
    read: accepted,
  },
  {
    option: 'beginNumUpdate',
    outcomes: ofNumbers(WHOLE, 0),
    wrong: aString(WHOLE),
    read: ({ numUpdate }) => numUpdate,
  },
  {
    option: 'aggregateNum',
    outcomes: (name) => ({ ...ofNumbers(WHOLE, Infinity)(name), 0: gives(1), Infinity: gives(Infinity) }),
    wrong: aString(WHOLE),
  },
  {
    option: 'rule',
    outcomes: ofNoNumbers("'mxnet' or 'pytorch'", 'mxnet'),
    wrong: [true, "'mxnet' or 'pytorch'", 'true'],
  },
  {
    option: 'rounding',
    outcomes: ofNoNumbers("'nearest' or 'stochastic'", 'nearest'),
    wrong: [true, "'nearest' or 'stochastic'", 'true'],
  },
  { option: 'coupledWeightDecay', outcomes: ofNoNumbers('a boolean', false), wrong: aString('a boolean') },
  { option: 'stateDtype', outcomes: ofNoNumbers(DTYPE, null), wrong: [['float32'], DTYPE, 'an array of length 1'] },
  { option: 'maximize', outcomes: ofNoNumbers('a boolean', false), wrong: aString('a boolean') },
  { option: 'amsgrad', outcomes: ofNoNumbers('a boolean', false), wrong: aString('a boolean') },
  { option: 'seed', outcomes: ofNumbers(WHOLE, 0), wrong: [1n, WHOLE, '1n'] },
  {
    option: 'maxGradNorm',
    outcomes: (name) => ({
      ...ofNumbers(CLIP, 0)(name),
      undefined: gives(null),
      null: gives(null),
      0: rangeError(CLIP, name, '0'),
      Infinity: gives(Infinity),
    }),
    wrong: aString(CLIP),
  },
  {
    option: 'stream',
    outcomes: ofNumbers(WHOLE, 0),
    wrong: aString('an address of at most 64 bits'),
    read: ({ stream }) => Number(stream),
  },
];

function outcomeOf({ option, read, beside }: Row, value: unknown): Outcome {
  const made = attempt(() => quietly(() => new AdamW({ ...beside?.(), [option]: value })));
  if ('error' in made) return { throws: String(made.error) };
  return gives(read ? read(made.value) : Reflect.get(made.value, option));
}

describe('Options', () => {
  for (const row of rows) {
    const { option, outcomes, wrong, beside } = row;
    const name = beside ? `${option} with ${Object.keys(beside()).join()}` : option;

    it(`should behave as the table says: ${name}`, () => {
      const actual = Object.entries(VALUES).map(([value, given]) => [value, outcomeOf(row, given)]);
      expect(Object.fromEntries(actual)).to.deep.equal(outcomes(option));
    });

    it(`should be refused if they are of the wrong type: ${name}`, () => {
      const [value, expected, received] = wrong;
      expect(outcomeOf(row, value)).to.deep.equal(typeError(expected, option, received));
    });

    it(`should have their defaults if they are left out: ${name}`, () => {
      const optimizer = new AdamW(beside?.());
      const actual = row.read ? row.read(optimizer) : Reflect.get(optimizer, option);
      expect({ gives: actual }).to.deep.equal(outcomes(option).undefined);
    });
  }

  it('should all be in the table', () => {
    const all: Required<{ [Option in keyof AdamWOptions]: true }> = {
      learningRate: true,
      beta1: true,
      beta2: true,
      epsilon: true,
      correctBias: true,
      useFusedStep: true,
      rescaleGrad: true,
      clipGradient: true,
      wd: true,
      lrScheduler: true,
      multiPrecision: true,
      paramIdx2name: true,
      paramDict: true,
      beginNumUpdate: true,
      aggregateNum: true,
      rule: true,
      coupledWeightDecay: true,
      stateDtype: true,
      rounding: true,
      seed: true,
      maximize: true,
      amsgrad: true,
      maxGradNorm: true,
      stream: true,
    };
    expect(new Set(rows.map(({ option }) => option))).to.deep.equal(new Set(Object.keys(all)));
  });

  it('should be kept as they are given', () => {
    const options: AdamWOptions = {
      learningRate: 0.25,
      beta1: 0.5,
      beta2: 0.75,
      epsilon: 0.125,
      correctBias: false,
      useFusedStep: false,
      rescaleGrad: 0.5,
      clipGradient: 3,
      wd: 0.5,
      multiPrecision: true,
      aggregateNum: 7,
      rule: 'mxnet',
      coupledWeightDecay: true,
      stateDtype: 'bfloat16',
      rounding: 'stochastic',
      seed: 2 ** 32 - 1,
      maximize: true,
      amsgrad: true,
      maxGradNorm: 1.5,
    };
    expect(new AdamW(options)).to.include(options);
    expect(new AdamW({ rule: 'pytorch', beta1: 1 - 2 ** -53, clipGradient: 5e-324 })).to.include({
      rule: 'pytorch',
      beta1: 1 - 2 ** -53,
      clipGradient: 5e-324,
    });
  });

  itRefuses([
    [
      'options that are null',
      () => new AdamW(null as never),
      TypeError,
      'Expected an object for options but received null',
    ],
    [
      'options that are a number',
      () => new AdamW(0.1 as never),
      TypeError,
      'Expected an object for options but received 0.1',
    ],
    ...(['beta1', 'beta2'] as const).flatMap((name): ErrorRow[] =>
      [1, 1.5].map((value) => [
        `${name} of ${value}`,
        () => new AdamW({ [name]: value }),
        RangeError,
        `Expected a number in [0, 1) for ${name} but received ${value}`,
      ]),
    ),
    [
      'a fractional aggregateNum',
      () => new AdamW({ aggregateNum: 1.5 }),
      RangeError,
      'Expected an integer of at least 0 for aggregateNum but received 1.5',
    ],
    [
      'a fractional beginNumUpdate',
      () => new AdamW({ beginNumUpdate: 0.5 }),
      RangeError,
      'Expected an integer of at least 0 for beginNumUpdate but received 0.5',
    ],
    [
      'a beginNumUpdate above the safe integers',
      () => new AdamW({ beginNumUpdate: 2 ** 53 }),
      RangeError,
      'Expected an integer of at least 0 for beginNumUpdate but received 9007199254740992',
    ],
    [
      'a seed above 32 bits',
      () => new AdamW({ seed: 2 ** 32 }),
      RangeError,
      'Expected a whole number below 2**32 for seed but received 4294967296',
    ],
    [
      'an unknown rule',
      () => new AdamW({ rule: 'adam' as never }),
      RangeError,
      "Expected 'mxnet' or 'pytorch' for rule but received \"adam\"",
    ],
    [
      'a stateDtype that is not supported',
      () => new AdamW({ stateDtype: 'float64' as never }),
      RangeError,
      `Expected ${DTYPE} for stateDtype but received "float64"`,
    ],
    ...[{}, { correctBias: true }, { correctBias: false, rule: 'pytorch' } as const].map(
      (options): ErrorRow => [
        `coupledWeightDecay with ${JSON.stringify(options)}`,
        () => new AdamW({ ...options, coupledWeightDecay: true }),
        RangeError,
        "Expected false unless correctBias is false and rule is 'mxnet' for coupledWeightDecay but received true",
      ],
    ),
  ]);
});
