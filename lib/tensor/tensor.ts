/** Tensor: a dtype, a shape and memory. It never copies by itself. */
import { types } from 'node:util';
import { markAsUntransferable } from 'node:worker_threads';
import { cudaAbsent, cudaAddon, pinningDevice } from '../backend/cuda.js';
import type { DeviceMemory } from '../backend/cuda-addon.js';
import { loadBackend } from '../backend/index.js';
import {
  checkBoolean,
  checkInteger,
  checkObject,
  checkPointer,
  outOfRange,
  outOfRangeIn,
  wrongKind,
  wrongKindIn,
} from '../errors.js';
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
} from '../numerics/dtype.js';
import { decoderOf, encoderOf } from '../numerics/half.js';
import {
  bufferLength,
  checkBuffer,
  detached,
  setTypedArray,
  typedArrayBuffer,
  typedArrayByteOffset,
  typedArrayLength,
  typedArrayName,
} from '../numerics/typed-arrays.js';
import { cudaDevice, ordinalOf, type ResolvedDevice, resolveDevice } from './device.js';

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
  /**
   * Page-locked memory of the host, which a GPU copies faster; ordinary memory
   * where no GPU can be used. Default false.
   */
  readonly pinned?: boolean;
}

export interface TensorFromDevicePointerOptions<D extends DType = DType> {
  /** Sizes of the dimensions, or the length of the only one. */
  readonly shape: number | readonly number[];
  readonly dtype: D;
  /** Where the memory lies, if it must be there; by default what the driver says. */
  readonly device?: Device;
  /** Kept alive until no work in flight uses the memory. */
  readonly owner?: unknown;
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

/** Memory of the host, or of a GPU. */
export type Memory = Storage | DeviceMemory;

export class Tensor<D extends DType = DType> {
  readonly dtype: D;
  /** Sizes of the dimensions; empty for a scalar. */
  readonly shape: readonly number[];
  /** Number of elements. */
  readonly length: number;
  /** 'cpu', 'cuda:0', ... */
  readonly device: ResolvedDevice;
  #memory: Memory | null;
  /** Whether it is memory of ours, which stays where it is. */
  readonly #stays: boolean;

  private constructor(dtype: D, shape: readonly number[], memory: Memory, device: ResolvedDevice, stays: boolean) {
    this.dtype = dtype;
    this.shape = Object.freeze([...shape]);
    this.length = elementsOf(shape);
    this.device = device;
    this.#memory = memory;
    this.#stays = stays;
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
    return new Tensor(dtype, shape, storage, 'cpu', false);
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
    const pinned = checkBoolean(options.pinned ?? false, 'pinned');
    const device = resolveDevice(options.device ?? 'cpu', 'device');
    if (pinned && device !== 'cpu') throw outOfRange(`false beside device '${device}'`, 'pinned', pinned);
    const length = elementsOf(sizes);
    const pinning = pinned ? pinningDevice() : null;
    const allocateHost = () => (pinning === null ? allocate(dtype, length) : allocatePinned(dtype, length, pinning));
    const memory = device === 'cpu' ? allocateHost() : allocateOn(device, dtype, length, 0);
    return new Tensor<D>(dtype, sizes, memory, device, true);
  }

  /**
   * Zeros like another tensor or array, of another dtype: its shape, on its
   * device and there at its address modulo 64, so that accesses of both begin
   * at the same elements.
   *
   * @internal
   */
  static zerosBeside<D extends DType>(like: TensorLike, dtype: D): Tensor<D> {
    if (!(like instanceof Tensor) || like.device === 'cpu') return Tensor.zeros(shapeOf(like), { dtype });
    const first = Number(like.pointer % BigInt(ALIGNMENT)) / bytesOf(like.dtype);
    const memory = allocateOn(like.device, dtype, like.length, first * bytesOf(dtype));
    return new Tensor<D>(dtype, like.shape, memory, like.device, true);
  }

  /**
   * A tensor over memory of a GPU that another library made. Nothing is copied,
   * and the memory is not freed. The bits of a step are ready for work that the
   * library puts on the optimizer's stream later, or after synchronize().
   *
   * @param pointer address of the first element, a multiple of the dtype's size
   * @throws RangeError for an address that is not of a device, or of another
   *   device or context, or with too little memory behind it where the driver
   *   knows how much there is
   */
  static fromDevicePointer<D extends DType>(
    pointer: bigint | number,
    options: TensorFromDevicePointerOptions<D>,
  ): Tensor<D> {
    const address = checkPointer(pointer, 'pointer');
    checkObject(options, 'options');
    const dtype = checkDType(options.dtype, 'dtype') as D;
    const shape = checkShape(options.shape, 'shape');
    const bytes = elementsOf(shape) * bytesOf(dtype);
    const wanted = options.device === undefined ? null : resolveDevice(options.device, 'device');
    if (wanted === 'cpu') throw outOfRange("'cuda' or 'cuda:N'", 'device', options.device);
    if (address % BigInt(bytesOf(dtype)) !== 0n) {
      throw outOfRange(`a multiple of ${bytesOf(dtype)}`, 'pointer', address);
    }
    const reason = cudaAbsent();
    if (reason !== null) throw outOfRangeIn('an address of a GPU', 'pointer', `one where none can be used (${reason})`);
    const cuda = cudaAddon();
    const info = cuda.pointerInfo(address, bytes);
    if (typeof info === 'string') throw outOfRangeIn('an address of a GPU', 'pointer', info);
    const device = cudaDevice(info.device);
    if (wanted !== null && wanted !== device) {
      throw outOfRangeIn(`an address on ${wanted}`, 'pointer', `one on ${device}`);
    }
    if (bytes > info.bytes) throw outOfRangeIn(`at least ${bytes} bytes`, 'pointer', `memory of ${info.bytes} bytes`);
    resolveDevice(device, 'pointer');
    const memory = new cuda.DeviceMemory(info.device, bytes, address, options.owner);
    return new Tensor<D>(dtype, shape, memory, device, false);
  }

  /**
   * The memory itself: a Float32Array, a Float64Array, or a Uint16Array of the
   * bits of either half.
   *
   * @throws RangeError for a tensor on a GPU, whose values toArray() copies
   */
  get data(): DataOf<D> {
    const memory = this.#kept();
    if (!ArrayBuffer.isView(memory)) {
      throw outOfRangeIn('a Tensor on the CPU', 'data', `one on ${this.device}: toArray() copies its values`);
    }
    return memory as DataOf<D>;
  }

  /** Address of the first element; of a tensor on the CPU only the native backend knows it. */
  get pointer(): bigint {
    const memory = this.#live();
    if (!ArrayBuffer.isView(memory)) return memory.pointer;
    const { addon, reason } = loadBackend();
    if (!addon) throw outOfRangeIn('the native backend', 'pointer', `the TypeScript backend (${reason})`);
    return addon.address(memory);
  }

  /** Whether dispose() was called. */
  get disposed(): boolean {
    return this.#memory === null;
  }

  /**
   * What native code is given.
   *
   * @internal
   */
  get memory(): Memory {
    return this.#kept();
  }

  /** A copy of the values: a Float64Array of a float64 tensor, else a Float32Array. */
  toArray(): D extends 'float64' ? Float64Array : Float32Array;
  toArray(): Float32Array | Float64Array {
    const data = this.#onHost();
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
    const memory = this.#live();
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
    const data = ArrayBuffer.isView(memory) ? memory : newStorage(this.dtype, length);
    if (isHalf(this.dtype)) {
      const encode = encoderOf(this.dtype);
      for (let i = 0; i < length; i++) data[i] = encode(values[i]);
    } else {
      setTypedArray(data, values);
    }
    if (data !== memory) cudaAddon().copy(memory, data);
    return this;
  }

  /**
   * Copies the elements of a tensor of the same dtype and length, unchanged,
   * from any device to any. Memory of the host may be used again when this
   * returns.
   *
   * @throws TypeError for another dtype, RangeError for another length
   */
  copyFrom(source: Tensor): this {
    this.#checkSource(source);
    const to = this.#live();
    const from = source.#live('source');
    if (ArrayBuffer.isView(to) && ArrayBuffer.isView(from)) setTypedArray(to, from);
    else cudaAddon().copy(to, from);
    return this;
  }

  /**
   * As copyFrom(), but returns at once where one side is a GPU: until the
   * promise is resolved the other side, memory of Tensor.zeros(), must be left
   * alone. Only page-locked memory is copied beside other work.
   *
   * @throws as copyFrom(), and RangeError for host memory that is not ours and may move away
   */
  async copyAsync(source: Tensor): Promise<this> {
    this.#checkSource(source);
    const to = this.#live();
    const from = source.#live('source');
    if (ArrayBuffer.isView(to) === ArrayBuffer.isView(from)) return this.copyFrom(source);
    const [host, name] = ArrayBuffer.isView(to) ? [this, 'this'] : [source, 'source'];
    if (!host.#stays) throw outOfRangeIn('memory of Tensor.zeros', name, 'memory that may move away');
    await cudaAddon().startCopy(to, from);
    return this;
  }

  /**
   * This tensor on a device: itself if it is there already, else a copy.
   *
   * @throws RangeError where the device is not usable, with the reason
   */
  to(device: Device | 'auto'): Tensor<D> {
    this.#live();
    const resolved = resolveDevice(device, 'device');
    return resolved === this.device
      ? this
      : Tensor.zeros(this.shape, { dtype: this.dtype, device: resolved }).copyFrom(this);
  }

  /** Lets go of the memory; every later use throws. A second call does nothing. */
  dispose(): void {
    if (this.#memory === null) return;
    disposals++;
    if (!ArrayBuffer.isView(this.#memory)) this.#memory.dispose();
    this.#memory = null;
  }

  /** The same, for `using`. */
  [Symbol.dispose](): void {
    this.dispose();
  }

  #kept(name = 'this'): Memory {
    if (this.#memory === null) throw outOfRangeIn('a live Tensor', name, 'one that was disposed of');
    return this.#memory;
  }

  /** The memory, if nobody has detached it. */
  #live(name = 'this'): Memory {
    const memory = this.#kept(name);
    if (ArrayBuffer.isView(memory) && this.length > 0 && memory[this.length - 1] === undefined) throw detached(name);
    return memory;
  }

  /** The memory, or a copy of that of a GPU. */
  #onHost(): Storage {
    const memory = this.#live();
    if (ArrayBuffer.isView(memory)) return memory;
    const copy = newStorage(this.dtype, this.length);
    cudaAddon().copy(copy, memory);
    return copy;
  }

  #checkSource(source: Tensor): void {
    if (!(source instanceof Tensor)) throw wrongKind('a Tensor', 'source', source);
    if (source.dtype !== this.dtype) throw wrongKindIn(`a ${this.dtype} Tensor`, 'source', source.dtype);
    if (source.length !== this.length) throw outOfRangeIn(`length ${this.length}`, 'source', `length ${source.length}`);
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
 * The device of what was passed, which dtypeOf() has accepted.
 *
 * @internal
 */
export function deviceOf(value: TensorLike): ResolvedDevice {
  return value instanceof Tensor ? value.device : 'cpu';
}

/**
 * The memory of what was passed under a name, which dtypeOf() has accepted.
 *
 * @internal
 */
export function memoryOf(value: TensorLike, named: Named, i?: number): Memory {
  if (!(value instanceof Tensor)) return checkedStorage(value, named, i);
  if (value.disposed) throw outOfRangeIn('a live Tensor', nameOf(named, i), 'one that was disposed of');
  const { memory } = value;
  return ArrayBuffer.isView(memory) ? checkedStorage(memory, named, i) : memory;
}

/**
 * How many elements of a dtype some memory has.
 *
 * @internal
 */
export function lengthOf(memory: Memory, dtype: DType): number {
  return ArrayBuffer.isView(memory) ? typedArrayLength(memory) : memory.byteLength / bytesOf(dtype);
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

/** Zeros whose bytes belong to nobody else, for a copy. */
function newStorage(dtype: DType, length: number): Storage {
  return viewOf(dtype, new ArrayBuffer(length * bytesOf(dtype)), 0, length);
}

function allocatePinned(dtype: DType, length: number, device: number): Storage {
  const bytes = length * bytesOf(dtype);
  if (bytes === 0) return newStorage(dtype, length);
  const buffer = cudaAddon().pinned(bytes, device);
  keepHere(buffer);
  return viewOf(dtype, buffer, 0, length);
}

/** Zeros on a GPU, at an address that is `residue` modulo ALIGNMENT. */
function allocateOn(device: `cuda:${number}`, dtype: DType, length: number, residue: number): DeviceMemory {
  const { DeviceMemory: Allocation } = cudaAddon();
  const bytes = length * bytesOf(dtype);
  if (!Number.isSafeInteger(bytes)) throw noMemory(bytes);
  return new Allocation(ordinalOf(device), bytes, residue);
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

function noMemory(bytes: number): RangeError {
  return outOfRangeIn('a shape that memory can be had for', 'shape', `one of ${bytes} bytes`);
}

function newBuffer(bytes: number, spare: number): ArrayBuffer {
  let buffer: ArrayBuffer;
  try {
    buffer = new ArrayBuffer(bytes + spare);
  } catch {
    throw noMemory(bytes);
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
