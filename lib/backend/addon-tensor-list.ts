/** The tensors of a step, kept by the addon: in memory of the host or of a GPU. */
import type { Storage } from '../numerics/dtype.js';
import { RULES } from './abi.js';
import { type BackendTensorList, type Memory, type Overlap, overlapOf, type TensorArrays } from './backend.js';
import type { DeviceMemory } from './cuda-addon.js';

/** Stands for memory of the host where the addon is given the number of a GPU. */
const HOST = -1;

/** What native/node/tensor-list-object.cc exports. */
export type AddonTensorListClass = new (
  device: number,
  stream: bigint,
  rule: number,
  configs: Uint8Array,
  keys: Uint32Array,
  lists: readonly (readonly (Memory | undefined)[] | undefined)[],
) => AddonObject;

interface AddonObject {
  setGrads(grads: readonly Memory[]): [number, number, number, number] | null;
  setGroups(groupOf: Uint32Array, scalars: Float64Array): void;
  begin(): void;
  step(first: number, last: number): void;
  dispose(): void;
}

class AddonTensorList<M extends Memory> implements BackendTensorList<M> {
  readonly #object: AddonObject;
  readonly #isOnHost: boolean;

  constructor(Class: AddonTensorListClass, device: number, stream: bigint, arrays: TensorArrays<M>) {
    const { rule, configs, keys, lists } = arrays;
    this.#isOnHost = device === HOST;
    this.#object = new Class(device, stream, RULES.indexOf(rule), configs, keys, lists);
  }

  setGrads(grads: readonly M[]): Overlap | null {
    return overlapOf(this.#object.setGrads(grads));
  }

  setGroups(groupOf: Uint32Array, scalars: Float64Array): void {
    this.#object.setGroups(groupOf, scalars);
  }

  begin(): void {
    if (!this.#isOnHost) this.#object.begin(); // on the host nothing may fail, and a call of native code has its cost
  }

  step(first: number, last: number): void {
    this.#object.step(first, last);
  }

  dispose(): void {
    this.#object.dispose();
  }
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
