/**
 * The fallback: the rule of native/core/adamw.h in TypeScript, bit for bit.
 *
 * Numbers are doubles, so each float32 operation is a double operation rounded
 * by Math.fround. For +, -, x, / and square root that gives the correctly
 * rounded float32 result: a double has more than twice the digits.
 */
import { isHalf, type Storage } from '../numerics/dtype.js';
import { keyOfWeights, randomBits, randomKey, toBfloat16Stochastic } from '../numerics/stochastic-rounding.js';
import { fillZeros, typedArrayLength } from '../numerics/typed-arrays.js';
import { DTYPE_CONFIGS, type DTypeConfig, type EveryRole, ROLES, type Role, type Rule } from './abi.js';
import type { BackendTensorList, HostBackend, Overlap, TensorArrays } from './backend.js';
import { codecOf } from './codec.js';
import { accumulate, sumsOfSquares } from './javascript-gradients.js';
import { findOverlap } from './overlaps.js';
import { addProgress, readGroup, readStep } from './scalar-table.js';

type Round = (value: number) => number;

/** The scalars of a step for one group, each rounded to the arithmetic type. */
interface Scalars {
  rescale: number;
  clip: number;
  beta1: number;
  beta2: number;
  lerp: number;
  oneMinusBeta2: number;
  eta: number;
  lr: number;
  wd: number;
  epsilon: number;
  decay: number;
  root: number;
}

function roundScalars(values: Float64Array, group: number, round: Round): Scalars {
  const { rescale, clip, beta1, beta2 } = readStep(values);
  const { eta, lr, wd, epsilon, root } = readGroup(values, group);
  return {
    rescale: round(rescale),
    clip: round(clip),
    beta1: round(beta1),
    beta2: round(beta2),
    lerp: lerpFactor(beta1, round),
    oneMinusBeta2: round(1 - beta2),
    eta: round(eta),
    lr: round(lr),
    wd: round(wd),
    epsilon: round(epsilon),
    decay: round(1 - lr * wd),
    root: round(root),
  };
}

/** The factor of g - m in torch.lerp(m, g, 1 - beta1): positive if it starts from m. See native/core/adamw.h. */
function lerpFactor(beta1: number, round: Round): number {
  const weight = round(1 - beta1);
  return weight < 0.5 ? weight : weight - 1;
}

/** One element; afterwards its members hold the results. */
interface Element {
  weight: number;
  mean: number;
  variance: number;
  /** The greatest variance so far with AMSGrad; without it -Infinity, so that the variance itself is the greatest. */
  maximum: number;
}

type Update = (e: Element, grad: number, s: Scalars) => void;

/** A NaN is the greatest. */
function greatest(v: number, maximum: number): number {
  // biome-ignore lint/complexity/useMathMinMax: the comparison is the contract's
  return v <= maximum ? maximum : v;
}

/** The rule with every operation rounded by `r`. */
function makeUpdate(rule: Rule, r: Round): Update {
  const prepare = (grad: number, s: Scalars): number => {
    const g = r(s.rescale * grad);
    // biome-ignore lint/complexity/useMathMinMax: the comparisons are the contract's, for NaN and zeros too
    return g > s.clip ? s.clip : g < -s.clip ? -s.clip : g;
  };
  if (rule === 'pytorch') {
    return (e, grad, s) => {
      const g = prepare(grad, s);
      const w = r(e.weight * s.decay);
      const m = r((s.lerp > 0 ? e.mean : g) + r(s.lerp * r(g - e.mean)));
      const v = r(r(s.beta2 * e.variance) + r(r(s.oneMinusBeta2 * g) * g));
      e.maximum = greatest(v, e.maximum);
      e.weight = r(w - r(r(s.eta * m) / r(r(r(Math.sqrt(e.maximum)) / s.root) + s.epsilon)));
      e.mean = m;
      e.variance = v;
    };
  }
  const coupled = rule === 'coupled';
  return (e, grad, s) => {
    let g = prepare(grad, s);
    const w = e.weight;
    if (coupled) g = r(g + r(s.wd * w));
    const m = r(r(s.beta1 * r(e.mean - g)) + g);
    const q = r(g * g);
    const v = r(r(s.beta2 * r(e.variance - q)) + q);
    e.maximum = greatest(v, e.maximum);
    e.weight = r(w - r(s.eta * r(r(r(s.lr * m) / r(r(Math.sqrt(e.maximum)) + s.epsilon)) + r(s.wd * w))));
    e.mean = m;
    e.variance = v;
  };
}

const identity = (value: number): number => value;

/** The arrays of one tensor, by role. */
type ArraysByRole = Readonly<Record<EveryRole, Storage>> & Readonly<Partial<Record<Role, Storage>>>;

class JavascriptTensorList implements BackendTensorList<Storage> {
  readonly #arrays: TensorArrays<Storage>;
  readonly #updateFloat32: Update;
  readonly #updateFloat64: Update;
  #grads: readonly Storage[] = [];
  #groupOf: Uint32Array = new Uint32Array(0);
  #scalars: Float64Array = new Float64Array(0);

  constructor(arrays: TensorArrays<Storage>) {
    this.#arrays = arrays;
    this.#updateFloat32 = makeUpdate(arrays.rule, Math.fround);
    this.#updateFloat64 = makeUpdate(arrays.rule, identity);
  }

  setGrads(grads: readonly Storage[]): Overlap | null {
    const overlap = findOverlap(this.#arrays, grads);
    if (!overlap) this.#grads = grads;
    return overlap;
  }

  setGroups(groupOf: Uint32Array, scalars: Float64Array): void {
    this.#groupOf = groupOf;
    this.#scalars = scalars;
  }

  begin(): void {
    reserveStack(FRAMES);
  }

  step(first: number, last: number): void {
    for (let i = first; i < last; i++) {
      addProgress(this.#scalars, 0.5);
      this.#stepTensor(i);
      if (readStep(this.#scalars).zeroGrads) fillZeros(this.#grads[i]);
      addProgress(this.#scalars, 0.5);
    }
  }

  sumsOfSquares(sums: Float64Array): boolean {
    const { configs } = this.#arrays;
    return sumsOfSquares(this.#grads, (i) => DTYPE_CONFIGS[configs[i]].grad, sums);
  }

  zeroGrads(): void {
    for (let i = 0; i < this.#grads.length; i++) fillZeros(this.#grads[i]);
  }

  dispose(): void {
    this.#grads = [];
  }

  #stepTensor(i: number): void {
    const config: DTypeConfig = DTYPE_CONFIGS[this.#arrays.configs[i]];
    const isFloat64 = config.weight === 'float64';
    const scalars = roundScalars(this.#scalars, this.#groupOf[i], isFloat64 ? identity : Math.fround);
    const update = isFloat64 ? this.#updateFloat64 : this.#updateFloat32;
    const arrays = arraysOf(this.#arrays, this.#grads, i);
    const { weight, grad, mean, variance, master, maximum } = arrays;
    const length = typedArrayLength(weight);
    const e: Element = { weight: 0, mean: 0, variance: 0, maximum: -Infinity };

    if (ROLES.every(({ name }) => (config[name] ?? config.weight) === config.weight) && !isHalf(config.weight)) {
      for (let k = 0; k < length; k++) {
        e.weight = weight[k];
        e.mean = mean[k];
        e.variance = variance[k];
        e.maximum = maximum ? maximum[k] : -Infinity;
        update(e, grad[k], scalars);
        weight[k] = e.weight;
        mean[k] = e.mean;
        variance[k] = e.variance;
        if (maximum) maximum[k] = e.maximum;
      }
      return;
    }

    const weightCodec = codecOf(config.weight);
    const gradCodec = codecOf(config.grad);
    const meanCodec = codecOf(config.mean);
    const varianceCodec = codecOf(config.variance);
    const isStochastic = config.variance === 'bfloat16';
    const isWeightStochastic = readStep(this.#scalars).stochasticWeights && config.weight === 'bfloat16' && !master;
    const { count } = readGroup(this.#scalars, this.#groupOf[i]);
    let key = randomKey(this.#arrays.keys[i], count, 0);
    let weightKey = keyOfWeights(key);
    for (let k = 0; k < length; k++) {
      if (k > 0 && k % 2 ** 32 === 0) {
        key = randomKey(this.#arrays.keys[i], count, k / 2 ** 32);
        weightKey = keyOfWeights(key);
      }
      e.weight = master ? master[k] : weightCodec.read(weight[k]);
      e.mean = meanCodec.read(mean[k]);
      e.variance = varianceCodec.read(variance[k]);
      e.maximum = maximum ? maximum[k] : -Infinity;
      update(e, gradCodec.read(grad[k]), scalars);
      if (master) master[k] = e.weight;
      if (maximum) maximum[k] = e.maximum;
      weight[k] = isWeightStochastic
        ? toBfloat16Stochastic(e.weight, randomBits(weightKey, k))
        : weightCodec.write(e.weight);
      mean[k] = meanCodec.write(e.mean);
      variance[k] = isStochastic
        ? toBfloat16Stochastic(e.variance, randomBits(key, k))
        : varianceCodec.write(e.variance);
    }
  }
}

/** More frames than an update of a tensor needs. */
const FRAMES = 64;

/** Throws the engine's RangeError now if the stack has no room for so many calls, rather than amid an update. */
function reserveStack(frames: number): number {
  return frames === 0 ? 0 : 1 + reserveStack(frames - 1);
}

function arraysOf({ lists }: TensorArrays<Storage>, grads: readonly Storage[], i: number): ArraysByRole {
  const arrays: Partial<Record<Role, Storage>> = {};
  ROLES.forEach(({ name }, role) => {
    arrays[name] = name === 'grad' ? grads[i] : lists[role]?.[i];
  });
  return arrays as ArraysByRole;
}

export const javascriptBackend: HostBackend = {
  name: 'javascript',
  createTensorList: (arrays) => new JavascriptTensorList(arrays),
  sumsOfSquares: (grads, dtypes, sums) => sumsOfSquares(grads, (i) => dtypes[i], sums),
  accumulate,
};
