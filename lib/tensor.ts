/** Tensor: a dtype, a shape and memory. It never copies by itself. */
import { types } from 'node:util';
import { markAsUntransferable } from 'node:worker_threads';
import { loadBackend } from './backend/index.js';
import { checkDevice, type ResolvedDevice } from './device.js';
import {
  bytesOf,
  checkDType,
  type DataOf,
  type Device,
  type DType,
  type Float16ArrayLike,
  isHalf,
  type Storage,
  viewOf,
} from './dtype.js';
import { checkInteger, checkObject, outOfRange, outOfRangeIn, wrongKind, wrongKindIn } from './errors.js';
import { decoderOf, encoderOf } from './half.js';
import {
  bufferLength,
  checkBuffer,
  detached,
  setTypedArray,
  typedArrayBuffer,
  typedArrayByteOffset,
  typedArrayLength,
  typedArrayName,
} from './memory.js';

// es2022 has no Symbol.dispose, which every supported Node has; the declaration is that of the standard library.
declare global {
  interface SymbolConstructor {
    readonly dispose: unique symbol;
  }
}

export interface TensorFromOptions<D extends DType = DType> {
  /** Sizes of the dimensions; by default one dimension of all elements. */
  readonly shape?: number | readonly number[];
  /** Needed for a Uint16Array and for a bare buffer. */
  readonly dtype?: D;
  /** Bytes from the start of a bare buffer; a multiple of the element's size. Default 0. */
  readonly byteOffset?: number;
  /** Elements of a bare buffer; by default up to its end. */
  readonly length?: number;
}

export interface TensorZerosOptions<D extends DType = DType> {
  /** Default 'float32'. */
  readonly dtype?: D;
  /** Default 'cpu'; 'auto' is CUDA where it is usable, else the CPU. */
  readonly device?: Device | 'auto';
}

type DTypeOfArray<A> = A extends Float32Array
  ? 'float32'
  : A extends Float64Array
    ? 'float64'
    : A extends Float16ArrayLike
      ? 'float16'
      : DType;

/** How often any tensor was disposed of: what kept its memory looks again when this moves. */
let disposals = 0;

/** @internal */
export function disposalCount(): number {
  return disposals;
}

export class Tensor<D extends DType = DType> {
  readonly dtype: D;
  /** Sizes of the dimensions; empty for a scalar. */
  readonly shape: readonly number[];
  /** Number of elements. */
  readonly length: number;
  readonly device: ResolvedDevice;
  #data: Storage | null;

  private constructor(dtype: D, shape: readonly number[], data: Storage) {
    this.dtype = dtype;
    this.shape = Object.freeze([...shape]);
    this.length = typedArrayLength(data);
    this.device = 'cpu';
    this.#data = data;
  }

  /**
   * A tensor over memory that is there already; nothing is copied.
   *
   * @param data a Float32Array, Float64Array or Float16Array; a Uint16Array of
   *   bits with `dtype: 'float16'` or `'bfloat16'`; or an ArrayBuffer or
   *   SharedArrayBuffer with a dtype, of which `byteOffset` and `length` may
   *   take a part
   * @throws TypeError for another kind of memory or a dtype that does not fit
   *   it, RangeError for a shape of another length, a misaligned offset, or
   *   memory that is detached or can be resized
   */
  static from<A extends Float32Array | Float64Array | Float16ArrayLike>(
    data: A,
    options?: TensorFromOptions<DTypeOfArray<A>>,
  ): Tensor<DTypeOfArray<A>>;
  static from<D extends 'float16' | 'bfloat16'>(
    data: Uint16Array,
    options: TensorFromOptions<D> & { dtype: D },
  ): Tensor<D>;
  static from<D extends DType>(
    data: ArrayBuffer | SharedArrayBuffer,
    options: TensorFromOptions<D> & { dtype: D },
  ): Tensor<D>;
  static from(data: unknown, options: TensorFromOptions = {}): Tensor {
    checkObject(options, 'options');
    const { dtype, storage } = types.isAnyArrayBuffer(data)
      ? storageOfBuffer(data, options)
      : storageOfArray(data, options);
    const length = typedArrayLength(storage);
    const shape = options.shape === undefined ? [length] : checkShape(options.shape, 'shape');
    if (elementsOf(shape) !== length) {
      throw outOfRangeIn(`a shape of ${length} elements`, 'shape', `[${shape.join(', ')}]`);
    }
    return new Tensor(dtype, shape, storage);
  }

  /**
   * A tensor of zeros in memory of its own, aligned to 64 bytes and placed so
   * that the arrays of a step do not compete for the same cache sets.
   *
   * @param shape sizes of the dimensions, or the length of the only one
   * @throws RangeError for a negative or fractional size or too much memory,
   *   and where `device` names one that is not usable, with the reason
   */
  static zeros<D extends DType = 'float32'>(
    shape: number | readonly number[],
    options: TensorZerosOptions<D> = {},
  ): Tensor<D> {
    checkObject(options, 'options');
    const dtype = (options.dtype === undefined ? 'float32' : checkDType(options.dtype, 'dtype')) as D;
    const sizes = checkShape(shape, 'shape');
    checkDevice(options.device ?? 'cpu', 'device');
    return new Tensor<D>(dtype, sizes, allocate(dtype, elementsOf(sizes)));
  }

  /**
   * The memory itself: a Float32Array, a Float64Array, or a Uint16Array of the
   * bits of either half.
   */
  get data(): DataOf<D> {
    return this.#kept() as DataOf<D>;
  }

  /** Address of the first element; needs the native backend. */
  get pointer(): bigint {
    const { addon, reason } = loadBackend();
    if (!addon) throw outOfRangeIn('the native backend', 'pointer', `the TypeScript backend (${reason})`);
    return addon.address(this.#live());
  }

  /** Whether dispose() was called. */
  get disposed(): boolean {
    return this.#data === null;
  }

  /** A copy of the values: a Float64Array of a float64 tensor, else a Float32Array. */
  toArray(): D extends 'float64' ? Float64Array : Float32Array;
  toArray(): Float32Array | Float64Array {
    const data = this.#live();
    if (this.dtype === 'float64') return new Float64Array(data);
    const values = new Float32Array(this.length);
    if (isHalf(this.dtype)) {
      const decode = decoderOf(this.dtype);
      for (let i = 0; i < values.length; i++) values[i] = decode(data[i]);
    } else {
      values.set(data);
    }
    return values;
  }

  /**
   * Sets all values, each rounded to the nearest of the dtype.
   *
   * @param values as many numbers as the tensor has elements
   * @throws TypeError for anything but a list of numbers, RangeError for another length
   */
  set(values: ArrayLike<number>): this {
    const data = this.#live();
    const length: unknown = types.isTypedArray(values) ? typedArrayLength(values) : Object(values).length;
    if (typeof values !== 'object' || typeof length !== 'number' || /^Big/.test(typedArrayName(values) ?? '')) {
      throw wrongKind('a list of numbers', 'values', values);
    }
    if (length !== this.length) throw outOfRangeIn(`${this.length} values`, 'values', `${length}`);
    if (!types.isTypedArray(values)) {
      for (let i = 0; i < length; i++) {
        if (typeof values[i] !== 'number') throw wrongKind('a number', `values[${i}]`, values[i]);
      }
    }
    if (isHalf(this.dtype)) {
      const encode = encoderOf(this.dtype);
      for (let i = 0; i < length; i++) data[i] = encode(values[i]);
    } else {
      setTypedArray(data, values);
    }
    return this;
  }

  /**
   * Copies the elements of a tensor of the same dtype and length, unchanged.
   *
   * @throws TypeError for another dtype, RangeError for another length
   */
  copyFrom(source: Tensor): this {
    if (!(source instanceof Tensor)) throw wrongKind('a Tensor', 'source', source);
    if (source.dtype !== this.dtype) throw wrongKindIn(`a ${this.dtype} Tensor`, 'source', source.dtype);
    if (source.length !== this.length) throw outOfRangeIn(`length ${this.length}`, 'source', `length ${source.length}`);
    setTypedArray(this.#live(), source.#live('source'));
    return this;
  }

  /**
   * This tensor on a device: itself if it is there already.
   *
   * @throws RangeError where the device is not usable, with the reason
   */
  to(device: Device | 'auto'): Tensor<D> {
    this.#live();
    checkDevice(device, 'device');
    return this;
  }

  /** Lets go of the memory; every later use throws. A second call does nothing. */
  dispose(): void {
    if (this.#data !== null) disposals++;
    this.#data = null;
  }

  /** The same, for `using`. */
  [Symbol.dispose](): void {
    this.dispose();
  }

  #kept(name = 'this'): Storage {
    if (this.#data === null) throw outOfRangeIn('a live Tensor', name, 'one that was disposed of');
    return this.#data;
  }

  /** The memory, if nobody has detached it. */
  #live(name = 'this'): Storage {
    const data = this.#kept(name);
    if (this.length > 0 && data[this.length - 1] === undefined) throw detached(name);
    return data;
  }
}

function checkShape(shape: unknown, name: string): number[] {
  if (typeof shape === 'number') return [checkInteger(shape, name)];
  if (!Array.isArray(shape)) throw wrongKind('a length or a list of sizes', name, shape);
  return shape.map((size: unknown, i) => checkInteger(size, `${name}[${i}]`));
}

function elementsOf(shape: readonly number[]): number {
  if (shape.includes(0)) return 0; // the product of the others may be infinite
  return shape.reduce((product, size) => product * size, 1);
}

interface Source {
  readonly dtype: DType;
  readonly storage: Storage;
}

function storageOfBuffer(buffer: ArrayBufferLike, options: TensorFromOptions): Source {
  checkBuffer(buffer, bufferLength(buffer), () => 'data');
  const dtype = checkDType(options.dtype, 'dtype');
  const size = bytesOf(dtype);
  const byteOffset = checkInteger(options.byteOffset ?? 0, 'byteOffset');
  if (byteOffset % size !== 0) throw outOfRange(`a multiple of ${size}`, 'byteOffset', byteOffset);
  const available = bufferLength(buffer) - byteOffset;
  if (available < 0) throw outOfRange(`at most ${bufferLength(buffer)}`, 'byteOffset', byteOffset);
  if (options.length === undefined && available % size !== 0) {
    throw outOfRangeIn(`a multiple of ${size} bytes`, 'data', `${available} bytes`);
  }
  const length = checkInteger(options.length ?? available / size, 'length');
  if (length * size > available) throw outOfRange(`at most ${Math.floor(available / size)}`, 'length', length);
  return { dtype, storage: viewOf(dtype, buffer, byteOffset, length) };
}

function storageOfArray(data: unknown, options: TensorFromOptions): Source {
  for (const name of ['byteOffset', 'length'] as const) {
    if (options[name] !== undefined) throw wrongKind('nothing beside a typed array', name, options[name]);
  }
  if (typedArrayName(data) === 'Uint16Array') {
    if (options.dtype !== 'float16' && options.dtype !== 'bfloat16') {
      throw wrongKind("'float16' or 'bfloat16' beside a Uint16Array", 'dtype', options.dtype);
    }
    return { dtype: options.dtype, storage: checkedStorage(data as Uint16Array, { name: 'data' }) };
  }
  const dtype = dtypeOfArray(data);
  if (dtype === undefined) {
    throw wrongKind(
      'a Float32Array, Float64Array, Float16Array, Uint16Array, ArrayBuffer or SharedArrayBuffer',
      'data',
      data,
    );
  }
  if (options.dtype !== undefined && options.dtype !== dtype) {
    throw wrongKind(`'${dtype}', the dtype of the array,`, 'dtype', options.dtype);
  }
  return { dtype, storage: checkedStorage(data as Storage | Float16ArrayLike, { name: 'data' }) };
}

/** The dtype that a bare typed array speaks for itself; none of a Uint16Array. */
function dtypeOfArray(array: unknown): DType | undefined {
  switch (typedArrayName(array)) {
    case 'Float32Array':
      return 'float32';
    case 'Float64Array':
      return 'float64';
    case 'Float16Array':
      return 'float16';
    default:
      return undefined;
  }
}

/** The array itself, or the bits of a Float16Array, once its buffer proved sound. */
function checkedStorage(array: Storage | Float16ArrayLike, named: Named, i?: number): Storage {
  const buffer = typedArrayBuffer(array);
  const length = typedArrayLength(array);
  checkBuffer(buffer, length, () => nameOf(named, i));
  if (typedArrayName(array) !== 'Float16Array') return array as Storage;
  return new Uint16Array(buffer, typedArrayByteOffset(array), length);
}

/**
 * What a list of arguments, or one argument, is called in messages: the name
 * is put together only for a message.
 *
 * @internal
 */
export interface Named {
  readonly name: string;
  /** What follows the place in a list: `states[3].mean`. */
  readonly field?: string;
}

/**
 * What element i of a list is called; without a place the argument itself.
 *
 * @internal
 */
export function nameOf({ name, field = '' }: Named, i?: number): string {
  return i === undefined ? name : `${name}[${i}]${field}`;
}

/** A tensor or an array that is taken for one. */
export type TensorLike = Tensor | Float32Array | Float64Array | Float16ArrayLike;

/**
 * The dtype of what was passed under a name.
 *
 * @internal
 */
export function dtypeOf(value: unknown, named: Named, i?: number): DType {
  if (value instanceof Tensor) return value.dtype;
  const dtype = dtypeOfArray(value);
  if (dtype !== undefined) return dtype;
  if (typedArrayName(value) === 'Uint16Array') {
    throw wrongKindIn(
      "a Tensor (make one with Tensor.from(array, { dtype: 'float16' }) or 'bfloat16')",
      nameOf(named, i),
      'a Uint16Array, which does not say its dtype',
    );
  }
  throw wrongKind('a Tensor, Float32Array, Float64Array or Float16Array', nameOf(named, i), value);
}

/**
 * The memory of what was passed under a name, which dtypeOf() has accepted.
 *
 * @internal
 */
export function storageOf(value: TensorLike, named: Named, i?: number): Storage {
  if (!(value instanceof Tensor)) return checkedStorage(value, named, i);
  if (value.disposed) throw outOfRangeIn('a live Tensor', nameOf(named, i), 'one that was disposed of');
  return checkedStorage(value.data, named, i);
}

/**
 * The shape of what was passed.
 *
 * @internal
 */
export function shapeOf(value: TensorLike): readonly number[] {
  return value instanceof Tensor ? value.shape : [typedArrayLength(value)];
}

// Memory of ours. Large arrays that lie equal modulo a large power of two, or
// one page apart (as malloc places them), compete for cache sets and banks, so
// they are staggered over SLOTS places of a window; the largest ask for huge
// pages. Small ones share slabs, as Node's own Buffers do: neighbours in a list
// are then neighbours in memory.
const ALIGNMENT = 64;
const SLOT = 16 * 1024;
const SLOTS = 16;
const WINDOW = SLOT * SLOTS;
const STAGGER_FROM = 1024 * 1024; // bytes
const HUGE_PAGES_FROM = 4 * 1024 * 1024; // bytes
const SMALL = 4 * 1024; // bytes
const SLAB = 256 * 1024; // bytes
let nextSlot = 0;
let slab = { buffer: new ArrayBuffer(0), used: 0 };

function allocate(dtype: DType, length: number): Storage {
  const bytes = length * bytesOf(dtype);
  if (bytes > SMALL) {
    const stagger = bytes >= STAGGER_FROM;
    const buffer = newBuffer(bytes, stagger ? WINDOW : ALIGNMENT);
    if (bytes >= HUGE_PAGES_FROM) loadBackend().addon?.preferHugePages(buffer);
    return viewOf(dtype, buffer, offsetOf(buffer, stagger), length);
  }
  if (slab.used + bytes > slab.buffer.byteLength) {
    const buffer = newBuffer(SLAB, 0);
    slab = { buffer, used: offsetOf(buffer, false) };
  }
  const byteOffset = slab.used;
  slab.used += Math.ceil(bytes / ALIGNMENT) * ALIGNMENT;
  return viewOf(dtype, slab.buffer, byteOffset, length);
}

/** Bytes to skip from the start of a buffer to the next aligned or staggered place. */
function offsetOf(buffer: ArrayBuffer, stagger: boolean): number {
  const { addon } = loadBackend();
  if (!addon) return 0; // there are no addresses, and none that matter
  const address = Number(addon.address(buffer) % BigInt(WINDOW));
  if (!stagger) return (ALIGNMENT - (address % ALIGNMENT)) % ALIGNMENT;
  const slot = nextSlot;
  nextSlot = (nextSlot + 1) % SLOTS;
  return (slot * SLOT + WINDOW - address) % WINDOW;
}

function newBuffer(bytes: number, spare: number): ArrayBuffer {
  let buffer: ArrayBuffer;
  try {
    buffer = new ArrayBuffer(bytes + spare);
  } catch {
    throw outOfRangeIn('a shape that memory can be had for', 'shape', `one of ${bytes} bytes`);
  }
  keepHere(buffer);
  return buffer;
}

/** Native code keeps the address of this memory, so it must not move to another thread. */
function keepHere(buffer: ArrayBuffer): void {
  markAsUntransferable(buffer);
  for (const method of ['transfer', 'transferToFixedLength', 'resize']) {
    if (!(method in buffer)) continue;
    Object.defineProperty(buffer, method, {
      value: () => {
        throw new TypeError(`Expected memory that may move for ${method} but received that of a Tensor`);
      },
    });
  }
}
