import { expect } from 'chai';
import { AdamW, type AdamWOptions, type DType, type TensorLike } from '../lib/index.js';
import { expectClose, expectSameBits } from './support/bits.js';
import { itUnless, noCuda } from './support/conditions.js';
import { deviceMemory, OddDeviceMemory } from './support/cuda.js';
import { type Environment, environments, inEnvironment, TYPESCRIPT } from './support/environments.js';
import { type FixtureCase, readFixture } from './support/fixtures.js';
import { OddMemory, ownMemory, type Place, valuesIn } from './support/memory.js';
import {
  cloneArrays,
  cloneModel,
  DTYPE_CONFIGS,
  type DTypeConfig,
  expectSameModel,
  type Model,
  makeGrads,
  makeModel,
} from './support/model.js';
import { randomFrom } from './support/random.js';
import { repeated, replay } from './support/replay.js';
import { CALLS, type Call, stepper } from './support/steps.js';
import { quietly } from './support/warnings.js';

const cases = readFixture('mxnet-adamw').optimizer;
const everywhere = environments({ threads: true });

/** MXNet computes float64 with other operations, in another order. */
const RELATIVE = 1e-12;

/** Elements of a step that several threads share: three chunks. */
const SHARED = 48 * 1024;

function expectGolden(
  arrays: readonly TensorLike[],
  golden: readonly string[],
  dtype: DType,
  times: number,
  exact: boolean,
  what: string,
) {
  arrays.forEach((array, i) => {
    const expected = repeated(golden[i], dtype, times);
    const name = `${what}[${i}]`;
    if (exact) expectSameBits(valuesIn(array), expected, name);
    else expectClose(valuesIn(array), expected, (k) => RELATIVE * Math.abs(expected[k]), name);
  });
}

function expectCase(test: FixtureCase, call: Call, place: Place, times = 1): void {
  const exact = test.bitExact === true;
  replay(test, { call, place, times }, ({ weights, states }, golden, t) => {
    const at = `${test.name}, step ${t}`;
    const stateDType = golden.masters ? 'float32' : test.dtype;
    const expectArrays = (name: string, arrays: readonly TensorLike[], texts: string[] | null, dtype: DType) => {
      if (!texts) throw new Error(`no golden ${name} of ${at}`);
      expectGolden(arrays, texts, dtype, times, exact, `${at}, ${name}`);
    };
    expectArrays('weights', weights, golden.weights, test.dtype);
    expectArrays(
      'means',
      states.map(({ mean }) => mean),
      golden.means,
      stateDType,
    );
    expectArrays(
      'variances',
      states.map(({ variance }) => variance),
      golden.variances,
      stateDType,
    );
    const masters = states.flatMap(({ master }) => master ?? []);
    expect(masters.length, `masters of ${at}`).to.equal(golden.masters?.length ?? 0);
    if (golden.masters) expectArrays('masters', masters, golden.masters, 'float32');
  });
}

/** Puts special values (zeros, NaN, infinities, subnormals) into a few random places. */
function sprinkle(arrays: readonly TensorLike[], random: () => number): void {
  const specials = [0, -0, NaN, Infinity, -Infinity, 1e-45, -1e-40, 3e38, 1e-20];
  const halves = [0, 0x8000, 0x7e01, 0x7fff, 0x7c00, 0xff80, 1, 0x8001, 0x7bff];
  for (const array of arrays) {
    const values = valuesIn(array);
    const pool = values instanceof Uint16Array ? halves : specials;
    for (let k = 0; k < values.length / 50; k++) {
      values[Math.floor(random() * values.length)] = pool[Math.floor(random() * pool.length)];
    }
  }
}

/** For each dtype configuration small tensors, and one large enough to be divided among threads. */
const LARGE: readonly (readonly [DTypeConfig, number])[] = DTYPE_CONFIGS.flatMap((config, i) => [
  [config, 7 + i] as const,
  [config, 34_567 + i] as const,
  [config, i % 2] as const,
  [config, 4096] as const,
]);

const SETTINGS: readonly { readonly name: string; readonly options: AdamWOptions }[] = [
  { name: 'mxnet', options: { learningRate: 0.01, wd: 0.01, clipGradient: 2, rescaleGrad: 0.7 } },
  { name: 'coupled', options: { learningRate: 0.01, wd: 0.1, correctBias: false, coupledWeightDecay: true } },
  { name: 'pytorch', options: { learningRate: 0.01, wd: 0.1, rule: 'pytorch', clipGradient: 5 } },
];

/** The same model and gradients for all environments. */
function prepareLarge(): { model: Model; grads: TensorLike[][] } {
  const random = randomFrom(2020);
  const model = makeModel(LARGE, random);
  const grads = [makeGrads(model, random), makeGrads(model, random)];
  sprinkle(grads[1], random);
  return { model, grads };
}

type Large = ReturnType<typeof prepareLarge>;

function runLarge(start: Large, options: AdamWOptions, call: Call, place: Place): Model {
  const model = cloneModel(start.model, place);
  const optimizer = new AdamW({ ...options, aggregateNum: 5, seed: 7 });
  optimizer.setLrMult({ 1: 0.5, 6: 2 });
  optimizer.setWdMult({ 2: 0, 9: 3 });
  const step = stepper(optimizer, model, call);
  for (const grads of start.grads) {
    const { skipped } = quietly(() => step(cloneArrays(grads, place)));
    expect(skipped).to.equal(false);
  }
  return model;
}

describe("MXNet's results", () => {
  it('should be in the fixture', () => {
    expect(cases.length).to.equal(36);
    expect(cases.filter(({ bitExact }) => bitExact).length).to.equal(34);
    expect(new Set(cases.map(({ dtype }) => dtype))).to.deep.equal(new Set(['float16', 'float32', 'float64']));
    expect(everywhere.length).to.be.at.least(1);
  });

  for (const environment of everywhere) {
    for (const call of CALLS) {
      it(`should be matched by ${call}: ${environment.name}`, () => {
        inEnvironment(environment, () => {
          for (const test of cases) expectCase(test, call, ownMemory);
        });
      });
    }

    // The golden tensors are small: alone they would all be updated on the calling thread.
    it(`should be matched with arrays that threads share: ${environment.name}`, () => {
      inEnvironment(environment, () => {
        for (const test of cases) {
          const elements = test.shapes.reduce((sum, shape) => sum + shape.reduce((a, b) => a * b, 1), 0);
          expectCase(test, 'fusedStep()', ownMemory, Math.ceil(SHARED / elements));
        }
      });
    });

    it(`should be matched with arrays at odd offsets: ${environment.name}`, () => {
      inEnvironment(environment, () => {
        for (const call of CALLS) {
          for (const test of cases) {
            const memory = new OddMemory();
            expectCase(test, call, memory.place);
            memory.expectIntact();
          }
        }
      });
    });
  }
});

describe("MXNet's results on a GPU", () => {
  for (const call of CALLS) {
    itUnless(noCuda, `should be matched by ${call}`, () => {
      for (const test of cases) expectCase(test, call, deviceMemory);
    });

    itUnless(noCuda, `should be matched by ${call} at addresses that are not aligned`, () => {
      for (const test of cases) expectCase(test, call, new OddDeviceMemory().place);
    });
  }
});

describe('A list of large and small tensors of all dtypes', () => {
  const total = LARGE.reduce((sum, [, length]) => sum + length, 0);
  const reference: Environment = TYPESCRIPT;

  for (const { name, options } of SETTINGS) {
    describe(name, () => {
      let start: Large;
      let expected: Model;

      before(() => {
        expect(total).to.be.above(100_000);
        start = prepareLarge();
        expected = inEnvironment(reference, () => runLarge(start, options, 'fusedStep()', ownMemory));
      });

      for (const environment of everywhere) {
        it(`should have the same bits as in TypeScript: ${environment.name}`, () => {
          inEnvironment(environment, () => {
            const calls = environment.backend === 'native' ? CALLS : (['step()'] as const);
            for (const call of calls) {
              expectSameModel(runLarge(start, options, call, ownMemory), expected, `${call}, own memory`);
            }
            if (environment.backend === 'native') {
              const memory = new OddMemory();
              expectSameModel(runLarge(start, options, 'fusedStep()', memory.place), expected, 'odd offsets');
              memory.expectIntact();
            }
          });
        });
      }

      itUnless(noCuda, 'should have the same bits as in TypeScript: a GPU', () => {
        for (const call of CALLS) {
          expectSameModel(runLarge(start, options, call, deviceMemory), expected, `${call}, memory of Tensors`);
        }
        const { place } = new OddDeviceMemory();
        expectSameModel(runLarge(start, options, 'fusedStep()', place), expected, 'odd addresses');
      });
    });
  }
});
