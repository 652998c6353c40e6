/** Multipliers by string index and by pattern, and those that no parameter meets. */
import { expect } from 'chai';
import { AdamW } from '../lib/index.js';
import { environments, inEnvironment } from './support/environments.js';
import { type ErrorRow, itRefuses } from './support/errors.js';
import { warningsOf } from './support/warnings.js';

const OPTIONS = { learningRate: 0.1, wd: 0.5, rule: 'pytorch' } as const;

/** Weights of 1 after a step without gradients: 1 where there is no decay, else 0.95. */
function decayed(optimizer: AdamW, indices: readonly (string | number)[]): number[] {
  const weights = indices.map(() => Float64Array.of(1));
  const grads = indices.map(() => Float64Array.of(0));
  const states = weights.map((weight, i) => optimizer.createState(indices[i], weight));
  optimizer.update(indices, weights, grads, states);
  return weights.map(([weight]) => weight);
}

for (const environment of environments()) {
  describe(`multipliers that meet their parameters: ${environment.name}`, () => {
    const run = (setUp: (optimizer: AdamW) => void, indices: readonly (string | number)[], options = {}): number[] =>
      inEnvironment(environment, () => {
        const optimizer = new AdamW({ ...OPTIONS, ...options });
        setUp(optimizer);
        return decayed(optimizer, indices);
      });

    for (const index of [1, '1']) {
      for (const [what, wdMult] of [
        ['an object', { '1': 0 }],
        ['a Map of numbers', new Map([[1, 0]])],
        ['a Map of strings', new Map([['1', 0]])],
      ] as const) {
        it(`should be one for 1 and '1': ${what}, index ${JSON.stringify(index)}`, () => {
          expect(run((optimizer) => optimizer.setWdMult(wdMult), [index, 2])).to.deep.equal([1, 0.95]);
        });
      }
      it(`should be one for 1 and '1' in paramDict and paramIdx2name, index ${JSON.stringify(index)}`, () => {
        const nothing = (): void => {};
        expect(run(nothing, [index], { paramDict: { 1: { wdMult: 0 } } })).to.deep.equal([1]);
        expect(run(nothing, [index], { paramDict: new Map([['1', { wdMult: 0 }]]) })).to.deep.equal([1]);
        const named = { paramIdx2name: new Map([['1', 'bias']]) };
        expect(run((optimizer) => optimizer.setWdMult({ bias: 0 }), [index], named)).to.deep.equal([1]);
      });
    }

    it('should take keys of 16 digits', () => {
      const index = 2 ** 53 - 1;
      expect(run((optimizer) => optimizer.setWdMult({ [index]: 0 }), [index])).to.deep.equal([1]);
    });

    it('should match patterns against names, and against indices without one', () => {
      const paramIdx2name = { 0: 'fc1_weight', 1: 'fc1_Bias', 2: 'layer.norm' };
      const setUp = (optimizer: AdamW): void => optimizer.setWdMult(new Map([[/bias|norm/i, 0]]));
      expect(run(setUp, [0, 1, 2, 'norm.0', 'w'], { paramIdx2name })).to.deep.equal([0.95, 1, 1, 1, 0.95]);
    });

    it('should take the index before the name, the name before a pattern, and the first pattern', () => {
      const paramIdx2name = { 0: 'a', 1: 'b', 2: 'c', 3: 'd' };
      const wdMult = new Map<string | number | RegExp, number>([
        [/[a-c]/gy, 0],
        [/./, 2],
        [0, 1],
        ['b', 1],
      ]);
      const setUp = (optimizer: AdamW): void => optimizer.setWdMult(wdMult);
      expect(run(setUp, [0, 1, 2, 3], { paramIdx2name })).to.deep.equal([0.95, 0.95, 1, 0.9]);
    });

    it('should take -0 for 0', () => {
      const weights = inEnvironment(environment, () => {
        const optimizer = new AdamW({ learningRate: 0.1 });
        optimizer.setLrMult({ 0: -0, 1: 0 });
        const both = [Float32Array.of(-0), Float32Array.of(-0)];
        const states = both.map((weight, i) => optimizer.createState(i, weight));
        optimizer.update([0, 1], both, [Float32Array.of(1), Float32Array.of(1)], states);
        return both.map(([weight]) => weight);
      });
      expect(weights.map((weight) => Object.is(weight, -0))).to.deep.equal([true, true]);
    });
  });
}

describe('multipliers that no parameter meets', () => {
  const weight = Float32Array.of(1);
  const grad = Float32Array.of(1);

  /** The warnings of each of some updates of indices, one after the other. */
  const warnings = (optimizer: AdamW, ...updates: (string | number)[]): string[][] =>
    updates.map((index) =>
      warningsOf(() => {
        optimizer.update(index, weight, grad, { mean: new Float32Array(1), variance: new Float32Array(1) });
      }),
    );

  it('should be told once, when an index comes for the second time, with the nearest name', () => {
    const optimizer = new AdamW({ paramIdx2name: { 0: 'fc1_weight', 1: 'fc1_bias' } });
    optimizer.setWdMult({ fc1_bais: 0 });
    expect(warnings(optimizer, 0, 1, 0, 1, 0)).to.deep.equal([
      [],
      [],
      [
        'wdMult has an entry for "fc1_bais", but no parameter of that index or name was updated; ' +
          'did you mean "fc1_bias"?',
      ],
      [],
      [],
    ]);
  });

  it('should be told for indices, patterns and paramDict', () => {
    const optimizer = new AdamW({ paramDict: { 9: { lrMult: 0 } } });
    optimizer.setLrMult(new Map<number | RegExp, number>([[7, 0], [/nothing/, 0]])); // biome-ignore format: short
    const [, told] = warnings(optimizer, 0, 0);
    expect(told.map((message) => message.split(',')[0])).to.have.members([
      'paramDict has an entry for 9',
      'lrMult has an entry for 7',
      'lrMult has an entry for /nothing/',
    ]);
  });

  it('should be told again for what is set again', () => {
    const optimizer = new AdamW();
    optimizer.setWdMult({ a: 0 });
    expect(warnings(optimizer, 0, 0, 0).map(({ length }) => length)).to.deep.equal([0, 1, 0]);
    optimizer.setWdMult({ a: 0 });
    expect(warnings(optimizer, 0, 0).map(({ length }) => length)).to.deep.equal([1, 0]);
  });

  it('should not be told where each is met: by an update, or by createState()', () => {
    const optimizer = new AdamW({ paramIdx2name: { 0: 'a' } });
    optimizer.setWdMult(new Map<string | number | RegExp, number>([['a', 0], [1, 0], [/^lat/, 0]])); // biome-ignore format: short
    optimizer.createState(1, weight);
    optimizer.createState('late', weight);
    expect(warnings(optimizer, 0, 0, 0).flat()).to.deep.equal([]);
  });

  it('should carry a code', () => {
    const codes: unknown[] = [];
    const { emitWarning } = process;
    process.emitWarning = (_: string | Error, options?: unknown) => {
      codes.push((options as { code?: string } | undefined)?.code);
    };
    try {
      const optimizer = new AdamW();
      optimizer.setLrMult({ a: 1 });
      for (let step = 0; step < 2; step++) {
        optimizer.update(0, weight, grad, { mean: new Float32Array(1), variance: new Float32Array(1) });
      }
    } finally {
      process.emitWarning = emitWarning;
    }
    expect(codes).to.include('FUSED_ADAMW_UNMET_MULTIPLIER');
  });

  const twice = 'Expected each index once for lrMult but received 1 twice';
  itRefuses([
    [
      'an index twice, as a number and as a string',
      () => new AdamW().setLrMult(new Map<string | number, number>([[1, 0], ['1', 1]])), // biome-ignore format: short
      RangeError,
      twice,
    ],
    [
      'a pattern in paramDict',
      () => new AdamW({ paramDict: new Map([[/a/, {}]]) as never }),
      TypeError,
      'Expected a whole number of at least 0 or a string for a key of paramDict but received a RegExp',
    ],
  ] satisfies ErrorRow[]);
});
