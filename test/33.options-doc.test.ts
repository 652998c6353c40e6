/** The table of docs/options.md, value by value, against the code. */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect } from 'chai';
import {
  AdamW,
  type AdamWOptions,
  CosineScheduler,
  type DecaySchedulerOptions,
  FactorScheduler,
  type FactorSchedulerOptions,
  MultiFactorScheduler,
  type MultiFactorSchedulerOptions,
  type OptimizerOptions,
  PolyScheduler,
  type PolySchedulerOptions,
} from '../lib/index.js';
import { repository } from './support/child.js';
import { attempt } from './support/errors.js';
import { SGD } from './support/sgd.js';
import { quietly } from './support/warnings.js';

/** The columns, and the value that each stands for. */
const VALUES: Readonly<Record<string, unknown>> = {
  undefined,
  null: null,
  0: 0,
  '-1': -1,
  NaN,
  Infinity,
  '[]': [],
};

/** Creates one of each class with an option set, and with the other options that it requires. */
const MAKERS: Readonly<Record<string, (options: object) => object>> = {
  AdamW: (options) => new AdamW(options),
  Optimizer: (options) => new SGD(options),
  FactorScheduler: (options) => new FactorScheduler({ step: 1, ...options }),
  MultiFactorScheduler: (options) => new MultiFactorScheduler({ step: [1], ...options }),
  PolyScheduler: (options) => new PolyScheduler({ maxUpdate: 10, ...options }),
  CosineScheduler: (options) => new CosineScheduler({ maxUpdate: 10, ...options }),
};

type Options<T> = Required<{ readonly [Option in keyof T]: true }>;

const ofOptimizer: Options<OptimizerOptions> = {
  rescaleGrad: true,
  paramIdx2name: true,
  wd: true,
  clipGradient: true,
  learningRate: true,
  lrScheduler: true,
  beginNumUpdate: true,
  multiPrecision: true,
  paramDict: true,
  aggregateNum: true,
  useFusedStep: true,
};
const ofAdamW: Options<AdamWOptions> = {
  ...ofOptimizer,
  beta1: true,
  beta2: true,
  epsilon: true,
  correctBias: true,
  rule: true,
  coupledWeightDecay: true,
  stateDtype: true,
  rounding: true,
  seed: true,
  maxGradNorm: true,
  maximize: true,
  amsgrad: true,
  stream: true,
};
const ofScheduler = { baseLr: true, warmupSteps: true, warmupBeginLr: true, warmupMode: true } as const;
const ofFactor: Options<FactorSchedulerOptions> = { ...ofScheduler, step: true, factor: true, stopFactorLr: true };
const ofMultiFactor: Options<MultiFactorSchedulerOptions> = { ...ofScheduler, step: true, factor: true };
const ofCosine: Options<DecaySchedulerOptions> = { ...ofScheduler, maxUpdate: true, finalLr: true };
const ofPoly: Options<PolySchedulerOptions> = { ...ofCosine, power: true };

const ALL_OPTIONS: Readonly<Record<string, object>> = {
  AdamW: ofAdamW,
  Optimizer: ofOptimizer,
  FactorScheduler: ofFactor,
  MultiFactorScheduler: ofMultiFactor,
  PolyScheduler: ofPoly,
  CosineScheduler: ofCosine,
};

interface Row {
  readonly classes: readonly string[];
  readonly option: string;
  readonly besideScheduler: boolean;
  /** By column. */
  readonly cells: ReadonlyMap<string, string>;
}

const codeIn = (cell: string): string[] => [...cell.matchAll(/`([^`]*)`/g)].map(([, code]) => code);

function readTable(): Row[] {
  const text = readFileSync(join(repository, 'docs/options.md'), 'utf8');
  const [, table] = text.split('## Value by value\n');
  const lines = table.split('\n').filter((line) => line.startsWith('|'));
  const [header, , ...rows] = lines.map((line) =>
    line
      .slice(1, -1)
      .split('|')
      .map((cell) => cell.trim()),
  );
  const columns = header.slice(2).map((cell) => codeIn(cell)[0]);
  return rows.map(([classes, option, ...cells]) => ({
    classes: codeIn(classes),
    option: codeIn(option)[0],
    besideScheduler: option.includes('beside'),
    cells: new Map(cells.map((cell, i) => [columns[i], cell])),
  }));
}

/** What a cell of the table should say: the value that results, or the class of the error. */
function outcomeOf(name: string, { option, besideScheduler }: Row, value: unknown): string {
  const beside = besideScheduler ? { lrScheduler: new FactorScheduler({ step: 1, baseLr: 0.5 }) } : {};
  const made = attempt(() => quietly(() => MAKERS[name]({ ...beside, [option]: value })));
  if ('error' in made) return (made.error as Error).name;
  const has: unknown = Reflect.get(made.value, option === 'beginNumUpdate' ? 'numUpdate' : option);
  return has === null || has === undefined ? 'none' : `\`${has}\``;
}

describe('The table of options in the docs', () => {
  const rows = readTable();

  it('should have a column for each kind of value', () => {
    for (const { cells } of rows) expect([...cells.keys()]).to.have.members(Object.keys(VALUES));
  });

  for (const [name, options] of Object.entries(ALL_OPTIONS)) {
    it(`should have each option of ${name} once`, () => {
      const found = rows.filter(({ classes, besideScheduler }) => classes.includes(name) && !besideScheduler);
      expect(found.map(({ option }) => option)).to.have.members(Object.keys(options));
    });
  }

  for (const row of rows) {
    for (const name of row.classes) {
      it(`should be right about ${row.option} of ${name}${row.besideScheduler ? ' with a scheduler' : ''}`, () => {
        const actual = Object.entries(VALUES).map(([column, value]) => [column, outcomeOf(name, row, value)]);
        expect(Object.fromEntries(actual)).to.deep.equal(Object.fromEntries(row.cells));
      });
    }
  }
});
