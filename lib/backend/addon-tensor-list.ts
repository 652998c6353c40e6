/** The tensors of a step, kept by the addon: in memory of the host or of a GPU. */
import type { Storage } from '../numerics/dtype.js';
import { RULES } from './abi.js';
import {
  type BackendTensorList,
  type Memory,
  type Overlap,
  overlapOf,
  type SumsOfSquares,
  type TensorArrays,
} from './backend.js';
import type { DeviceMemory } from './cuda-addon.js';

/** Stands for memory of the host where the addon is given the number of a GPU. */
const HOST = -1;

/** What native/node/tensor-list-object.cc exports. */
export type AddonTensorListClass = new () => AddonObject;

interface AddonObject {
  assign(
    device: number,
    stream: bigint,
    rule: number,
    configs: Uint8Array,
    keys: Uint32Array,
    lists: readonly (readonly (Memory | undefined)[] | undefined)[],
  ): void;
  setGrads(grads: readonly Storage[] | Uint32Array): [number, number, number, number] | null;
  setGroups(groupOf: Uint32Array, scalars: Float64Array): void;
  begin(): void;
  decide(candidates: Float64Array, decision: Float64Array, scale: DeviceMemory | undefined): void;
  isDecided(number: number): boolean;
  readDecision(number: number, to: Float64Array): void;
  step(first: number, last: number): void;
  sumsOfSquares(sums: Float64Array): boolean;
  zeroGrads(): void;
  startStep(): Promise<void>;
  startSumsOfSquares(): Promise<SumsOfSquares>;
  dispose(): void;
}

/**
 * Objects that are free to be used again: the finalizer of one that was dropped
 * waits for the event loop, which a loop of synchronous steps never gets to.
 */
const free: AddonObject[] = [];
const MOST_FREE = 64;

class AddonTensorList<M extends Memory> implements BackendTensorList<M> {
  #object: AddonObject | null;
  readonly #isOnHost: boolean;

  constructor(Class: AddonTensorListClass, device: number, stream: bigint, arrays: TensorArrays<M>) {
    const { rule, configs, keys, lists } = arrays;
    this.#isOnHost = device === HOST;
    const object = free.pop() ?? new Class();
    this.#object = object;
    try {
      object.assign(device, stream, RULES.indexOf(rule), configs, keys, lists);
    } catch (error) {
      this.dispose();
      throw error;
    }
  }

  setGrads(grads: readonly M[]): Overlap | null {
    const list = this.#isOnHost ? (grads as readonly Storage[]) : slotsOf(grads as readonly DeviceMemory[]);
    return overlapOf(this.#live.setGrads(list));
  }

  setGroups(groupOf: Uint32Array, scalars: Float64Array): void {
    this.#live.setGroups(groupOf, scalars);
  }

  begin(): void {
    if (!this.#isOnHost) this.#live.begin(); // on the host nothing may fail, and a call of native code has its cost
  }

  decide(candidates: Float64Array, decision: Float64Array, scale: DeviceMemory | undefined): void {
    this.#live.decide(candidates, decision, scale);
  }

  isDecided(number: number): boolean {
    return this.#live.isDecided(number);
  }

  readDecision(number: number, to: Float64Array): void {
    this.#live.readDecision(number, to);
  }

  step(first: number, last: number): void {
    this.#live.step(first, last);
  }

  sumsOfSquares(sums: Float64Array): boolean {
    return this.#live.sumsOfSquares(sums);
  }

  zeroGrads(): void {
    this.#live.zeroGrads();
  }

  startStep(): Promise<void> {
    return this.#live.startStep();
  }

  startSumsOfSquares(): Promise<SumsOfSquares> {
    return this.#live.startSumsOfSquares();
  }

  dispose(): void {
    const object = this.#object;
    if (object === null) return;
    this.#object = null; // before anything else, so that nothing has it twice
    try {
      object.dispose();
    } catch {
      return; // frees its memory as garbage then
    }
    if (free.length < MOST_FREE) free.push(object);
  }

  get #live(): AddonObject {
    if (this.#object === null) throw new Error('Expected tensors that were not disposed of');
    return this.#object;
  }
}

/** What stands for memories of a GPU: lists of numbers are read much faster than lists of objects. */
function slotsOf(memories: readonly DeviceMemory[]): Uint32Array {
  const slots = new Uint32Array(memories.length);
  for (let i = 0; i < memories.length; i++) slots[i] = memories[i].slot;
  return slots;
}

export function hostTensorList(Class: AddonTensorListClass, arrays: TensorArrays<Storage>): BackendTensorList<Storage> {
  return new AddonTensorList(Class, HOST, 0n, arrays);
}

/**
 * @param device number of a GPU
 * @param stream a CUstream or cudaStream_t of its primary context; 0 is the legacy default stream
 */
export function cudaTensorList(
  Class: AddonTensorListClass,
  device: number,
  stream: bigint,
  arrays: TensorArrays<DeviceMemory>,
): BackendTensorList<DeviceMemory> {
  return new AddonTensorList(Class, device, stream, arrays);
}
