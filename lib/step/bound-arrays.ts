/** The arrays of one role whose addresses native code keeps, and whether their memory is still there. */
import { types } from 'node:util';
import type { Arrays, Memory } from '../backend/backend.js';
import { type Named, nameOf, outOfRangeIn, wrongKindIn } from '../errors.js';
import type { Storage } from '../numerics/dtype.js';
import {
  detached,
  typedArrayBuffer,
  typedArrayByteLength,
  typedArrayByteOffset,
  typedArrayLength,
} from '../numerics/typed-arrays.js';
import { isOurs, pinHolds } from '../tensor/allocator.js';
import { type Access, checkIdle } from '../tensor/in-flight.js';
import { Tensor } from '../tensor/tensor.js';
import type { TensorLike } from '../tensor/tensor-like.js';

export class BoundArrays implements Named {
  readonly name: string;
  readonly field: string | undefined;
  readonly memories: Arrays<Memory>;
  readonly #values: readonly (TensorLike | undefined)[];
  /** Those on the host, whose buffers other code may detach. */
  readonly #storages: readonly (Storage | undefined)[];
  /** From the second check on: the last element of each buffer, which is there as long as the others are. */
  #lastElements: readonly Storage[] | null = null;
  #preparations = 0;

  constructor({ name, field, values }: Named & { readonly values: Arrays<TensorLike> }, memories: Arrays<Memory>) {
    this.name = name;
    this.field = field;
    this.memories = memories;
    this.#values = values;
    const isOnHost = (memory: Memory | undefined): memory is Storage => ArrayBuffer.isView(memory);
    this.#storages = memories.every(isOnHost)
      ? memories
      : memories.map((memory) => (isOnHost(memory) ? memory : undefined));
  }

  /** Before each checkStorages(): makes it cheaper from the second time on. */
  prepareCheck(lengths: readonly number[]): void {
    if (++this.#preparations === 2) this.#lastElements = lastElementsOf(this.#storages, lengths);
  }

  /** @throws RangeError where the buffer of an array was detached */
  checkStorages(lengths: readonly number[]): void {
    if (this.#lastElements && areThere(this.#lastElements)) return;
    const storages = this.#storages;
    for (let i = 0; i < storages.length; i++) {
      const storage = storages[i];
      if (storage !== undefined && storage[lengths[i] - 1] === undefined && lengths[i] > 0) {
        throw detached(nameOf(this, i));
      }
    }
  }

  /** @throws RangeError where an asynchronous step uses an array */
  checkIdle(access: Access): void {
    for (let i = 0; i < this.#storages.length; i++) {
      const storage = this.#storages[i];
      if (storage !== undefined) checkIdle(storage, access, () => nameOf(this, i));
    }
  }

  /** @throws TypeError for memory that JavaScript could free during an asynchronous step */
  checkStays(): void {
    for (let i = 0; i < this.#storages.length; i++) {
      const storage = this.#storages[i];
      if (storage === undefined) continue;
      const buffer = typedArrayBuffer(storage);
      if (!types.isSharedArrayBuffer(buffer) && !isOurs(buffer)) {
        const expected = 'memory of Tensor.zeros or a SharedArrayBuffer';
        throw wrongKindIn(expected, nameOf(this, i), 'an ArrayBuffer, which may be freed before the step has ended');
      }
    }
  }

  /** Whether all memory is where it is until it is garbage, whatever other code does. */
  get staysForSure(): boolean {
    return (
      pinHolds || this.#storages.every((storage) => !storage || types.isSharedArrayBuffer(typedArrayBuffer(storage)))
    );
  }

  /** @throws RangeError where a Tensor was disposed of */
  checkDisposed(): void {
    this.#values.forEach((value, i) => {
      if (value instanceof Tensor && value.disposed) {
        throw outOfRangeIn('a live Tensor', nameOf(this, i), 'one that was disposed of');
      }
    });
  }
}

/**
 * Whether memory was neither detached nor shrunk. Reading an element asks the
 * engine itself, whatever a subclass overrides, and gives undefined once the
 * memory is gone.
 */
function areThere(elements: readonly Storage[]): boolean {
  for (let i = 0; i < elements.length; i++) {
    const element = elements[i];
    if (element[0] === undefined) return false;
  }
  return true;
}

/** The last element of each buffer that arrays lie in; null where that saves little, or where one is gone. */
function lastElementsOf(storages: readonly (Storage | undefined)[], lengths: readonly number[]): Storage[] | null {
  const lasts = new Map<ArrayBufferLike, number>();
  for (let i = 0; i < storages.length; i++) {
    const storage = storages[i];
    if (storage === undefined || lengths[i] === 0) continue;
    if (typedArrayLength(storage) !== lengths[i]) return null;
    const buffer = typedArrayBuffer(storage);
    const end = typedArrayByteOffset(storage) + typedArrayByteLength(storage);
    lasts.set(buffer, Math.max(end, lasts.get(buffer) ?? 0));
  }
  if (lasts.size > storages.length / 2 && storages.length > 1) return null;
  try {
    return Array.from(lasts, ([buffer, end]) => new Uint16Array(buffer, end - 2, 1));
  } catch {
    return null; // one was detached meanwhile, which checkStorages() reports
  }
}
