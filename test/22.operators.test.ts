import { expect } from 'chai';
import {
  AdamW,
  type AdamWState,
  type MultiAdamwUpdateOptions,
  multiAdamwUpdate,
  Tensor,
  type TensorLike,
} from '../lib/index.js';
import { expectClose, expectSameBits } from './support/bits.js';
import { environments, inEnvironment } from './support/environments.js';
import { itRefuses } from './support/errors.js';
import { tensorOf, valuesIn } from './support/memory.js';
import {
  cloneModel,
  DTYPE_CONFIGS,
  type DTypeConfig,
  dtypesOf,
  makeArguments,
  makeGrads,
  makeModel,
  remember,
} from './support/model.js';
import { randomFrom } from './support/random.js';
import { CALLS, DONE, SKIPPED, stepper } from './support/steps.js';
import { quietly } from './support/warnings.js';

/** Those of MXNet's operators, which know no AMSGrad. */
const CONFIGS = DTYPE_CONFIGS.filter((config) => !dtypesOf(config).hasMaximum);

/** Half a unit in the last place of a number near 1: the relative error of one rounding. */
const ROUNDING = { float16: 2 ** -11, bfloat16: 2 ** -8, float32: 2 ** -24, float64: 2 ** -53 };
/** Half the distance between subnormal numbers: the least that one rounding may cost. */
const TINIEST = { float16: 2 ** -25, bfloat16: 2 ** -134, float32: 2 ** -150, float64: 0 };

/** No result below takes more roundings than this, those of the scalars included. */
const ROUNDINGS = 8;

interface Point {
  readonly w: number;
  readonly m: number;
  readonly v: number;
}

/**
 * One element by the formula, in float64, and a bound on the error of a result
 * whose operations are each rounded with relative error u: to first order, the
 * formula's sensitivity to its inputs, times ROUNDINGS roundings of each.
 *
 * beta2 * (v - q) + q cancels: its error is that of v and q, not of the result.
 */
function reference(
  { w, m, v }: Point,
  grad: number,
  options: MultiAdamwUpdateOptions,
  i: number,
  u: number,
): { result: Point; bound: Point } {
  const { beta1 = 0.9, beta2 = 0.999, epsilon = 1e-8, rescaleGrad = 1, clipGradient } = options;
  const eta = options.etas[i];
  const lr = options.lrs[i];
  const wd = options.wds[i];
  const clip = clipGradient ?? Infinity;
  const g = Math.max(-clip, Math.min(clip, rescaleGrad * grad));
  const mean = beta1 * m + (1 - beta1) * g;
  const variance = beta2 * v + (1 - beta2) * g ** 2;
  const ratio = (lr * mean) / (Math.sqrt(variance) + epsilon);
  const weight = w - eta * (ratio + wd * w);

  const ofMean = ROUNDINGS * u * (Math.abs(m) + Math.abs(g));
  const ofVariance = ROUNDINGS * u * (v + g ** 2);
  const root = Math.sqrt(variance);
  const ofRoot = root > 0 ? Math.min(root, ofVariance / root) : Math.sqrt(ofVariance);
  const ofRatio = (lr * ofMean + Math.abs(ratio) * ofRoot) / (root + epsilon);
  const ofStep = eta * (ofRatio + ROUNDINGS * u * (Math.abs(ratio) + Math.abs(wd * w)));
  return {
    result: { w: weight, m: mean, v: variance },
    bound: { w: ofStep + u * Math.abs(weight), m: ofMean, v: ofVariance },
  };
}

describe('multiAdamwUpdate', () => {
  const sets: readonly { name: string; options: Partial<MultiAdamwUpdateOptions> }[] = [
    { name: 'defaults', options: {} },
    { name: 'rescaled', options: { rescaleGrad: 0.7, epsilon: 1e-3 } },
    { name: 'clipped', options: { clipGradient: 0.3, beta1: 0.5, beta2: 0.8 } },
    { name: 'zero betas', options: { beta1: 0, beta2: 0, epsilon: 1e-6 } },
  ];

  function expectByFormula(
    config: DTypeConfig,
    size: number,
    set: Partial<MultiAdamwUpdateOptions>,
    seed: number,
  ): void {
    const random = randomFrom(seed);
    const { dtype, stateDType, hasMaster } = dtypesOf(config);
    const lengths = Array.from({ length: size }, (_, i) => 1 + ((i * 37) % 100));
    const { weights, grads, states } = makeArguments(
      lengths.map((length) => [config, length]),
      random,
    );
    const options: MultiAdamwUpdateOptions = {
      ...set,
      etas: lengths.map(() => random()),
      lrs: lengths.map(() => 0.1 * random()),
      wds: lengths.map(() => 0.1 * random()),
      masters: hasMaster ? states.map(({ master }) => master as TensorLike) : undefined,
    };
    // The reference is rounded as well, which matters in float64.
    const u = dtype === 'float64' ? 2 * ROUNDING.float64 : ROUNDING.float32;
    const expected = weights.map((weight, i) => {
      const { mean, variance, master } = states[i];
      const [w, g, m, v] = [master ?? weight, grads[i], mean, variance].map((array) => tensorOf(array).toArray());
      return Array.from(w, (_, k) => reference({ w: w[k], m: m[k], v: v[k] }, g[k], options, i, u));
    });
    const means = states.map(({ mean }) => mean);
    const variances = states.map(({ variance }) => variance);

    expect(multiAdamwUpdate(weights, grads, means, variances, options)).to.deep.equal(DONE);

    weights.forEach((weight, i) => {
      const expectArray = (array: TensorLike, key: keyof Point, roundings: number, name: string) => {
        const stored = tensorOf(array).dtype;
        // A result is rounded again only where it is stored in fewer bits than it was computed in.
        const again = stored === 'float16' || stored === 'bfloat16' ? roundings : 0;
        const results = expected[i].map(({ result }) => result[key]);
        const bound = (k: number) =>
          expected[i][k].bound[key] + Math.max(again * ROUNDING[stored] * Math.abs(results[k]), TINIEST[stored]);
        expectClose(tensorOf(array).toArray(), results, bound, `${name}[${i}]`);
      };
      const { mean, variance, master } = states[i];
      if (master) {
        expectArray(master, 'w', 1, 'masters');
        const roundedMaster = Tensor.zeros(lengths[i], { dtype }).set(tensorOf(master).toArray());
        expectSameBits(valuesIn(weight), roundedMaster.data, `weights[${i}], the rounded master`);
      } else {
        expectArray(weight, 'w', 1.01, 'weights');
      }
      expectArray(mean, 'm', 1.01, 'means');
      // Stochastic rounding goes to either neighbour, so its error is up to twice that of rounding to nearest.
      expectArray(variance, 'v', stateDType === 'bfloat16' ? 2.02 : 1.01, 'variances');
    });
  }

  for (const environment of environments()) {
    for (const config of CONFIGS) {
      it(`should update 1 to 6 tensors by the formula: ${config}, ${environment.name}`, () => {
        inEnvironment(environment, () => {
          for (let size = 1; size <= 6; size++) {
            sets.forEach(({ options }, k) => {
              expectByFormula(config, size, options, 10 * size + k);
            });
          }
        });
      });
    }
  }

  it('should update different dtypes in one call, with and without masters', () => {
    const random = randomFrom(4);
    const model = makeModel(
      CONFIGS.map((config, i) => [config, 10 + i]),
      random,
    );
    const grads = makeGrads(model, random);
    const optimizer = new AdamW({ correctBias: false, learningRate: 0.1, wd: 0.01, epsilon: 1e-8 });
    const { indices, weights, states } = model;
    const copy = cloneModel(model);
    const all = CONFIGS.map(() => 1);
    const result = multiAdamwUpdate(
      copy.weights,
      grads,
      copy.states.map(({ mean }) => mean),
      copy.states.map(({ variance }) => variance),
      {
        etas: all.map(() => 0.1),
        lrs: all,
        wds: all.map(() => 0.01),
        masters: copy.states.map(({ master }) => master as TensorLike),
      },
    );
    expect(result).to.deep.equal(DONE);
    quietly(() => optimizer.fusedStep(indices, weights, grads, states));
    weights.forEach((weight, i) => {
      expectSameBits(valuesIn(copy.weights[i]), valuesIn(weight), `weights[${i}]`);
      const { mean, master } = states[i];
      const { mean: copyOfMean, master: copyOfMaster } = copy.states[i];
      expectSameBits(valuesIn(copyOfMean), valuesIn(mean), `means[${i}]`);
      if (master && copyOfMaster) expectSameBits(valuesIn(copyOfMaster), valuesIn(master), `masters[${i}]`);
    });
  });

  it('should accept tensors of length 0 and empty lists', () => {
    const none: Float32Array[] = [];
    expect(multiAdamwUpdate(none, none, none, none, { etas: [], lrs: [], wds: [] })).to.deep.equal(DONE);
    const empty = [new Float32Array(0)];
    expect(multiAdamwUpdate(empty, empty, empty, empty, { etas: [1], lrs: [1], wds: [0] })).to.deep.equal(DONE);
  });

  const one = (value = 1) => [Float32Array.of(value)];
  const wide = () => [Float64Array.of(1)];
  const halves = () => [Tensor.zeros(1, { dtype: 'float16' })];
  const lists = { etas: [0.1], lrs: [1], wds: [0] };
  const update = (options: object) => multiAdamwUpdate(one(), one(), one(), one(), { ...lists, ...options });
  itRefuses([
    [
      'weights that are not a list',
      () => multiAdamwUpdate(one()[0] as never, one(), one(), one(), lists),
      TypeError,
      'Expected a list for weights but received a Float32Array',
    ],
    [
      'no options',
      () => multiAdamwUpdate(one(), one(), one(), one(), null as never),
      TypeError,
      'Expected an object for options but received null',
    ],
    [
      'gradients that are not a list',
      () => multiAdamwUpdate(one(), one()[0] as never, one(), one(), lists),
      TypeError,
      'Expected a list, as of weights, for grads but received a Float32Array',
    ],
    [
      'too many means',
      () => multiAdamwUpdate(one(), one(), [...one(), ...one()], one(), lists),
      RangeError,
      'Expected a list of length 1 for means but received one of length 2',
    ],
    [
      'too few etas',
      () => update({ etas: [] }),
      RangeError,
      'Expected a list of length 1 for etas but received one of length 0',
    ],
    [
      'lrs that are not a list',
      () => update({ lrs: 0.1 }),
      TypeError,
      'Expected a list, as of weights, for lrs but received 0.1',
    ],
    [
      'no wds',
      () => update({ wds: undefined }),
      TypeError,
      'Expected a list, as of weights, for wds but received undefined',
    ],
    [
      'a negative eta',
      () => update({ etas: [-1] }),
      RangeError,
      'Expected a finite number of at least 0 for etas[0] but received -1',
    ],
    [
      'an lr that float32 cannot hold',
      () => update({ lrs: [1e39] }),
      RangeError,
      'Expected a number that float32 can hold for lrs[0] but received 1e+39',
    ],
    [
      'a wd of the wrong kind',
      () => update({ wds: ['0'] }),
      TypeError,
      'Expected a finite number of at least 0 for wds[0] but received "0"',
    ],
    ['beta1 of 1', () => update({ beta1: 1 }), RangeError, 'Expected a number in [0, 1) for beta1 but received 1'],
    [
      'beta2 of 1 in float64',
      () => multiAdamwUpdate(wide(), wide(), wide(), wide(), { ...lists, beta2: 1 }),
      RangeError,
      'Expected a number in [0, 1) for beta2 but received 1',
    ],
    [
      'beta2 that is 1 in float32',
      () => update({ beta2: 1 - 1e-12 }),
      RangeError,
      'Expected less than 1 in float32 for beta2 but received 0.999999999999',
    ],
    [
      'a clipGradient of 0',
      () => update({ clipGradient: 0 }),
      RangeError,
      'Expected a positive number, or null for none, for clipGradient but received 0',
    ],
    [
      'a negative clipGradient',
      () => update({ clipGradient: -1 }),
      RangeError,
      'Expected a positive number, or null for none, for clipGradient but received -1',
    ],
    [
      'a clipGradient that is 0 in float32',
      () => update({ clipGradient: 1e-60 }),
      RangeError,
      'Expected a positive number in float32 for clipGradient but received 1e-60',
    ],
    [
      'a rescaleGrad of the wrong kind',
      () => update({ rescaleGrad: '1' }),
      TypeError,
      'Expected a number for rescaleGrad but received "1"',
    ],
    [
      'a seed above 32 bits',
      () => update({ seed: 2 ** 32 }),
      RangeError,
      'Expected a whole number below 2**32 for seed but received 4294967296',
    ],
    [
      'a fractional updateCount',
      () => update({ updateCount: 1.5 }),
      RangeError,
      'Expected an integer of at least 0 for updateCount but received 1.5',
    ],
    [
      'gradients of another dtype',
      () => multiAdamwUpdate(one(), wide(), one(), one(), lists),
      TypeError,
      'Expected float32 or float16 or bfloat16 for grads[0] but received float64',
    ],
    [
      'means of another dtype',
      () => multiAdamwUpdate(one(), one(), wide(), one(), lists),
      TypeError,
      'Expected float32 or bfloat16 for means[0] but received float64',
    ],
    [
      'variances of another length',
      () => multiAdamwUpdate(one(), one(), one(), [new Float32Array(2)], lists),
      RangeError,
      'Expected length 1 for variances[0] but received length 2',
    ],
    [
      'masters of another dtype',
      () => multiAdamwUpdate(halves(), halves(), one(), one(), { ...lists, masters: wide() }),
      TypeError,
      'Expected float32 for masters[0] but received float64',
    ],
    [
      'a master of a float32 weight',
      () => update({ masters: one() }),
      TypeError,
      'Expected no master beside a float32 weight for masters[0] but received a Float32Array',
    ],
    [
      'a weight that is its own gradient',
      () => {
        const weights = one();
        multiAdamwUpdate(weights, weights, one(), one(), lists);
      },
      RangeError,
      'Expected memory of its own for weights[0] but received memory shared with grads[0]',
    ],
  ]);
});

describe('An update that is skipped', () => {
  const bad = [NaN, Infinity, -Infinity, 0, -0];
  /** Values that round to 0 or to an infinity in float32 but not in float64. */
  const badInFloat32 = [1e-60, -1e-60, 2 ** -150, 1e60, -1e60, 3.4028235677973366e38];
  const good = [1, -1, 2 ** -149, 3.4028235677973362e38, 0.5];

  for (const environment of environments()) {
    for (const call of CALLS) {
      it(`should leave weights, states and counts unchanged: ${call}, ${environment.name}`, () => {
        inEnvironment(environment, () => {
          const random = randomFrom(22);
          const model = makeModel(
            DTYPE_CONFIGS.map((config, i) => [config, 20 + i]),
            random,
          );
          const grads = makeGrads(model, random);
          const optimizer = new AdamW({ learningRate: 0.1, wd: 0.1, beginNumUpdate: 3 });
          const step = stepper(optimizer, model, call);
          expect(quietly(() => step(grads))).to.deep.equal(DONE);
          const expectKept = remember(model);
          // Decided once for all tensors of a call, so float64 tensors are skipped with the others.
          for (const rescaleGrad of [...bad, ...badInFloat32]) {
            optimizer.rescaleGrad = rescaleGrad;
            expect(
              quietly(() => step(grads)),
              `rescaleGrad ${rescaleGrad}`,
            ).to.deep.equal(SKIPPED);
            expectKept(`rescaleGrad ${rescaleGrad}`);
            expect(optimizer.numUpdate).to.equal(4);
            expect(model.indices.map((index) => optimizer.updateCount(index))).to.deep.equal(
              model.indices.map(() => 4),
            );
          }
          optimizer.rescaleGrad = 1;
          expect(quietly(() => step(grads))).to.deep.equal(DONE);
          expect(optimizer.numUpdate).to.equal(5);
        });
      });
    }

    it(`should be decided after rounding to the arithmetic type: ${environment.name}`, () => {
      inEnvironment(environment, () => {
        const run = (config: DTypeConfig, rescaleGrad: number) => {
          const model = makeModel([[config, 3]], randomFrom(1));
          const optimizer = new AdamW({ rescaleGrad });
          return quietly(() =>
            optimizer.update(model.indices, model.weights, makeGrads(model, randomFrom(2)), model.states),
          );
        };
        for (const config of DTYPE_CONFIGS) {
          const narrow = dtypesOf(config).dtype !== 'float64';
          for (const value of bad) expect(run(config, value), `${config}, ${value}`).to.deep.equal(SKIPPED);
          for (const value of badInFloat32) {
            expect(run(config, value), `${config}, ${value}`).to.deep.equal(narrow ? SKIPPED : DONE);
          }
          for (const value of good) expect(run(config, value), `${config}, ${value}`).to.deep.equal(DONE);
        }
      });
    });

    it(`should be skipped by multiAdamwUpdate as well: ${environment.name}`, () => {
      inEnvironment(environment, () => {
        const lists = { etas: [0.1, 0.1], lrs: [1, 1], wds: [0.1, 0.1] };
        for (const config of CONFIGS) {
          const model = makeModel(
            [
              [config, 5],
              [config, 9],
            ],
            randomFrom(3),
          );
          const { weights, states } = model;
          const { hasMaster } = dtypesOf(config);
          const part = (key: keyof AdamWState) => states.map((state) => state[key] as TensorLike);
          const update = (rescaleGrad: number) =>
            multiAdamwUpdate(weights, makeGrads(model, randomFrom(4)), part('mean'), part('variance'), {
              ...lists,
              rescaleGrad,
              masters: hasMaster ? part('master') : undefined,
            });
          const expectKept = remember(model);
          for (const value of config === 'float64' ? bad : [...bad, ...badInFloat32]) {
            expect(update(value), `${config}, ${value}`).to.deep.equal(SKIPPED);
            expectKept(`${config}, ${value}`);
          }
          expect(update(1)).to.deep.equal(DONE);
          expect(() => expectKept('after an update')).to.throw();
        }
      });
    });
  }
});

describe('The dtype configurations of a step', () => {
  it('should all be tested', () => {
    expect([...DTYPE_CONFIGS]).to.have.lengthOf(21);
  });
});
