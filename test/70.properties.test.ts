/** Properties over random lists of tensors: every backend and every way to make a step give the same bits. */
import { expect } from 'chai';
import fc from 'fast-check';
import {
  AdamW,
  type AdamWOptions,
  type AdamWStateTensors,
  type DType,
  type Index,
  multiAdamwUpdate,
  Tensor,
} from '../lib/index.js';
import { expectSameBits, type Values } from './support/bits.js';
import { itUnless, noCuda, noNative } from './support/conditions.js';
import { copyToDevice } from './support/cuda.js';
import { type Environment, environments, inEnvironment, TYPESCRIPT } from './support/environments.js';
import { nearlyExactPower } from './support/exact-power.js';
import { DTYPE_BYTES } from './support/memory.js';
import { DTYPE_CONFIGS, type DTypeConfig, dtypesOf } from './support/model.js';
import { numbersFrom, randomValue } from './support/special-values.js';
import { SKIPPED } from './support/steps.js';
import { withoutWarningOfHalf } from './support/warnings.js';

const STEPS = 3;
const GUARD = 0xa5;

/** One tensor; `gaps` are the elements between the end of an array and the next. */
interface TensorPlan {
  readonly config: DTypeConfig;
  readonly length: number;
  readonly gaps: readonly number[];
}

interface Plan {
  readonly tensors: readonly TensorPlan[];
  /** Seed of the values in all arrays. */
  readonly seed: number;
  readonly shared: boolean;
  readonly options: AdamWOptions;
  readonly lrMult: number;
  readonly wdMult: number;
}

// A step of more than 32,768 elements is spread over threads, in chunks of 16,384.
const length = fc.oneof(
  { weight: 8, arbitrary: fc.nat({ max: 80 }) },
  { weight: 3, arbitrary: fc.integer({ min: 250, max: 530 }) },
  { weight: 3, arbitrary: fc.integer({ min: 15000, max: 34000 }) },
);

const tensorPlan: fc.Arbitrary<TensorPlan> = fc.record({
  config: fc.constantFrom(...DTYPE_CONFIGS),
  length,
  gaps: fc.array(fc.nat({ max: 20 }), { minLength: 6, maxLength: 6 }),
});

const options: fc.Arbitrary<AdamWOptions> = fc
  .record({
    kind: fc.constantFrom('mxnet', 'mxnet', 'pytorch', 'coupled'),
    learningRate: fc.constantFrom(1e-3, 0.1, 0, 3e4, 1e-30),
    correctBias: fc.boolean(),
    beta1: fc.constantFrom(0.9, 0, 0.5, 0.999),
    beta2: fc.constantFrom(0.999, 0, 0.95, 0.5),
    epsilon: fc.constantFrom(1e-6, 1e-8, 0, 1, 1e-42),
    wd: fc.constantFrom(0, 0.01, 0.3),
    rescaleGrad: fc.constantFrom(1, 1 / 3, -128, 2 ** 64, 1e-30),
    clipGradient: fc.constantFrom(null, null, 0.5, 1e-40, 1e30),
    rounding: fc.constantFrom('nearest', 'nearest', 'stochastic'),
    seed: fc.nat({ max: 0xffffffff }),
    beginNumUpdate: fc.constantFrom(0, 0, 7, 100000),
  })
  .map(({ kind, ...rest }) => ({
    ...rest,
    rule: kind === 'pytorch' ? kind : 'mxnet',
    coupledWeightDecay: kind === 'coupled',
    correctBias: rest.correctBias && kind !== 'coupled',
  }));

const plan: fc.Arbitrary<Plan> = fc
  .record({
    tensors: fc.array(tensorPlan, { maxLength: 7 }),
    seed: fc.nat(),
    shared: fc.boolean(),
    options,
    lrMult: fc.constantFrom(1, 0.25),
    wdMult: fc.constantFrom(1, 0),
  })
  .map((made) => {
    const canRound = ({ config }: TensorPlan): boolean =>
      dtypesOf(config).dtype !== 'float16' || dtypesOf(config).hasMaster;
    return made.options.rounding === 'stochastic' ? { ...made, tensors: made.tensors.filter(canRound) } : made;
  });

const POOL = 20011;
const pools = new Map<string, Values>();

/** Values of a dtype, made once because conversions take longer than steps. */
function poolOf(dtype: DType, sign: 'any' | 'positive'): Values {
  const name = `${dtype} ${sign}`;
  let pool = pools.get(name);
  if (!pool) {
    const next = numbersFrom(1);
    // Variances are positive, except for a few.
    const value = (): number => {
      const any = randomValue(next);
      return sign === 'any' || next() % 64 === 0 ? any : Math.abs(any);
    };
    pool = Tensor.zeros(POOL, { dtype }).set(Array.from({ length: POOL }, value)).data as Values;
    pools.set(name, pool);
  }
  return pool;
}

/** Fills an array from the pool, starting at `start` and wrapping around. */
function fill(tensor: Tensor, start: number, sign: 'any' | 'positive' = 'any'): void {
  const pool = poolOf(tensor.dtype, sign);
  for (let at = 0, from = start % POOL; at < tensor.length; from = 0) {
    const part = pool.subarray(from, from + tensor.length - at);
    tensor.data.set(part, at);
    at += part.length;
  }
}

/** All arrays of a plan in one buffer, with guard bytes before, between and after them. */
class Arena {
  readonly weights: Tensor[] = [];
  readonly grads: Tensor[] = [];
  readonly means: Tensor[] = [];
  readonly variances: Tensor[] = [];
  readonly masters: (Tensor | undefined)[] = [];
  readonly maxVariances: (Tensor | undefined)[] = [];
  readonly #next: () => number;
  readonly #bytes: Uint8Array;
  readonly #guards: [number, number][] = [];

  constructor({ tensors, seed, shared }: Plan) {
    this.#next = numbersFrom(seed);
    const size = tensors.reduce((sum, { length, gaps }) => sum + 48 * length + gaps.length * (20 * 8 + 16), 64);
    const buffer = shared ? new SharedArrayBuffer(size) : new ArrayBuffer(size);
    this.#bytes = new Uint8Array(buffer).fill(GUARD);
    let end = 0;
    const place = (dtype: DType, length: number, gap: number, sign?: 'positive'): Tensor => {
      const bytes = DTYPE_BYTES[dtype];
      const byteOffset = (Math.ceil((end + 1) / bytes) + gap) * bytes;
      this.#guards.push([end, byteOffset]);
      end = byteOffset + length * bytes;
      const tensor = Tensor.from(buffer as ArrayBuffer, { dtype, byteOffset, length });
      fill(tensor, this.#next(), sign);
      return tensor;
    };
    for (const { config, length, gaps } of tensors) {
      const { dtype, gradDType, stateDType, hasMaster, hasMaximum } = dtypesOf(config);
      this.weights.push(place(dtype, length, gaps[0]));
      this.grads.push(place(gradDType, length, gaps[1]));
      this.means.push(place(stateDType, length, gaps[2]));
      this.variances.push(place(stateDType, length, gaps[3], 'positive'));
      this.masters.push(hasMaster ? place('float32', length, gaps[4]) : undefined);
      this.maxVariances.push(hasMaximum ? place(stateDType, length, gaps[5], 'positive') : undefined);
    }
    this.#guards.push([end, size]);
  }

  get states(): AdamWStateTensors[] {
    return this.means.map((mean, i) => ({
      mean,
      variance: this.variances[i],
      master: this.masters[i] as Tensor<'float32'> | undefined,
      maxVariance: this.maxVariances[i],
    }));
  }

  /** Writes other values into the same gradients. */
  newGrads(): void {
    for (const grad of this.grads) fill(grad, this.#next());
  }

  expectGuards(): void {
    for (const [begin, end] of this.#guards) {
      for (let at = begin; at < end; at++) if (this.#bytes[at] !== GUARD) expect.fail(`byte ${at} was written to`);
    }
  }

  expectSame(expected: Arena): void {
    const lists = ['weights', 'grads', 'means', 'variances', 'masters', 'maxVariances'] as const;
    for (const list of lists) {
      for (const [i, tensor] of this[list].entries()) {
        const other = expected[list][i];
        if (tensor && other) expectSameBits(tensor.data as Values, other.data as Values, `${list}[${i}]`);
      }
    }
  }
}

/** The arrays of an arena on a GPU; the results of a step are copied back. */
class GpuCopy {
  readonly #arena: Arena;
  readonly #weights: Tensor[];
  readonly #states: AdamWStateTensors[];

  constructor(arena: Arena) {
    this.#arena = arena;
    this.#weights = arena.weights.map(copyToDevice);
    this.#states = arena.states.map(({ mean, variance, master, maxVariance }) => ({
      mean: copyToDevice(mean),
      variance: copyToDevice(variance),
      master: master && (copyToDevice(master) as Tensor<'float32'>),
      maxVariance: maxVariance && copyToDevice(maxVariance),
    }));
  }

  step(optimizer: AdamW, indices: readonly Index[]): void {
    optimizer.fusedStep(indices, this.#weights, this.#arena.grads.map(copyToDevice), this.#states);
    this.#arena.weights.forEach((weight, i) => {
      const { mean, variance, master, maxVariance } = this.#arena.states[i];
      const state = this.#states[i];
      weight.copyFrom(this.#weights[i]);
      mean.copyFrom(state.mean);
      variance.copyFrom(state.variance);
      if (master && state.master) master.copyFrom(state.master);
      if (maxVariance && state.maxVariance) maxVariance.copyFrom(state.maxVariance);
    });
  }
}

/** A way to make a step; `step` counts from 0. */
type Way = (arena: Arena, optimizer: AdamW, indices: readonly Index[], step: number) => void;

const fused: Way = (arena, optimizer, indices) => {
  optimizer.fusedStep(indices, arena.weights, arena.grads, arena.states);
};

/** Runs all steps of a plan in an environment, and asserts that gradients and guard bytes are unchanged. */
function run(plan: Plan, environment: Environment, way: Way = fused, options: AdamWOptions = {}): Arena {
  return inEnvironment(environment, () => {
    const arena = new Arena(plan);
    const optimizer = new AdamW({ ...plan.options, ...options });
    optimizer.setLrMult({ 1: plan.lrMult });
    optimizer.setWdMult({ 2: plan.wdMult });
    const indices = plan.tensors.map((_, i) => i);
    for (let step = 0; step < STEPS; step++) {
      if (step > 0) arena.newGrads();
      const grads = arena.grads.map(({ data }) => data.slice());
      way(arena, optimizer, indices, step);
      arena.grads.forEach(({ data }, i) => {
        expectSameBits(data as Values, grads[i] as Values, `grads[${i}]`);
      });
    }
    arena.expectGuards();
    return arena;
  });
}

const everywhere = environments();
const native = everywhere.filter(({ backend }) => backend === 'native');

const someEnvironment = fc.constantFrom(...everywhere);

describe('properties of a step over random lists', () => {
  withoutWarningOfHalf();

  itUnless(
    noNative,
    'should have the same bits as in TypeScript on every instruction set and number of threads',
    () => {
      fc.assert(
        fc.property(plan, fc.constantFrom(1, 2, 3, 7), (plan, threads) => {
          const expected = run(plan, TYPESCRIPT);
          for (const environment of native) run(plan, { ...environment, threads }).expectSame(expected);
        }),
        { numRuns: 60 },
      );
    },
  );

  const ways: Record<string, Way> = {
    'one tensor at a time': (arena, optimizer, indices) => {
      optimizer.step(indices, arena.weights, arena.grads, arena.states);
    },
    'one call for each tensor, backwards': (arena, optimizer, indices) => {
      for (const i of [...indices].reverse() as number[]) {
        optimizer.fusedStep(i, arena.weights[i], arena.grads[i], arena.states[i]);
      }
    },
    'two calls': (arena, optimizer, indices) => {
      const middle = Math.floor(indices.length / 2);
      for (const part of [indices.slice(0, middle), indices.slice(middle)] as number[][]) {
        optimizer.fusedStep(
          part,
          part.map((i) => arena.weights[i]),
          part.map((i) => arena.grads[i]),
          part.map((i) => arena.states[i]),
        );
      }
    },
    'the tensors in another order': (arena, optimizer, indices) => {
      const order = ([...indices] as number[]).sort((a, b) => ((a * 5 + 3) % 7) - ((b * 5 + 3) % 7));
      optimizer.fusedStep(
        order,
        order.map((i) => arena.weights[i]),
        order.map((i) => arena.grads[i]),
        order.map((i) => arena.states[i]),
      );
    },
    bind: (arena, optimizer, indices) => {
      optimizer.bind(indices, arena.weights, arena.grads, arena.states).step();
    },
    'gradients that are copies': (arena, optimizer, indices) => {
      const grads = arena.grads.map((grad) => Tensor.zeros(grad.length, { dtype: grad.dtype }).copyFrom(grad));
      optimizer.fusedStep(indices, arena.weights, grads, arena.states);
    },
  };
  for (const [name, way] of Object.entries(ways)) {
    it(`should have the same bits with ${name}`, () => {
      fc.assert(
        fc.property(plan, someEnvironment, (plan, environment) => {
          run(plan, environment, way).expectSame(run(plan, environment));
        }),
        { numRuns: 15 },
      );
    });
  }

  itUnless(noCuda, 'should have the same bits on a GPU, at the same addresses modulo 64 bytes', () => {
    fc.assert(
      fc.property(plan, (plan) => {
        let device: GpuCopy | undefined;
        const way: Way = (arena, optimizer, indices) => {
          device ??= new GpuCopy(arena);
          device.step(optimizer, indices);
        };
        run(plan, native[0], way).expectSame(run(plan, TYPESCRIPT));
      }),
      { numRuns: 60 },
    );
  });

  it('should have the same bits with a few tensors a call', () => {
    fc.assert(
      fc.property(plan, someEnvironment, fc.integer({ min: 0, max: 4 }), (plan, environment, aggregateNum) => {
        run(plan, environment, fused, { aggregateNum }).expectSame(run(plan, environment));
      }),
      { numRuns: 15 },
    );
  });

  it('should have the same bits with one bound step for all updates', () => {
    fc.assert(
      fc.property(plan, someEnvironment, (plan, environment) => {
        let bound: { step(): unknown } | undefined;
        const way: Way = (arena, optimizer, indices) => {
          bound ??= optimizer.bind(indices, arena.weights, arena.grads, arena.states);
          bound.step();
        };
        run(plan, environment, way).expectSame(run(plan, environment));
      }),
      { numRuns: 15 },
    );
  });

  it('should have the same bits with multiAdamwUpdate', () => {
    fc.assert(
      fc.property(plan, someEnvironment, (plan, environment) => {
        const { beta1 = 0, beta2 = 0, learningRate, wd = 0, beginNumUpdate = 0, seed } = plan.options;
        const { correctBias, epsilon, rescaleGrad, clipGradient } = plan.options;
        const way: Way = ({ weights, grads, means, variances, masters }, _, indices, step) => {
          const t = beginNumUpdate + step + 1;
          const [root, mean] = correctBias
            ? [Math.sqrt(1 - nearlyExactPower(beta2, t)), 1 - nearlyExactPower(beta1, t)]
            : [1, 1];
          // The operator takes masters for all tensors or for none.
          for (const has of [false, true]) {
            const part = (indices as number[]).filter((i) => (masters[i] !== undefined) === has);
            multiAdamwUpdate(
              part.map((i) => weights[i]),
              part.map((i) => grads[i]),
              part.map((i) => means[i]),
              part.map((i) => variances[i]),
              {
                epsilon,
                rescaleGrad,
                clipGradient,
                beta1,
                beta2,
                etas: part.map((i) => ((learningRate ?? 0) * (i === 1 ? plan.lrMult : 1) * root) / mean),
                lrs: part.map(() => 1),
                wds: part.map((i) => wd * (i === 2 ? plan.wdMult : 1)),
                masters: has ? part.map((i) => masters[i] as Tensor) : undefined,
                seed,
                updateCount: t,
              },
            );
          }
        };
        // Its stochastic rounding depends on the place in the list, so tensors with masters go last.
        const tensors = plan.tensors
          .filter(({ config }) => !dtypesOf(config).hasMaximum) // which the operator does not know
          .sort((a, b) => a.config.indexOf('master') - b.config.indexOf('master'));
        const ordinary = {
          ...plan,
          tensors,
          options: { ...plan.options, rule: 'mxnet', coupledWeightDecay: false, rounding: 'nearest' },
        } as const;
        run(ordinary, environment, way).expectSame(run(ordinary, environment));
      }),
      { numRuns: 20 },
    );
  });

  it('should leave everything unchanged if a step is skipped', () => {
    fc.assert(
      fc.property(
        plan,
        someEnvironment,
        fc.constantFrom(0, -0, NaN, Infinity, 1e-46),
        (plan, environment, rescaleGrad) => {
          const tensors = plan.tensors.map((tensor) => ({ ...tensor, length: tensor.length % 100 }));
          const small = { ...plan, tensors };
          const skips =
            tensors.some(({ config }) => dtypesOf(config).dtype !== 'float64') ||
            !(Math.abs(rescaleGrad) < Infinity) ||
            rescaleGrad === 0;
          const way: Way = (arena, optimizer, indices) => {
            if (!skips) return;
            optimizer.rescaleGrad = rescaleGrad;
            const result = optimizer.fusedStep(indices, arena.weights, arena.grads, arena.states);
            expect(result).to.deep.equal(SKIPPED);
            expect(optimizer.numUpdate).to.equal(plan.options.beginNumUpdate);
          };
          run(small, environment, way).expectSame(run(small, environment, () => {}));
        },
      ),
      { numRuns: 30 },
    );
  });
});
