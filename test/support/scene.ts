/** An optimizer with its tensors, and snapshots that show whether a call has changed anything. */
import { expect } from 'chai';
import { AdamW, type AdamWOptions, type AdamWState, type DType, Tensor, type TensorLike } from '../../lib/index.js';
import { bytesOf } from './buffers.js';
import { configOf, makeArguments, type StepArguments } from './model.js';
import { randomFrom } from './random.js';

/** The arguments of a step, in which tests replace something by an invalid value. */
export interface Lists {
  indices: unknown[];
  weights: unknown[];
  grads: unknown[];
  states: Record<string, unknown>[];
}

/** Valid arguments of a step, all of them Tensors. */
interface GoodLists extends StepArguments {
  readonly weights: Tensor[];
  readonly grads: Tensor[];
  readonly states: { mean: Tensor; variance: Tensor; master?: Tensor }[];
}

export const LENGTH = 5;

export class Scene {
  readonly optimizer: AdamW;
  readonly good: GoodLists;

  constructor(size = 1, dtype: DType = 'float32', options: AdamWOptions = {}) {
    const { multiPrecision = false } = options;
    this.optimizer = new AdamW(options);
    this.good = makeArguments(
      Array.from({ length: size }, () => [configOf(dtype, multiPrecision), LENGTH]),
      randomFrom(size),
    ) as GoodLists;
  }

  /** Copies of the lists, which a test may change. */
  lists(): Lists {
    const { indices, weights, grads, states } = this.good;
    return {
      indices: [...indices],
      weights: [...weights],
      grads: [...grads],
      states: states.map((state) => ({ ...state })),
    };
  }

  goodStep(): void {
    const { indices, weights, grads, states } = this.good;
    this.optimizer.fusedStep(indices, weights, grads, states as AdamWState[]);
  }

  /** The values of its arrays, and its count. */
  values(): unknown {
    const { optimizer, good } = this;
    const { weights, grads, states } = good;
    const arrays = [weights, grads, states.flatMap((state) => Object.values(state) as Tensor[])];
    return { arrays: arrays.map((list) => list.map(({ data }) => [...data])), numUpdate: optimizer.numUpdate };
  }

  /** All bytes of the buffers behind its arrays and other values, and its counts. */
  snapshot(...others: unknown[]): unknown {
    const { optimizer, good } = this;
    return {
      bytes: [...buffersOf([good, others])].map((buffer) => bytesOf(buffer)),
      counts: good.indices.map((index) => optimizer.updateCount(index)),
      numUpdate: optimizer.numUpdate,
    };
  }
}

/** All buffers that a value refers to. */
function buffersOf(value: unknown, found = new Set<ArrayBufferLike>(), seen = new Set<unknown>()) {
  if (typeof value !== 'object' || value === null || seen.has(value)) return found;
  seen.add(value);
  if (value instanceof Tensor) {
    if (!value.disposed) buffersOf(value.data, found, seen);
  } else if (ArrayBuffer.isView(value)) {
    found.add(value.buffer);
  } else {
    for (const entry of Object.values(value)) buffersOf(entry, found, seen);
  }
  return found;
}

/** A tensor of zeros, as long as those of a scene. */
export function zeros(dtype: DType): Tensor {
  return Tensor.zeros(LENGTH, { dtype });
}

/** Float32Arrays over one buffer that start at these elements. */
export function viewsAt(buffer: ArrayBufferLike, ...starts: number[]): Float32Array[] {
  return starts.map((start) => new Float32Array(buffer, 4 * start, LENGTH));
}

/** The arrays of one tensor in the caller's memory, which can be detached. */
export interface CallersTensor {
  readonly arrays: Record<string, Float32Array | Uint16Array>;
  readonly state: AdamWState;
}

export function callersTensor(hasMaster: boolean): CallersTensor {
  const values = (start: number): Float32Array => Float32Array.from({ length: LENGTH }, (_, k) => 1 / (start + k));
  const half = (): Uint16Array => new Uint16Array(LENGTH).fill(0x3c00);
  const state = { mean: values(4), variance: values(5) };
  if (!hasMaster) return { arrays: { weight: values(2), grad: values(3), ...state }, state };
  const withMaster = { ...state, master: values(6) };
  return { arrays: { weight: half(), grad: half(), ...withMaster }, state: withMaster };
}

/** Such an array as an argument of a step. */
export function likeTensor(array: Float32Array | Uint16Array): TensorLike {
  return array instanceof Uint16Array ? Tensor.from(array, { dtype: 'float16' }) : array;
}

/** Asserts that an error left nothing behind: the next valid step has the same result as in a twin without the error. */
export function expectGoodStep(scene: Scene, twin: Scene, what: string): void {
  scene.goodStep();
  twin.goodStep();
  expect(scene.values(), `${what}: a good step afterwards`).to.deep.equal(twin.values());
}
