/**
 * The tensors of a step, validated once and kept from step to step.
 *
 * Whatever can be wrong with an array is found and reported here, before anything
 * is written.
 */
import { DTYPE_CONFIGS, type DTypeConfig, type EveryRole, ROLES, type Role, type Rule } from '../backend/abi.js';
import { cudaTensorList } from '../backend/addon-tensor-list.js';
import type {
  Arrays,
  BackendTensorList,
  HostBackend,
  Memory,
  Overlap,
  SumsOfSquares,
  TensorArrays,
} from '../backend/backend.js';
import { cudaTensorListClass } from '../backend/cuda.js';
import type { DeviceMemory } from '../backend/cuda-addon.js';
import { findShared } from '../backend/overlaps.js';
import { addProgress } from '../backend/scalar-table.js';
import { type Named, nameOf, outOfRangeIn, wrongKind, wrongKindIn } from '../errors.js';
import { filledList } from '../lists.js';
import { type DType, isHalf, type Storage } from '../numerics/dtype.js';
import { ordinalOf, type ResolvedDevice } from '../tensor/device.js';
import { type Access, isAllIdle, take } from '../tensor/in-flight.js';
import { disposalCount } from '../tensor/tensor.js';
import { dtypeOf, type ResolvedTensor, resolve, type TensorLike } from '../tensor/tensor-like.js';
import { BoundArrays } from './bound-arrays.js';

/** A list of arrays, which is not changed while it is in use, and what its elements are called in messages. */
export interface NamedList extends Named {
  readonly values: readonly (TensorLike | undefined)[];
}

/** The arrays of a step, by role. Gradients may be replaced by setGrads(), the others stay. */
export type StepLists = Readonly<Record<EveryRole, NamedList>> & Readonly<Partial<Record<Role, NamedList>>>;

/** The tensors on one device: a step of them runs there. */
export interface DevicePartition {
  readonly device: ResolvedDevice;
  /** Their positions in the lists, in order. */
  readonly positions: readonly number[];
}

interface BackendPartition extends DevicePartition {
  readonly tensors: BackendTensorList;
}

const [WEIGHT, GRAD, MEAN] = (['weight', 'grad', 'mean'] as const).map((role) =>
  ROLES.findIndex(({ name }) => name === role),
);

/** By configuration and by role: reading a property of many names takes longer than an element. */
const DTYPES = DTYPE_CONFIGS.map((config: DTypeConfig) => ROLES.map(({ name }) => config[name]));

export class TensorList {
  readonly size: number;
  /** Whether any tensor is updated in float32, or in float64. */
  readonly usesFloat32: boolean;
  readonly usesFloat64: boolean;
  /** Whether any tensor is on a GPU. */
  readonly usesDevice: boolean;

  readonly #configs: readonly DTypeConfig[];
  readonly #devices: readonly ResolvedDevice[];
  readonly #lengths: readonly number[];
  readonly #partitions: BackendPartition[] = [];
  /** As of setGroups(). */
  #scalars: Float64Array = new Float64Array(0);
  /** In the order of ROLES; the last gradients among them. */
  readonly #arrays: (BoundArrays | undefined)[];
  /** Whether every backend has the gradients that #arrays has. */
  #hasAllGrads = true;
  #disposals = disposalCount();
  /** Whether no two gradients share memory; null where nobody has looked. */
  #hasDistinctGrads: boolean | null = null;
  /** As of decide(). */
  #settle: (() => void) | null = null;
  /** The sums of the squares of each gradient, by position. */
  #sums: Float64Array | null = null;

  /**
   * @param backend for the tensors on the CPU
   * @param keys of the tensors, for stochastic rounding
   * @param stream for the tensors on a GPU
   * @throws TypeError for arrays of the wrong kind or dtype, RangeError for
   *   lengths that differ, memory that cannot be used, the arrays of a tensor
   *   on different devices, and two arrays that share memory of which one is
   *   written
   */
  constructor(backend: HostBackend, rule: Rule, lists: StepLists, keys: Uint32Array, stream: bigint) {
    const size = lists.weight.values.length;
    const configs = new Uint8Array(size);
    const devices = filledList<ResolvedDevice>(size, 'cpu');
    const lengths = filledList(size, 0);
    const listOf = ROLES.map(({ name }) => lists[name]);
    const memories = listOf.map((list) => list && filledList<Memory | undefined>(size, undefined));
    for (let i = 0; i < size; i++) {
      const weight = resolve(lists.weight.values[i], lists.weight, i);
      const mean = resolve(lists.mean.values[i], lists.mean, i);
      configs[i] = configOf(lists, i, weight.dtype, mean.dtype);
      devices[i] = weight.device;
      lengths[i] = weight.length;
      const dtypes = DTYPES[configs[i]];
      for (let role = 0; role < dtypes.length; role++) {
        const dtype = dtypes[role];
        const list = listOf[role];
        if (role === GRAD || dtype === undefined || list === undefined) continue;
        const array = role === WEIGHT ? weight : role === MEAN ? mean : resolve(list.values[i], list, i);
        (memories[role] as (Memory | undefined)[])[i] = memoryOf(array, list, i, dtype, weight.device, weight.length);
      }
    }
    const grads = memories[GRAD] as (Memory | undefined)[];
    for (let i = 0; i < size; i++) {
      const grad = resolve(lists.grad.values[i], lists.grad, i);
      const config = withGrad(configs[i], grad.dtype);
      if (config === undefined) throw wrongKindIn(possibleGrads(configs[i]), nameOf(lists.grad, i), grad.dtype);
      configs[i] = config;
      grads[i] = memoryOf(grad, lists.grad, i, grad.dtype, devices[i], lengths[i]);
    }
    this.size = size;
    this.#configs = Array.from(configs, (config) => DTYPE_CONFIGS[config]);
    this.usesFloat64 = this.#configs.some(({ weight }) => weight === 'float64');
    this.usesFloat32 = this.#configs.some(({ weight }) => weight !== 'float64');
    this.usesDevice = devices.some((device) => device !== 'cpu');
    this.#devices = devices;
    this.#lengths = lengths;
    this.#arrays = listOf.map((list, role) => list && new BoundArrays(list, memories[role] as Arrays<Memory>));
    const withoutGrads = memories.map((arrays, role) => (role === GRAD ? undefined : arrays));
    const everything: TensorArrays = { rule, configs, keys, lists: withoutGrads };
    try {
      for (const partition of partitionsOf(devices)) {
        const { device, positions } = partition;
        const arrays = positions.length === size ? everything : pick(everything, positions);
        this.#partitions.push({ ...partition, tensors: createTensorList(backend, device, stream, arrays) });
      }
      this.#takeGrads(lists.grad, this.#arrays[GRAD] as BoundArrays);
    } catch (error) {
      this.dispose();
      throw error;
    }
  }

  /** The dtypes of a tensor's arrays. */
  configAt(i: number): DTypeConfig {
    return this.#configs[i];
  }

  /** The position of the first tensor whose weight has one of these dtypes and no master; -1 if there is none. */
  firstWithoutMaster(dtypes: readonly DType[]): number {
    return this.#configs.findIndex(({ weight, master }) => dtypes.includes(weight) && !master);
  }

  /** The tensors by device. */
  get partitions(): readonly DevicePartition[] {
    return this.#partitions;
  }

  /**
   * Takes other gradients, one for each weight and like those before.
   *
   * @throws as the constructor; then the last gradients stay
   */
  setGrads(list: NamedList): void {
    const memories = filledList<Memory | undefined>(this.size, undefined);
    for (let i = 0; i < this.size; i++) {
      const array = resolve(list.values[i], list, i);
      memories[i] = memoryOf(array, list, i, this.#configs[i].grad, this.#devices[i], this.#lengths[i]);
    }
    this.#takeGrads(list, new BoundArrays(list, memories));
  }

  /** Whether a gradient has another dtype than those that are bound: then its tensor needs another configuration. */
  hasOtherGradDTypes({ values }: NamedList): boolean {
    for (let i = 0; i < this.size; i++) {
      const dtype = dtypeOf(values[i]);
      if (dtype !== undefined && dtype !== this.#configs[i].grad) return true;
    }
    return false;
  }

  /** Gives the backends new gradients, all or none of them. */
  #takeGrads(list: NamedList, grads: BoundArrays): void {
    // Until every backend has them the last ones are those of the next step, which gives them to all again: JavaScript
    // can be interrupted anywhere, and a backend may fail.
    this.#hasAllGrads = false;
    this.#hasDistinctGrads = null;
    for (const partition of this.#partitions) {
      const overlap = partition.tensors.setGrads(this.#pick(grads.memories, partition) as readonly Memory[]);
      if (overlap) throw this.#shared(overlap, partition, list);
    }
    this.#arrays[GRAD] = grads;
    this.#hasAllGrads = true;
  }

  /** The group of each tensor, and the array that holds the scalars of all later steps (scalar-table.ts). */
  setGroups(groupOf: Uint32Array, scalars: Float64Array): void {
    this.#scalars = scalars;
    for (const { positions, tensors } of this.#partitions) {
      const ofPartition = positions.length === this.size ? groupOf : Uint32Array.from(positions, (i) => groupOf[i]);
      tensors.setGroups(ofPartition, scalars);
    }
  }

  /**
   * What checkMemory() needs, and what a setGrads() that failed or was interrupted has left to do.
   *
   * @throws as checkMemory()
   */
  prepareCheck(): void {
    const grads = this.#arrays[GRAD];
    if (!this.#hasAllGrads && grads) {
      this.checkMemory();
      for (const partition of this.#partitions) {
        partition.tensors.setGrads(this.#pick(grads.memories, partition) as readonly Memory[]);
      }
      this.#hasAllGrads = true;
    }
    for (const arrays of this.#arrays) arrays?.prepareCheck(this.#lengths);
  }

  /**
   * prepareCheck() comes before it. From here to the end of step() nothing is called that
   * other code may have replaced (a function of the engine's, an iterator): it could
   * detach memory.
   *
   * @throws RangeError where the memory of an array is gone: detached, or its Tensor disposed of
   */
  checkMemory(): void {
    for (let role = 0; role < ROLES.length; role++) this.#arrays[role]?.checkStorages(this.#lengths);
    if (this.#disposals === disposalCount()) return;
    for (let role = 0; role < ROLES.length; role++) this.#arrays[role]?.checkDisposed();
    this.#disposals = disposalCount();
  }

  /**
   * Whether a step is at liberty to use the arrays.
   *
   * @param zeroGrads whether it writes the gradients
   * @throws RangeError where an asynchronous step uses one of them
   */
  checkIdle(zeroGrads: boolean): void {
    if (isAllIdle()) return;
    this.#arrays.forEach((arrays, role) => {
      arrays?.checkIdle(accessOf(role, zeroGrads));
    });
  }

  /** @throws TypeError for memory that JavaScript could free during an asynchronous step */
  checkStays(): void {
    for (const arrays of this.#arrays) arrays?.checkStays();
  }

  /** Takes the memory of all arrays for an asynchronous step; what is returned gives it back. */
  take(zeroGrads: boolean): () => void {
    const all = this.#arrays.flatMap((arrays, role) =>
      (arrays?.memories ?? []).flatMap((memory) => (memory ? [[memory, accessOf(role, zeroGrads)] as const] : [])),
    );
    return take(all);
  }

  /** Whether startStep() can be called: native code runs, and nothing can take the memory away from it. */
  get canRunBeside(): boolean {
    return (
      !this.usesDevice &&
      this.#partitions.every(({ tensors }) => tensors.startStep !== undefined) &&
      this.#arrays.every((arrays) => arrays?.staysForSure ?? true)
    );
  }

  /** As step(), beside JavaScript; noteStarted() comes after it. */
  async startStep(): Promise<void> {
    for (const { tensors } of this.#partitions) await tensors.startStep?.();
  }

  /** Notes in the scalars that the step that was started is done, as step() does it. */
  noteStarted(): void {
    addProgress(this.#scalars, this.size);
  }

  /** As sumsOfSquares(), beside JavaScript. */
  async startSumsOfSquares(): Promise<SumsOfSquares> {
    return (await this.#partitions[0]?.tensors.startSumsOfSquares?.()) ?? { sums: new Float64Array(0), finite: true };
  }

  /** Does whatever may fail in a step, before anything is changed; checkMemory() comes before it. */
  begin(): void {
    for (let k = 0; k < this.#partitions.length; k++) this.#partitions[k].tensors.begin();
  }

  /** The GPU that decide() can be called for: that of all tensors, of which some have elements; else null. */
  get decidingDevice(): ResolvedDevice | null {
    const [first, ...others] = this.#partitions;
    if (!first || first.device === 'cpu' || others.length > 0) return null;
    return this.#lengths.some((length) => length > 0) ? first.device : null;
  }

  /**
   * In place of begin(), as of a backend.
   *
   * @param settle called before dispose(): waits for all steps that are not resolved
   */
  decide(candidates: Float64Array, decision: Float64Array, scale: DeviceMemory | undefined, settle: () => void): void {
    this.#settle = settle;
    this.#partitions[0].tensors.decide?.(candidates, decision, scale);
  }

  /** As of a backend. */
  isDecided(number: number): boolean {
    return this.#partitions[0].tensors.isDecided?.(number) ?? true;
  }

  /** As of a backend. */
  readDecision(number: number, to: Float64Array): void {
    this.#partitions[0].tensors.readDecision?.(number, to);
  }

  /** Updates all tensors in place, `aggregateNum` in one native call; begin() comes before it. */
  step(aggregateNum: number): void {
    for (let k = 0; k < this.#partitions.length; k++) {
      const { positions, tensors } = this.#partitions[k];
      for (let first = 0; first < positions.length; first += aggregateNum) {
        const last = first + aggregateNum;
        // biome-ignore lint/complexity/useMathMinMax: Math.min may have been replaced
        tensors.step(first, last < positions.length ? last : positions.length);
      }
    }
  }

  /**
   * For gradients that are written.
   *
   * @throws RangeError where two of them share memory
   */
  checkDistinctGrads(): void {
    if (this.#hasDistinctGrads) return;
    const grads = this.#arrays[GRAD] as BoundArrays;
    const overlap = findShared(grads.memories);
    if (overlap) {
      const shared = `memory shared with ${nameOf(grads, overlap.otherTensor)}`;
      throw outOfRangeIn('memory of its own (zeroGrads)', nameOf(grads, overlap.writtenTensor), shared);
    }
    this.#hasDistinctGrads = true;
  }

  /** Clears the gradients. */
  zeroGrads(): void {
    for (let k = 0; k < this.#partitions.length; k++) this.#partitions[k].tensors.zeroGrads();
  }

  /**
   * The sums of the squares of each gradient, in the order of native/core/gradient-norm.h, and whether all elements are
   * finite. Where they are on a GPU this waits for it.
   */
  sumsOfSquares(): SumsOfSquares {
    this.#sums ??= new Float64Array(this.size);
    let finite = true;
    for (let k = 0; k < this.#partitions.length; k++) {
      const { positions, tensors } = this.#partitions[k];
      const sums: Float64Array = positions.length === this.size ? this.#sums : new Float64Array(positions.length);
      if (!tensors.sumsOfSquares(sums)) finite = false;
      if (sums !== this.#sums) for (let j = 0; j < sums.length; j++) this.#sums[positions[j]] = sums[j];
    }
    return { sums: this.#sums, finite };
  }

  /** Frees native memory at once: garbage collection alone would wait for the event loop. */
  dispose(): void {
    try {
      this.#settle?.();
    } finally {
      for (const { tensors } of this.#partitions) tensors.dispose();
    }
  }

  #pick(memories: Arrays<Memory>, { positions }: DevicePartition): Arrays<Memory> {
    return positions.length === this.size ? memories : positions.map((i) => memories[i]);
  }

  #shared(
    { written, writtenTensor, other, otherTensor }: Overlap,
    { positions }: DevicePartition,
    grads: NamedList,
  ): RangeError {
    const listOf = (role: Role): Named =>
      role === 'grad' ? grads : (this.#arrays[ROLES.findIndex(({ name }) => name === role)] as BoundArrays);
    const a = nameOf(listOf(written), positions[writtenTensor]);
    const b = nameOf(listOf(other), positions[otherTensor]);
    return outOfRangeIn('memory of its own', a, `memory shared with ${b}`);
  }
}

function accessOf(role: number, zeroGrads: boolean): Access {
  return ROLES[role].access === 'written' || (role === GRAD && zeroGrads) ? 'written' : 'read';
}

/**
 * A dtype configuration that tensor i may have, by the dtypes of its weight and mean and which further arrays it has. The
 * dtype of its gradient decides between several: withGrad().
 */
function configOf(lists: StepLists, i: number, weight: DType, mean: DType): number {
  const hasMaster = (lists.master?.values[i] ?? null) !== null;
  const hasMaximum = (lists.maximum?.values[i] ?? null) !== null;
  let withoutMaximum: DTypeConfig | undefined;
  for (let k = 0; k < DTYPE_CONFIGS.length; k++) {
    const config: DTypeConfig = DTYPE_CONFIGS[k];
    if (config.weight !== weight || config.mean !== mean || (config.master !== undefined) !== hasMaster) continue;
    if ((config.maximum !== undefined) === hasMaximum) return k;
    withoutMaximum = config;
  }
  if (withoutMaximum) {
    const maximums = lists.maximum as NamedList;
    throw wrongKind(`no greatest variance beside ${mean} states`, nameOf(maximums, i), maximums.values[i]);
  }
  if (hasMaster && !isHalf(weight)) {
    const masters = lists.master as NamedList;
    throw wrongKind(`no master beside a ${weight} weight`, nameOf(masters, i), masters.values[i]);
  }
  const possible = DTYPE_CONFIGS.filter(
    (config: DTypeConfig) => config.weight === weight && (config.master !== undefined) === hasMaster,
  );
  throw wrongKindIn(joined(possible.map((config) => config.mean)), nameOf(lists.mean, i), mean);
}

/** By configuration: those that differ from it in the dtype of the gradient alone, by that. */
const BY_GRAD = DTYPE_CONFIGS.map((config: DTypeConfig) => {
  const byGrad = new Map<DType, number>();
  DTYPE_CONFIGS.forEach((other: DTypeConfig, k) => {
    if (ROLES.every(({ name }) => name === 'grad' || other[name] === config[name])) byGrad.set(other.grad, k);
  });
  return byGrad;
});

/** The configuration with a gradient of that dtype, if there is one. */
function withGrad(config: number, grad: DType): number | undefined {
  return DTYPES[config][GRAD] === grad ? config : BY_GRAD[config].get(grad);
}

function possibleGrads(config: number): string {
  return joined([...BY_GRAD[config].keys()]);
}

function joined(dtypes: readonly DType[]): string {
  return [...new Set(dtypes)].join(' or ');
}

/** The memory of element i of a list, which must have a dtype, and lie on a device and be as long as the weight. */
function memoryOf(
  array: ResolvedTensor,
  list: NamedList,
  i: number,
  dtype: DType,
  device: ResolvedDevice,
  length: number,
): Memory {
  if (array.dtype !== dtype) throw wrongKindIn(dtype, nameOf(list, i), array.dtype);
  if (array.device !== device) {
    throw outOfRangeIn(`memory on ${device}, as of the weight,`, nameOf(list, i), `memory on ${array.device}`);
  }
  if (array.length !== length) throw outOfRangeIn(`length ${length}`, nameOf(list, i), `length ${array.length}`);
  return array.memory;
}

/** The positions of the tensors on each device. */
function partitionsOf(devices: readonly ResolvedDevice[]): DevicePartition[] {
  const positions = new Map<ResolvedDevice, number[]>();
  devices.forEach((device, i) => {
    const known = positions.get(device);
    if (known) known.push(i);
    else positions.set(device, [i]);
  });
  return [...positions].map(([device, ofDevice]) => ({ device, positions: ofDevice }));
}

function pick({ rule, configs, keys, lists }: TensorArrays, positions: readonly number[]): TensorArrays {
  return {
    rule,
    configs: Uint8Array.from(positions, (i) => configs[i]),
    keys: Uint32Array.from(positions, (i) => keys[i]),
    lists: lists.map((arrays) => arrays && positions.map((i) => arrays[i])),
  };
}

/** A backend's list of tensors that are all on one device. */
function createTensorList(
  backend: HostBackend,
  device: ResolvedDevice,
  stream: bigint,
  arrays: TensorArrays,
): BackendTensorList {
  const list =
    device === 'cpu'
      ? backend.createTensorList(arrays as TensorArrays<Storage>)
      : cudaTensorList(cudaTensorListClass(), ordinalOf(device), stream, arrays as TensorArrays<DeviceMemory>);
  return list as BackendTensorList;
}
