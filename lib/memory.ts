/**
 * What is really behind a typed array: the getters are those of the engine,
 * taken when the module loads, since a subclass may answer anything.
 */
import { types } from 'node:util';
import { outOfRangeIn } from './errors.js';

const typedArrayPrototype: object = Object.getPrototypeOf(Uint8Array.prototype);

function getterOf<T>(prototype: object, key: PropertyKey): (target: unknown) => T {
  const get = Object.getOwnPropertyDescriptor(prototype, key)?.get;
  if (!get) throw new Error(`this engine has no getter ${String(key)}`);
  return (target) => Reflect.apply(get, target, []) as T;
}

/** 'Float32Array', 'Uint16Array', ...; undefined for anything that is no typed array. */
export const typedArrayName = getterOf<string | undefined>(typedArrayPrototype, Symbol.toStringTag);
/** Elements; 0 once the buffer was detached, or was resized past the array's end. */
export const typedArrayLength = getterOf<number>(typedArrayPrototype, 'length');
export const typedArrayByteOffset = getterOf<number>(typedArrayPrototype, 'byteOffset');
export const typedArrayBuffer = getterOf<ArrayBufferLike>(typedArrayPrototype, 'buffer');

const byteLengthOf = getterOf<number>(ArrayBuffer.prototype, 'byteLength');
const sharedByteLengthOf = getterOf<number>(SharedArrayBuffer.prototype, 'byteLength');

/** Bytes of an ArrayBuffer or SharedArrayBuffer. */
export function bufferLength(buffer: ArrayBufferLike): number {
  return types.isSharedArrayBuffer(buffer) ? sharedByteLengthOf(buffer) : byteLengthOf(buffer);
}

function optionalGetter(prototype: object, key: string): (target: unknown) => boolean {
  return Object.getOwnPropertyDescriptor(prototype, key) ? getterOf<boolean>(prototype, key) : () => false;
}

const isResizable = optionalGetter(ArrayBuffer.prototype, 'resizable');
const isGrowable = optionalGetter(SharedArrayBuffer.prototype, 'growable');

/** Throws unless the buffer is there and keeps its size. */
export function checkBuffer(buffer: ArrayBufferLike, name: string): void {
  if (types.isSharedArrayBuffer(buffer)) {
    if (isGrowable(buffer)) throw outOfRangeIn('memory of a fixed size', name, 'a growable SharedArrayBuffer');
    return;
  }
  if (isResizable(buffer)) throw outOfRangeIn('memory of a fixed size', name, 'a resizable ArrayBuffer');
  if (byteLengthOf(buffer) === 0 && isDetached(buffer)) throw detached(name);
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
