/**
 * The fallback: the rule of native/core/adamw.h in TypeScript, bit for bit.
 *
 * Numbers are doubles, so each float32 operation is a double operation rounded
 * by Math.fround. For +, -, x, / and square root that gives the correctly
 * rounded float32 result: a double has more than twice the digits.
 */
import type { DType, Storage } from '../numerics/dtype.js';
import { fromBfloat16, fromFloat16, toBfloat16, toFloat16 } from '../numerics/half.js';
import { randomBits, randomKey, toBfloat16Stochastic } from '../numerics/stochastic-rounding.js';
import {
  typedArrayBuffer,
  typedArrayByteLength,
  typedArrayByteOffset,
  typedArrayLength,
} from '../numerics/typed-arrays.js';
import { DTYPE_CONFIGS, type DTypeConfig, type EveryRole, ROLES, type Role, type Rule } from './abi.js';
import type { Arrays, BackendTensorList, HostBackend, Overlap, TensorArrays } from './backend.js';
import { addProgress, readGroup, readStep } from './scalar-table.js';
import { sameMemory } from './shared-memory.js';

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

/** One element; afterwards `weight`, `mean` and `variance` hold the results. */
interface Element {
  weight: number;
  mean: number;
  variance: number;
}

type Update = (e: Element, grad: number, s: Scalars) => void;

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
      e.weight = r(w - r(r(s.eta * m) / r(r(r(Math.sqrt(v)) / s.root) + s.epsilon)));
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
    e.weight = r(w - r(s.eta * r(r(r(s.lr * m) / r(r(Math.sqrt(v)) + s.epsilon)) + r(s.wd * w))));
    e.mean = m;
    e.variance = v;
  };
}

/** How the elements of an array are read and stored. */
interface Codec {
  read(bits: number): number;
  write(value: number): number;
}

const identity = (value: number): number => value;
const PLAIN: Codec = { read: identity, write: identity };
const FLOAT16: Codec = { read: fromFloat16, write: toFloat16 };
const BFLOAT16: Codec = { read: fromBfloat16, write: toBfloat16 };

function codecOf(dtype: DType): Codec {
  return dtype === 'float16' ? FLOAT16 : dtype === 'bfloat16' ? BFLOAT16 : PLAIN;
}

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
      addProgress(this.#scalars, 0.5);
    }
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
    const { weight, grad, mean, variance, master } = arrays;
    const length = typedArrayLength(weight);
    const e: Element = { weight: 0, mean: 0, variance: 0 };

    if (config.name === 'float32' || isFloat64) {
      for (let k = 0; k < length; k++) {
        e.weight = weight[k];
        e.mean = mean[k];
        e.variance = variance[k];
        update(e, grad[k], scalars);
        weight[k] = e.weight;
        mean[k] = e.mean;
        variance[k] = e.variance;
      }
      return;
    }

    const weightCodec = codecOf(config.weight);
    const gradCodec = codecOf(config.grad);
    const meanCodec = codecOf(config.mean);
    const varianceCodec = codecOf(config.variance);
    const isStochastic = config.variance === 'bfloat16';
    const { count } = readGroup(this.#scalars, this.#groupOf[i]);
    let key = randomKey(this.#arrays.keys[i], count, 0);
    for (let k = 0; k < length; k++) {
      if (k > 0 && k % 2 ** 32 === 0) key = randomKey(this.#arrays.keys[i], count, k / 2 ** 32);
      e.weight = master ? master[k] : weightCodec.read(weight[k]);
      e.mean = meanCodec.read(mean[k]);
      e.variance = varianceCodec.read(variance[k]);
      update(e, gradCodec.read(grad[k]), scalars);
      if (master) master[k] = e.weight;
      weight[k] = weightCodec.write(e.weight);
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

interface Range {
  readonly begin: number;
  readonly end: number;
  readonly role: Role;
  readonly tensor: number;
}

/**
 * The first two arrays that share memory of which one is written. Two SharedArrayBuffers may be one memory; that two ArrayBuffers are,
 * which only native code can make, goes unseen here.
 */
function findOverlap({ lists }: TensorArrays<Storage>, grads: readonly Storage[]): Overlap | null {
  const written = new Map<ArrayBufferLike, Range[]>();
  const first = sameMemory(buffersOf([...lists, grads]));
  const memoryOf = (array: Storage): ArrayBufferLike => {
    const buffer = typedArrayBuffer(array);
    return first.get(buffer) ?? buffer;
  };
  const rangeOf = (array: Storage, role: Role, tensor: number): Range => {
    const begin = typedArrayByteOffset(array);
    return { begin, end: begin + typedArrayByteLength(array), role, tensor };
  };
  lists.forEach((arrays, role) => {
    if (ROLES[role].access !== 'written') return;
    arrays?.forEach((array, i) => {
      if (!array || typedArrayLength(array) === 0) return;
      const memory = memoryOf(array);
      const ranges = written.get(memory);
      const range = rangeOf(array, ROLES[role].name, i);
      if (ranges) ranges.push(range);
      else written.set(memory, [range]);
    });
  });
  // Of several overlaps the one that comes first in the lists, as in native/core/tensor-list.cc.
  const overlaps: (readonly [Range, Range])[] = [];
  for (const ranges of written.values()) {
    ranges.sort((a, b) => a.begin - b.begin);
    for (let i = 1; i < ranges.length; i++) {
      if (ranges[i].begin < ranges[i - 1].end) overlaps.push([ranges[i], ranges[i - 1]]);
    }
  }
  const position = ([{ role, tensor }]: readonly [Range, Range]): number =>
    ROLES.findIndex(({ name }) => name === role) * grads.length + tensor;
  overlaps.sort((a, b) => position(a) - position(b));
  if (overlaps.length > 0) return overlapOf(...overlaps[0]);
  for (let i = 0; i < grads.length; i++) {
    if (typedArrayLength(grads[i]) === 0) continue;
    const grad = rangeOf(grads[i], 'grad', i);
    const before = lastBeginningBefore(written.get(memoryOf(grads[i])) ?? [], grad.end);
    if (before && before.end > grad.begin) return overlapOf(before, grad);
  }
  return null;
}

function buffersOf(lists: readonly (Arrays<Storage> | undefined)[]): Set<ArrayBufferLike> {
  const buffers = new Set<ArrayBufferLike>();
  for (const arrays of lists) {
    arrays?.forEach((array) => {
      if (array) buffers.add(typedArrayBuffer(array));
    });
  }
  return buffers;
}

/** The last of sorted ranges that begins before `end`: written ranges do not overlap, so only it can reach that far. */
function lastBeginningBefore(ranges: readonly Range[], end: number): Range | undefined {
  let low = 0;
  let high = ranges.length;
  while (low < high) {
    const middle = (low + high) >>> 1;
    if (ranges[middle].begin < end) low = middle + 1;
    else high = middle;
  }
  return ranges[low - 1];
}

function overlapOf(written: Range, other: Range): Overlap {
  return { written: written.role, writtenTensor: written.tensor, other: other.role, otherTensor: other.tensor };
}

export const javascriptBackend: HostBackend = {
  name: 'javascript',
  createTensorList: (arrays) => new JavascriptTensorList(arrays),
};
