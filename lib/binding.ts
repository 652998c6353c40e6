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
import { disposalCount, dtypeOf, storageOf, Tensor, type TensorLike } from './tensor.js';

/** A list of arrays and what its elements are called in messages. The list stays as it is while it is bound. */
export interface NamedList {
  readonly values: readonly (TensorLike | undefined)[];
  readonly name: (i: number) => string;
}

/** `weights[3]` and the like. */
export function namedList(values: readonly (TensorLike | undefined)[], name: string): NamedList {
  return { values, name: (i) => `${name}[${i}]` };
}

export interface BindingLists {
  readonly weights: NamedList;
  readonly means: NamedList;
  readonly variances: NamedList;
  readonly masters: NamedList;
}

export class Binding {
  readonly size: number;
  /** Whether any tensor is updated in float32, or in float64. */
  readonly usesFloat32: boolean;
  readonly usesFloat64: boolean;
  /** Whether any half-precision weight is updated without a master. */
  readonly hasBareHalf: boolean;

  readonly #binding: BackendBinding;
  readonly #names: Record<Role, (i: number) => string>;
  readonly #dtypes: DType[];
  readonly #lengths: number[];
  /** All memory but the gradients', its names and lengths, in rows of weight, mean, variance and master. */
  readonly #kept: Kept;
  #grads: Kept = new Kept();

  /**
   * @param keys of the tensors, for stochastic rounding
   * @throws TypeError for arrays of the wrong kind or dtype, RangeError for
   *   lengths that differ and memory that cannot be used
   */
  constructor(backend: Backend, rule: Rule, lists: BindingLists, keys: Uint32Array) {
    const { weights, means, variances, masters } = lists;
    const size = weights.values.length;
    const kept = new Kept();
    const layouts = new Uint8Array(size);
    const storages = {
      weights: new Array<Storage>(size),
      means: new Array<Storage>(size),
      variances: new Array<Storage>(size),
      masters: new Array<Storage | undefined>(size),
    };
    const dtypes = new Array<DType>(size);
    const lengths = new Array<number>(size);
    let hasBareHalf = false;
    for (let i = 0; i < size; i++) {
      const master = masters.values[i];
      const hasMaster = master !== undefined && master !== null;
      const dtype = dtypeOf(weights.values[i], weights.name(i));
      const stateDType = dtypeOf(means.values[i], means.name(i));
      const layout = layoutIndex(dtype, stateDType, hasMaster);
      if (layout < 0) throw wrongLayout(lists, i, dtype, stateDType, hasMaster);
      const weight = kept.add(weights, i);
      const length = typedArrayLength(weight);
      checkDType(variances, i, stateDType);
      storages.weights[i] = weight;
      storages.means[i] = kept.add(means, i, length);
      storages.variances[i] = kept.add(variances, i, length);
      if (hasMaster) {
        checkDType(masters, i, 'float32');
        storages.masters[i] = kept.add(masters, i, length);
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
    this.#kept = kept;
    this.#names = {
      weight: weights.name,
      grad: (i) => `grads[${i}]`,
      mean: means.name,
      variance: variances.name,
      master: masters.name,
    };
    this.#binding = backend.createBinding({ rule, layouts, keys, ...storages });
  }

  /**
   * Takes other gradients, one for each weight and like it.
   *
   * @throws as the constructor, and RangeError where two arrays share memory of
   *   which one is written; then the last gradients stay
   */
  setGrads(list: NamedList): void {
    const grads = new Kept();
    for (let i = 0; i < this.size; i++) {
      checkDType(list, i, this.#dtypes[i]);
      grads.add(list, i, this.#lengths[i]);
    }
    this.#binding.setGrads(grads.storages);
    const overlap = this.#binding.findOverlap();
    if (overlap) {
      if (this.#grads.storages.length > 0) this.#binding.setGrads(this.#grads.storages);
      throw this.#shared(overlap);
    }
    this.#grads = grads;
  }

  setGroups(groupOf: Uint32Array, scalars: Float64Array): void {
    this.#binding.setGroups(groupOf, scalars);
  }

  /** @throws RangeError where memory was disposed of, detached or resized since it was bound */
  checkMemory(): void {
    this.#kept.check();
    this.#grads.check();
  }

  /** Updates tensors [first, last) in place; checkMemory() comes before. */
  step(first: number, last: number): void {
    this.#binding.step(first, last);
  }

  #shared({ written, writtenTensor, other, otherTensor }: Overlap): RangeError {
    const a = this.#names[written](writtenTensor);
    const b = this.#names[other](otherTensor);
    return outOfRangeIn('memory of its own', a, `memory shared with ${b}`);
  }
}

/** Arrays that stay bound, and what is needed to see that their memory is still there. */
class Kept {
  readonly storages: Storage[] = [];
  // What each storage is: its length, and the list and place that it came from.
  readonly #lengths: number[] = [];
  readonly #lists: NamedList[] = [];
  readonly #places: number[] = [];
  #disposals = disposalCount();

  /** Takes element i of a list, which must have `length` elements if that is given. */
  add(list: NamedList, i: number, length?: number): Storage {
    const storage = storageOf(list.values[i] as TensorLike, list.name(i));
    const actual = typedArrayLength(storage);
    if (length !== undefined && actual !== length) {
      throw outOfRangeIn(`length ${length}`, list.name(i), `length ${actual}`);
    }
    this.storages.push(storage);
    this.#lengths.push(actual);
    this.#lists.push(list);
    this.#places.push(i);
    return storage;
  }

  check(): void {
    const { storages } = this;
    const lengths = this.#lengths;
    for (let k = 0; k < storages.length; k++) {
      if (typedArrayLength(storages[k]) !== lengths[k]) throw detached(this.#lists[k].name(this.#places[k]));
    }
    if (this.#disposals !== disposalCount()) this.#checkDisposed();
  }

  #checkDisposed(): void {
    for (let k = 0; k < this.#lists.length; k++) {
      const list = this.#lists[k];
      const i = this.#places[k];
      const value = list.values[i];
      if (value instanceof Tensor && value.disposed) {
        throw outOfRangeIn('a live Tensor', list.name(i), 'one that was disposed of');
      }
    }
    this.#disposals = disposalCount();
  }
}

function checkDType(list: NamedList, i: number, expected: DType): void {
  const dtype = dtypeOf(list.values[i], list.name(i));
  if (dtype !== expected) throw wrongKindIn(expected, list.name(i), dtype);
}

function wrongLayout(lists: BindingLists, i: number, weight: DType, state: DType, hasMaster: boolean): TypeError {
  if (hasMaster && !isHalf(weight)) {
    return wrongKind(`no master beside a ${weight} weight`, lists.masters.name(i), lists.masters.values[i]);
  }
  const expected = hasMaster ? 'float32' : isHalf(weight) ? `${weight} or float32` : weight;
  return wrongKindIn(expected, lists.means.name(i), state);
}
