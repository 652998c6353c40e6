/**
 * The validated tensors of a step, made once and kept from step to step.
 *
 * Everything that can be wrong with an array is found and worded here, before
 * anything is written.
 */
import type { Backend, BackendBinding, Overlap, Role } from './backend/backend.js';
import { layoutIndex, type Rule } from './backend/layout.js';
import { type DType, isHalf, type Storage } from './dtype.js';
import { outOfRangeIn, wrongKind, wrongKindIn } from './errors.js';
import { detached, typedArrayLength } from './memory.js';
import { disposalCount, dtypeOf, type Named, nameOf, storageOf, Tensor, type TensorLike } from './tensor.js';

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
interface BoundList extends NamedList {
  readonly storages: (Storage | undefined)[];
}

export class Binding {
  readonly size: number;
  /** Whether any tensor is updated in float32, or in float64. */
  readonly usesFloat32: boolean;
  readonly usesFloat64: boolean;
  /** Whether any half-precision weight is updated without a master. */
  readonly hasBareHalf: boolean;

  readonly #binding: BackendBinding;
  readonly #dtypes: DType[];
  readonly #lengths: number[];
  readonly #lists: Readonly<Record<Exclude<Role, 'grad'>, BoundList>>;
  #grads: BoundList | null = null;
  #disposals = disposalCount();

  /**
   * @param keys of the tensors, for stochastic rounding
   * @throws TypeError for arrays of the wrong kind or dtype, RangeError for
   *   lengths that differ and memory that cannot be used
   */
  constructor(backend: Backend, rule: Rule, lists: BindingLists, keys: Uint32Array) {
    const { weights, means, variances, masters } = lists;
    const size = weights.values.length;
    const layouts = new Uint8Array(size);
    const bound = {
      weights: new Array<Storage>(size),
      means: new Array<Storage>(size),
      variances: new Array<Storage>(size),
      masters: new Array<Storage | undefined>(size).fill(undefined),
    };
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
      const weight = storageOf(weights.values[i] as TensorLike, weights, i);
      const length = typedArrayLength(weight);
      bound.weights[i] = weight;
      bound.means[i] = storageOfLength(means, i, length);
      bound.variances[i] = storageOfLength(variances, i, length);
      if (hasMaster) {
        checkDType(masters, i, 'float32');
        bound.masters[i] = storageOfLength(masters, i, length);
      }
      layouts[i] = layout;
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
    this.#lists = {
      weight: { ...weights, storages: bound.weights },
      mean: { ...means, storages: bound.means },
      variance: { ...variances, storages: bound.variances },
      master: { ...masters, storages: bound.masters },
    };
    this.#binding = backend.createBinding({ rule, layouts, keys, ...bound });
  }

  /**
   * Takes other gradients, one for each weight and like it.
   *
   * @throws as the constructor, and RangeError where two arrays share memory of
   *   which one is written; then the last gradients stay
   */
  setGrads(list: NamedList): void {
    const storages = new Array<Storage>(this.size);
    for (let i = 0; i < this.size; i++) {
      checkDType(list, i, this.#dtypes[i]);
      storages[i] = storageOfLength(list, i, this.#lengths[i]);
    }
    const overlap = this.#binding.setGrads(storages);
    if (overlap) throw this.#shared(overlap, list);
    this.#grads = { ...list, storages };
  }

  setGroups(groupOf: Uint32Array, scalars: Float64Array): void {
    this.#binding.setGroups(groupOf, scalars);
  }

  /** @throws RangeError where memory was disposed of, detached or resized since it was bound */
  checkMemory(): void {
    for (const list of this.#boundLists()) checkStorages(list, this.#lengths);
    if (this.#disposals === disposalCount()) return;
    for (const list of this.#boundLists()) checkDisposed(list);
    this.#disposals = disposalCount();
  }

  /** Updates tensors [first, last) in place; checkMemory() comes before. */
  step(first: number, last: number): void {
    this.#binding.step(first, last);
  }

  /** Frees native memory at once: garbage collection alone would wait for the event loop. */
  dispose(): void {
    this.#binding.dispose();
  }

  #boundLists(): BoundList[] {
    const { weight, mean, variance, master } = this.#lists;
    return [weight, mean, variance, master, ...(this.#grads ? [this.#grads] : [])];
  }

  #shared({ written, writtenTensor, other, otherTensor }: Overlap, grads: NamedList): RangeError {
    const lists: Record<Role, NamedList> = { ...this.#lists, grad: grads };
    const a = nameOf(lists[written], writtenTensor);
    const b = nameOf(lists[other], otherTensor);
    return outOfRangeIn('memory of its own', a, `memory shared with ${b}`);
  }
}

/** The memory of element i of a list, which must have `length` elements. */
function storageOfLength(list: NamedList, i: number, length: number): Storage {
  const storage = storageOf(list.values[i] as TensorLike, list, i);
  const actual = typedArrayLength(storage);
  if (actual !== length) throw outOfRangeIn(`length ${length}`, nameOf(list, i), `length ${actual}`);
  return storage;
}

/** An element that is read is the engine's own, whatever a subclass says, and is undefined once the memory is gone. */
function checkStorages(list: BoundList, lengths: readonly number[]): void {
  const { storages } = list;
  for (let i = 0; i < storages.length; i++) {
    const storage = storages[i];
    if (storage !== undefined && storage[lengths[i] - 1] === undefined && lengths[i] > 0) {
      throw detached(nameOf(list, i));
    }
  }
}

function checkDisposed(list: BoundList): void {
  list.values.forEach((value, i) => {
    if (value instanceof Tensor && value.disposed) {
      throw outOfRangeIn('a live Tensor', nameOf(list, i), 'one that was disposed of');
    }
  });
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
