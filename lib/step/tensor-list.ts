/**
 * The validated tensors of a step, made once and kept from step to step.
 *
 * Everything that can be wrong with an array is found and worded here, before
 * anything is written.
 */

import { layoutIndex, type Rule } from '../backend/abi.js';
import type { BackendBinding, HostBackend, Overlap, Role, TensorLists } from '../backend/backend.js';
import { cudaBackend } from '../backend/cuda.js';
import type { DeviceMemory } from '../backend/cuda-addon.js';
import { outOfRangeIn, wrongKind, wrongKindIn } from '../errors.js';
import { type DType, isHalf, type Storage } from '../numerics/dtype.js';
import {
  detached,
  typedArrayBuffer,
  typedArrayByteLength,
  typedArrayByteOffset,
  typedArrayLength,
} from '../numerics/typed-arrays.js';
import { ordinalOf, type ResolvedDevice } from '../tensor/device.js';
import {
  deviceOf,
  disposalCount,
  dtypeOf,
  lengthOf,
  type Memory,
  memoryOf,
  type Named,
  nameOf,
  Tensor,
  type TensorLike,
} from '../tensor/tensor.js';

/** A list of arrays, which stays as it is while it is bound, and what its elements are called in messages. */
export interface NamedList extends Named {
  readonly values: readonly (TensorLike | undefined)[];
}

export interface BindingLists {
  readonly weights: NamedList;
  readonly means: NamedList;
  readonly variances: NamedList;
  readonly masters: NamedList;
}

/** A list whose arrays stay bound: memory that native code has the addresses of. */
class BoundList implements NamedList {
  readonly name: string;
  readonly field: string | undefined;
  readonly values: readonly (TensorLike | undefined)[];
  readonly memories: readonly (Memory | undefined)[];
  /** Those of the host, which may be detached behind our back. */
  readonly #storages: readonly (Storage | undefined)[];
  /** From the second look on: of each buffer the array that ends last, which is there while the others are. */
  #probes: readonly Storage[] | null = null;
  #looks = 0;

  constructor({ name, field, values }: NamedList, memories: readonly (Memory | undefined)[]) {
    this.name = name;
    this.field = field;
    this.values = values;
    this.memories = memories;
    const isOfHost = (memory: Memory | undefined): memory is Storage => ArrayBuffer.isView(memory);
    this.#storages = memories.every(isOfHost)
      ? memories
      : memories.map((memory) => (isOfHost(memory) ? memory : undefined));
  }

  /** @throws RangeError where memory is no longer there */
  checkStorages(lengths: readonly number[]): void {
    if (this.#probes && areThere(this.#probes)) return;
    const storages = this.#storages;
    for (let i = 0; i < storages.length; i++) {
      const storage = storages[i];
      if (storage !== undefined && storage[lengths[i] - 1] === undefined && lengths[i] > 0) {
        throw detached(nameOf(this, i));
      }
    }
    if (++this.#looks === 2) this.#probes = probesOf(storages);
  }

  /** @throws RangeError where a Tensor was disposed of */
  checkDisposed(): void {
    this.values.forEach((value, i) => {
      if (value instanceof Tensor && value.disposed) {
        throw outOfRangeIn('a live Tensor', nameOf(this, i), 'one that was disposed of');
      }
    });
  }
}

/** The tensors on one device: a step of them runs there. */
export interface Part {
  readonly device: ResolvedDevice;
  /** Their places in the lists, in order. */
  readonly places: readonly number[];
}

interface BoundPart extends Part {
  readonly binding: BackendBinding<Memory>;
}

export class Binding {
  readonly size: number;
  /** Whether any tensor is updated in float32, or in float64. */
  readonly usesFloat32: boolean;
  readonly usesFloat64: boolean;
  /** Whether any half-precision weight is updated without a master. */
  readonly hasBareHalf: boolean;

  readonly #parts: readonly BoundPart[];
  readonly #devices: ResolvedDevice[];
  readonly #dtypes: DType[];
  readonly #lengths: number[];
  readonly #lists: Readonly<Record<Exclude<Role, 'grad'>, BoundList>>;
  #grads: BoundList | null = null;
  #disposals = disposalCount();

  /**
   * @param backend for the tensors on the CPU
   * @param keys of the tensors, for stochastic rounding
   * @param stream for the tensors on a GPU
   * @throws TypeError for arrays of the wrong kind or dtype, RangeError for
   *   lengths that differ, memory that cannot be used, and the arrays of a
   *   tensor on different devices
   */
  constructor(backend: HostBackend, rule: Rule, lists: BindingLists, keys: Uint32Array, stream: bigint) {
    const { weights, means, variances, masters } = lists;
    const size = weights.values.length;
    const layouts = new Uint8Array(size);
    const bound = {
      weights: new Array<Memory>(size),
      means: new Array<Memory>(size),
      variances: new Array<Memory>(size),
      masters: new Array<Memory | undefined>(size).fill(undefined),
    };
    const devices = new Array<ResolvedDevice>(size);
    const dtypes = new Array<DType>(size);
    const lengths = new Array<number>(size);
    let hasBareHalf = false;
    for (let i = 0; i < size; i++) {
      const hasMaster = (masters.values[i] ?? null) !== null;
      const dtype = dtypeOf(weights.values[i], weights, i);
      const stateDType = dtypeOf(means.values[i], means, i);
      const layout = layoutIndex(dtype, stateDType, hasMaster);
      if (layout < 0) throw wrongLayout(lists, i, dtype, stateDType, hasMaster);
      checkDType(variances, i, stateDType);
      const device = deviceOf(weights.values[i] as TensorLike);
      const weight = memoryOf(weights.values[i] as TensorLike, weights, i);
      const length = lengthOf(weight, dtype);
      bound.weights[i] = weight;
      bound.means[i] = memoryLike(means, i, device, stateDType, length);
      bound.variances[i] = memoryLike(variances, i, device, stateDType, length);
      if (hasMaster) {
        checkDType(masters, i, 'float32');
        bound.masters[i] = memoryLike(masters, i, device, 'float32', length);
      }
      layouts[i] = layout;
      devices[i] = device;
      dtypes[i] = dtype;
      lengths[i] = length;
      hasBareHalf ||= isHalf(dtype) && !hasMaster;
    }
    this.size = size;
    this.usesFloat64 = dtypes.includes('float64');
    this.usesFloat32 = dtypes.some((dtype) => dtype !== 'float64');
    this.hasBareHalf = hasBareHalf;
    this.#dtypes = dtypes;
    this.#lengths = lengths;
    this.#devices = devices;
    this.#lists = {
      weight: new BoundList(weights, bound.weights),
      mean: new BoundList(means, bound.means),
      variance: new BoundList(variances, bound.variances),
      master: new BoundList(masters, bound.masters),
    };
    const everything = { rule, layouts, keys, ...bound };
    const parts: BoundPart[] = [];
    this.#parts = parts;
    try {
      for (const part of partsOf(devices)) {
        const { device, places } = part;
        const ofPart = places.length === size ? everything : pickLists(everything, places);
        parts.push({ ...part, binding: createBinding(backend, device, stream, ofPart) });
      }
    } catch (error) {
      this.dispose();
      throw error;
    }
  }

  /** The tensors by device. */
  get parts(): readonly Part[] {
    return this.#parts;
  }

  /**
   * Takes other gradients, one for each weight and like it.
   *
   * @throws as the constructor, and RangeError where two arrays share memory of
   *   which one is written; then the last gradients stay
   */
  setGrads(list: NamedList): void {
    const memories = new Array<Memory>(this.size);
    for (let i = 0; i < this.size; i++) {
      const dtype = this.#dtypes[i];
      checkDType(list, i, dtype);
      memories[i] = memoryLike(list, i, this.#devices[i], dtype, this.#lengths[i]);
    }
    this.#parts.forEach((part, k) => {
      const overlap = part.binding.setGrads(this.#pick(memories, part));
      if (!overlap) return;
      this.#restoreGrads(this.#parts.slice(0, k));
      throw this.#shared(overlap, part, list);
    });
    this.#grads = new BoundList(list, memories);
  }

  /** The group of each tensor, and the array that holds the scalars of all later steps (abi.ts). */
  setGroups(groupOf: Uint32Array, scalars: Float64Array): void {
    for (const { places, binding } of this.#parts) {
      const ofPart = places.length === this.size ? groupOf : Uint32Array.from(places, (i) => groupOf[i]);
      binding.setGroups(ofPart, scalars);
    }
  }

  /** @throws RangeError where memory was disposed of, detached or resized since it was bound */
  checkMemory(): void {
    const { weight, mean, variance, master } = this.#lists;
    weight.checkStorages(this.#lengths);
    mean.checkStorages(this.#lengths);
    variance.checkStorages(this.#lengths);
    master.checkStorages(this.#lengths);
    this.#grads?.checkStorages(this.#lengths);
    if (this.#disposals === disposalCount()) return;
    for (const list of [weight, mean, variance, master]) list.checkDisposed();
    this.#grads?.checkDisposed();
    this.#disposals = disposalCount();
  }

  /** Does what may fail of a step, before any of it has changed anything; checkMemory() comes before. */
  begin(): void {
    for (const { binding } of this.#parts) binding.begin?.();
  }

  /** Updates all tensors in place, so many in one native call; begin() comes before. */
  step(aggregateNum: number): void {
    for (const { places, binding } of this.#parts) {
      for (let first = 0; first < places.length; first += aggregateNum) {
        binding.step(first, Math.min(places.length, first + aggregateNum));
      }
    }
  }

  /** Frees native memory at once: garbage collection alone would wait for the event loop. */
  dispose(): void {
    for (const { binding } of this.#parts) binding.dispose();
  }

  #pick(memories: readonly Memory[], { places }: Part): readonly Memory[] {
    return places.length === this.size ? memories : places.map((i) => memories[i]);
  }

  /** Gives parts their last gradients again. */
  #restoreGrads(parts: readonly BoundPart[]): void {
    if (!this.#grads) return;
    for (const part of parts) {
      try {
        part.binding.setGrads(this.#pick(this.#grads.memories as readonly Memory[], part));
      } catch {
        // They are gone, which checkMemory() tells before the next step.
      }
    }
  }

  #shared({ written, writtenTensor, other, otherTensor }: Overlap, { places }: Part, grads: NamedList): RangeError {
    const lists: Record<Role, NamedList> = { ...this.#lists, grad: grads };
    const a = nameOf(lists[written], places[writtenTensor]);
    const b = nameOf(lists[other], places[otherTensor]);
    return outOfRangeIn('memory of its own', a, `memory shared with ${b}`);
  }
}

/** The memory of element i of a list, which must lie on a device and have `length` elements. */
function memoryLike(list: NamedList, i: number, device: ResolvedDevice, dtype: DType, length: number): Memory {
  const value = list.values[i] as TensorLike;
  const memory = memoryOf(value, list, i);
  if (deviceOf(value) !== device) {
    throw outOfRangeIn(`memory on ${device}, as of the weight,`, nameOf(list, i), `memory on ${deviceOf(value)}`);
  }
  const actual = lengthOf(memory, dtype);
  if (actual !== length) throw outOfRangeIn(`length ${length}`, nameOf(list, i), `length ${actual}`);
  return memory;
}

/** The places of the tensors on each device. */
function partsOf(devices: readonly ResolvedDevice[]): Part[] {
  const places = new Map<ResolvedDevice, number[]>();
  devices.forEach((device, i) => {
    const known = places.get(device);
    if (known) known.push(i);
    else places.set(device, [i]);
  });
  return [...places].map(([device, ofDevice]) => ({ device, places: ofDevice }));
}

function pickLists(lists: TensorLists<Memory>, places: readonly number[]): TensorLists<Memory> {
  return {
    rule: lists.rule,
    layouts: Uint8Array.from(places, (i) => lists.layouts[i]),
    keys: Uint32Array.from(places, (i) => lists.keys[i]),
    weights: places.map((i) => lists.weights[i]),
    means: places.map((i) => lists.means[i]),
    variances: places.map((i) => lists.variances[i]),
    masters: places.map((i) => lists.masters[i]),
  };
}

/** The binding of tensors that all lie on one device. */
function createBinding(
  backend: HostBackend,
  device: ResolvedDevice,
  stream: bigint,
  lists: TensorLists<Memory>,
): BackendBinding<Memory> {
  return device === 'cpu'
    ? backend.createBinding(lists as TensorLists<Storage>)
    : cudaBackend(ordinalOf(device), stream).createBinding(lists as TensorLists<DeviceMemory>);
}

/**
 * Whether memory was neither detached nor shrunk. An element that is read is the
 * engine's own, whatever a subclass says, and undefined once the memory is gone.
 */
function areThere(probes: readonly Storage[]): boolean {
  for (let i = 0; i < probes.length; i++) {
    const probe = probes[i];
    if (probe[0] === undefined) return false;
  }
  return true;
}

/** The last element of each buffer that arrays lie in; null where that saves little. */
function probesOf(storages: readonly (Storage | undefined)[]): Storage[] | null {
  const lasts = new Map<ArrayBufferLike, { storage: Storage; end: number }>();
  for (const storage of storages) {
    if (storage === undefined || typedArrayLength(storage) === 0) continue;
    const buffer = typedArrayBuffer(storage);
    const end = typedArrayByteOffset(storage) + typedArrayByteLength(storage);
    const last = lasts.get(buffer);
    if (last === undefined || last.end < end) lasts.set(buffer, { storage, end });
  }
  if (lasts.size > storages.length / 2 && storages.length > 1) return null;
  return [...lasts].map(([buffer, { end }]) => new Uint16Array(buffer, end - 2, 1));
}

function checkDType(list: NamedList, i: number, expected: DType): void {
  const dtype = dtypeOf(list.values[i], list, i);
  if (dtype !== expected) throw wrongKindIn(expected, nameOf(list, i), dtype);
}

function wrongLayout(lists: BindingLists, i: number, weight: DType, state: DType, hasMaster: boolean): TypeError {
  if (hasMaster && !isHalf(weight)) {
    return wrongKind(`no master beside a ${weight} weight`, nameOf(lists.masters, i), lists.masters.values[i]);
  }
  const expected = hasMaster ? 'float32' : isHalf(weight) ? `${weight} or float32` : weight;
  return wrongKindIn(expected, nameOf(lists.means, i), state);
}
