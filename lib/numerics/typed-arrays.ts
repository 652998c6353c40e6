/**
 * What is really behind a typed array: the getters are those of the engine,
 * taken when the module loads, since a subclass may answer anything.
 */
import { types } from 'node:util';
import { outOfRangeIn } from '../errors.js';

const { apply, getPrototypeOf } = Reflect;
const ZERO = [0];
const sharedPrototype = SharedArrayBuffer.prototype;
const typedArrayPrototype: object = Object.getPrototypeOf(Uint8Array.prototype);
const { set, fill } = Uint8Array.prototype; // those of every typed array

function getterOf(prototype: object, key: PropertyKey): () => unknown {
  const get = Object.getOwnPropertyDescriptor(prototype, key)?.get;
  if (!get) throw new Error(`this engine has no getter ${String(key)}`);
  return get;
}

// A function of its own for each getter: the engine then compiles each call to one known target.
const nameGetter = getterOf(typedArrayPrototype, Symbol.toStringTag);
const lengthGetter = getterOf(typedArrayPrototype, 'length');
const arrayByteLengthGetter = getterOf(typedArrayPrototype, 'byteLength');
const byteOffsetGetter = getterOf(typedArrayPrototype, 'byteOffset');
const bufferGetter = getterOf(typedArrayPrototype, 'buffer');
const byteLengthGetter = getterOf(ArrayBuffer.prototype, 'byteLength');
const sharedByteLengthGetter = getterOf(SharedArrayBuffer.prototype, 'byteLength');
const resizableGetter = getterOf(ArrayBuffer.prototype, 'resizable');
const growableGetter = getterOf(SharedArrayBuffer.prototype, 'growable');

/** 'Float32Array', 'Uint16Array', ...; undefined for anything that is no typed array. */
export function typedArrayName(value: unknown): string | undefined {
  return apply(nameGetter, value, []) as string | undefined;
}

/** Elements; 0 once the buffer was detached, or was resized past the array's end. */
export function typedArrayLength(array: unknown): number {
  return apply(lengthGetter, array, []) as number;
}

export function typedArrayByteLength(array: unknown): number {
  return apply(arrayByteLengthGetter, array, []) as number;
}

export function typedArrayByteOffset(array: unknown): number {
  return apply(byteOffsetGetter, array, []) as number;
}

export function typedArrayBuffer(array: unknown): ArrayBufferLike {
  return apply(bufferGetter, array, []) as ArrayBufferLike;
}

/** Sets the elements of an array from its first one on; the source must not be longer. */
export function setTypedArray(array: object, source: ArrayLike<number>): void {
  apply(set, array, [source]);
}

/** Sets all elements of an array to zero. */
export function fillZeros(array: object): void {
  apply(fill, array, ZERO);
}

/** Bytes of an ArrayBuffer or SharedArrayBuffer. */
export function bufferLength(buffer: ArrayBufferLike): number {
  return apply(types.isSharedArrayBuffer(buffer) ? sharedByteLengthGetter : byteLengthGetter, buffer, []) as number;
}

/**
 * As the engine knows it. The prototype only says which getter to try first: each
 * throws for a buffer of the other kind, and node's own function that tells them
 * apart takes longer than all else here.
 */
function canBeResized(buffer: ArrayBufferLike): boolean {
  const isShared = getPrototypeOf(buffer) === sharedPrototype;
  try {
    return apply(isShared ? growableGetter : resizableGetter, buffer, []) as boolean;
  } catch {
    return apply(isShared ? resizableGetter : growableGetter, buffer, []) as boolean;
  }
}

/** Throws unless the buffer of an array of `length` elements is there and keeps its size. */
export function checkBuffer(buffer: ArrayBufferLike, length: number, name: () => string): void {
  if (canBeResized(buffer)) {
    const received = types.isSharedArrayBuffer(buffer) ? 'a growable SharedArrayBuffer' : 'a resizable ArrayBuffer';
    throw outOfRangeIn('memory of a fixed size', name(), received);
  }
  if (length === 0 && isDetached(buffer)) throw detached(name());
}

export function detached(name: string): RangeError {
  return outOfRangeIn('memory that is still there', name, 'a detached ArrayBuffer');
}

function isDetached(buffer: ArrayBufferLike): boolean {
  try {
    new Uint8Array(buffer);
    return false;
  } catch {
    return true;
  }
}
