/** Tensor: a dtype, a shape and memory. It never copies by itself. */
import { type InspectOptions, inspect, types } from 'node:util';
import type { Memory } from '../backend/backend.js';
import { cudaAbsent, cudaAddon, pinningDevice } from '../backend/cuda.js';
import { loadBackend } from '../backend/index.js';
import {
  checkBoolean,
  checkPointer,
  ORIGIN,
  outOfRange,
  outOfRangeIn,
  THIS_COPY,
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
  detached,
  setTypedArray,
  typedArrayBuffer,
  typedArrayByteOffset,
  typedArrayLength,
} from '../numerics/typed-arrays.js';
import { readOptions, refuseAssignment } from '../options.js';
import { allocate, allocateOn, allocatePinned, firstTouch, newStorage } from './allocator.js';
import { cudaDevice, type ResolvedDevice, resolveDevice } from './device.js';
import { type DlpackCapsule, makeCapsule, takeDlpack } from './dlpack.js';
import { storageOfArray, storageOfBuffer } from './host-storage.js';
import { type Access, checkIdle } from './in-flight.js';
import { checkNumbers } from './numbers.js';
import { checkShape, elementsOf } from './shape.js';
import { checkTensorJSON, type TensorJSON, toNumbers } from './tensor-json.js';

// es2022 has no Symbol.dispose, which every supported Node has; the declaration is that of the standard library.
declare global {
  interface SymbolConstructor {
    readonly dispose: unique symbol;
  }
}

/** How Tensor.from() takes memory. */
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

/** What Tensor.zeros() makes. */
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

/** As of Tensor.zeros(). */
export type TensorFromJSONOptions = Pick<TensorZerosOptions, 'device' | 'pinned'>;

/** What lies at the address that Tensor.fromDevicePointer() takes. */
export interface TensorFromDevicePointerOptions<D extends DType = DType> {
  /** Sizes of the dimensions, or the length of the only one. */
  readonly shape: number | readonly number[];
  /** Of the elements there. */
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

/** Values that console.log() shows, as of arrays. */
const MAX_SHOWN = 100;

/** How many tensors were disposed of: whoever keeps their memory validates it again when this changes. */
let disposals = 0;

/**
 * What makes structuredClone(), postMessage() and v8.serialize() throw rather
 * than leave the values behind: a symbol among the properties cannot be cloned,
 * and the message quotes its description.
 */
const NOT_CLONEABLE = Symbol('a Tensor, which cannot be cloned: send its toJSON(), or its data and shape,');

/** @internal */
export function disposalCount(): number {
  return disposals;
}

/**
 * A dtype, a shape and memory of the host or of a GPU.
 *
 * JSON.stringify() writes all values (toJSON()) and Tensor.fromJSON() reads them
 * back. structuredClone(), postMessage() and v8.serialize() throw: what they
 * would make is no Tensor. Send `data` and `shape` instead, and make a Tensor of
 * them there with Tensor.from().
 */
export class Tensor<D extends DType = DType> {
  /** Of its elements. */
  readonly dtype: D;
  /** Sizes of the dimensions; empty for a scalar. */
  readonly shape: readonly number[];
  /** Number of elements. */
  readonly length: number;
  /** 'cpu', 'cuda:0', ... */
  readonly device: ResolvedDevice;
  /** @internal */
  readonly cloning = NOT_CLONEABLE;
  #memory: Memory | null;
  /** Of a tensor of another library, from DLPack. */
  #giveBack: (() => void) | undefined;
  /** Whether it is memory of ours, which stays where it is. */
  readonly #stays: boolean;

  private constructor(dtype: D, shape: readonly number[], memory: Memory, device: ResolvedDevice, stays: boolean) {
    this.dtype = dtype;
    this.shape = Object.freeze(shape);
    this.length = elementsOf(shape);
    this.device = device;
    this.#memory = memory;
    this.#stays = stays;
    Object.freeze(this); // steps rely on what says how the memory is to be read
  }

  /** Whether it is a Tensor of this copy of the package, with memory: a prototype alone makes none. */
  static [Symbol.hasInstance](value: unknown): value is Tensor {
    return typeof value === 'object' && value !== null && #memory in value;
  }

  /**
   * A tensor over memory that is there already; nothing is copied.
   *
   * @param data a Float32Array, Float64Array or Float16Array; a Uint16Array of
   *   bits with `dtype: 'float16'` or `'bfloat16'`; or an ArrayBuffer or
   *   SharedArrayBuffer with a dtype, of which `byteOffset` and `length` may
   *   take a part
   * @throws TypeError for another kind of memory, a dtype that does not fit it
   *   or an unknown option, RangeError for a shape of another length, a
   *   misaligned offset, or memory that is detached or can be resized
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
    const { shape: wanted, ...part } = readOptions(options, 'options', ['shape', 'dtype', 'byteOffset', 'length']);
    const { dtype, storage } = types.isAnyArrayBuffer(data) ? storageOfBuffer(data, part) : storageOfArray(data, part);
    const elements = typedArrayLength(storage);
    const shape = checkShape(wanted === undefined ? elements : wanted, 'shape');
    if (elementsOf(shape) !== elements) {
      throw outOfRangeIn(`a shape of ${elements} elements`, 'shape', `[${shape.join(', ')}]`);
    }
    return new Tensor(dtype, shape, storage, 'cpu', false);
  }

  /**
   * A tensor of zeros in memory of its own, aligned to 64 bytes and placed so
   * that the arrays of a step do not compete for the same cache sets.
   *
   * @param shape sizes of the dimensions, or the length of the only one
   * @throws TypeError for an unknown option, RangeError for a negative or
   *   fractional size or too much memory, and where `device` names one that is
   *   not usable, with the reason
   */
  static zeros<D extends DType = 'float32'>(
    shape: number | readonly number[],
    options: TensorZerosOptions<D> = {},
  ): Tensor<D> {
    const given = readOptions(options, 'options', ['dtype', 'device', 'pinned']);
    const dtype = (given.dtype === undefined ? 'float32' : checkDType(given.dtype, 'dtype')) as D;
    const sizes = checkShape(shape, 'shape');
    const pinned = checkBoolean(given.pinned ?? false, 'pinned');
    const device = resolveDevice(given.device ?? 'cpu', 'device');
    if (pinned && device !== 'cpu') throw outOfRange(`false beside device '${device}'`, 'pinned', pinned);
    const pinning = pinned ? pinningDevice() : null;
    if (pinning !== null) {
      return new Tensor<D>(dtype, sizes, allocatePinned(dtype, elementsOf(sizes), pinning), device, true);
    }
    const tensor = Tensor.allocate(sizes, dtype, device);
    // What fills it runs on one thread, and would put all pages near that one. States, which nobody fills, are touched
    // by the threads of the first step.
    if (device === 'cpu') firstTouch(tensor.memory as Storage);
    return tensor;
  }

  /**
   * The tensor that toJSON() wrote, with the same values. Other numbers are
   * rounded to the nearest of the dtype, as by set().
   *
   * @param json what JSON.parse() returns, not the text itself
   * @param options where it goes, as of Tensor.zeros(): JSON does not say it
   * @throws TypeError for anything but a dtype, a shape and as many numbers, null
   *   among them, RangeError as Tensor.zeros()
   */
  static fromJSON<D extends DType>(json: TensorJSON<D>, options?: TensorFromJSONOptions): Tensor<D>;
  static fromJSON(json: unknown, options?: TensorFromJSONOptions): Tensor;
  static fromJSON(json: unknown, options: TensorFromJSONOptions = {}): Tensor {
    const { device, pinned } = readOptions(options, 'options', ['device', 'pinned']);
    const { dtype, shape, values } = checkTensorJSON(json);
    return Tensor.zeros(shape, { dtype, device, pinned }).set(values);
  }

  /**
   * Zeros on a device that is ready for use; on a GPU at an address that is
   * `residue` bytes modulo 64.
   *
   * @internal
   */
  static allocate<D extends DType>(shape: readonly number[], dtype: D, device: ResolvedDevice, residue = 0): Tensor<D> {
    const length = elementsOf(shape);
    const memory = device === 'cpu' ? allocate(dtype, length) : allocateOn(device, dtype, length, residue);
    return new Tensor<D>(dtype, shape, memory, device, true);
  }

  /**
   * A tensor over memory of a GPU that another library made. Nothing is copied,
   * and the memory is not freed. The bits of a step are ready for work that the
   * library puts on the optimizer's stream later, or after synchronize().
   *
   * @param pointer address of the first element, a multiple of the dtype's size
   * @throws TypeError for an unknown option, RangeError for an address that is
   *   not of a device, or of another device or context, or with too little
   *   memory behind it where the driver knows how much there is
   */
  static fromDevicePointer<D extends DType>(
    pointer: bigint | number,
    options: TensorFromDevicePointerOptions<D>,
  ): Tensor<D> {
    const address = checkPointer(pointer, 'pointer');
    const given = readOptions(options, 'options', ['shape', 'dtype', 'device', 'owner']);
    const dtype = checkDType(given.dtype, 'dtype') as D;
    const shape = checkShape(given.shape, 'shape');
    const bytes = elementsOf(shape) * bytesOf(dtype);
    const wanted = given.device === undefined ? null : resolveDevice(given.device, 'device');
    if (wanted === 'cpu') throw outOfRange("'cuda' or 'cuda:N'", 'device', given.device);
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
    const memory = new cuda.DeviceMemory(info.device, bytes, address, given.owner);
    return new Tensor<D>(dtype, shape, memory, device, false);
  }

  /**
   * A tensor of another library, which a Node addon hands over as DLPack has it:
   * the address of a DLManagedTensor (a bigint or an External), or a capsule,
   * which may also be of a DLManagedTensorVersioned. Nothing is copied. The
   * deleter is called once, in this thread, after dispose() or when the Tensor is
   * garbage and no work uses the memory.
   *
   * A GPU's memory must be ready for the optimizer's stream: see waitEvent().
   *
   * @param capsule contiguous float16, bfloat16, float32 or float64 on the CPU
   *   (page-locked, too) or on a GPU that is usable
   * @throws TypeError for anything else than a capsule or an address, RangeError
   *   for one that was used already, is read-only or strided, or has another
   *   dtype or device, and without the native backend; then nothing was taken
   */
  static fromDlpack(capsule: DlpackCapsule | bigint | object): Tensor {
    const { dtype, shape, memory, device, giveBack } = takeDlpack(capsule);
    const tensor = new Tensor(dtype, shape, memory, device, false);
    tensor.#giveBack = giveBack;
    return tensor;
  }

  /**
   * This tensor for another library, as DLPack has it. Nothing is copied, and the
   * memory is kept until that library calls the deleter (or, if none takes the
   * tensor, until the capsule is garbage), also after dispose(). A step's values
   * are ready for it on the optimizer's stream, and after synchronize().
   *
   * @param options.versioned false for a library from before DLPack 1.0
   * @throws RangeError without the native backend
   */
  toDlpack(options: { readonly versioned?: boolean } = {}): DlpackCapsule {
    const { versioned = true } = readOptions(options, 'options', ['versioned']);
    return makeCapsule(this.#live(), this.dtype, this.shape, checkBoolean(versioned, 'versioned'));
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
    if (!ArrayBuffer.isView(memory)) {
      memory.share();
      return memory.pointer;
    }
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
    return this.#decode(this.#onHost(), this.length);
  }

  /** The values, as of toArray(): `Array.from(tensor)` and `new Float32Array(tensor)` are copies of them. */
  [Symbol.iterator](): IterableIterator<number> {
    return this.toArray()[Symbol.iterator]();
  }

  /**
   * Not indexed: code that takes a Tensor for an array, as `array.set(tensor)` and `Buffer.from(tensor)` do, would read
   * undefined and make NaN or 0 of it without a word.
   *
   * @internal
   */
  get 0(): never {
    throw wrongKindIn('tensor.data or tensor.toArray()', 'an element by its index', 'the Tensor itself');
  }

  /** @internal */
  set 0(_: never) {
    void this[0];
  }

  /**
   * dtype, shape and all values, for JSON.stringify() and Tensor.fromJSON().
   * Values keep their bits: NaN, the infinities and -0, which JSON lacks, are
   * strings. Of a NaN the sign and the payload are not kept.
   */
  toJSON(): TensorJSON<D> {
    return { dtype: this.dtype, shape: [...this.shape], data: toNumbers(this.toArray()) };
  }

  /**
   * For console.log(): dtype, shape and the first values, those on a GPU left
   * out.
   *
   * @internal
   */
  [inspect.custom](depth: number, options: InspectOptions): string {
    if (!(this instanceof Tensor)) return 'Tensor without memory';
    const { dtype, shape, device, length } = this;
    const head = `Tensor ${dtype} [${shape.join(', ')}]`;
    const memory = this.#memory;
    if (memory === null) return `${head} (disposed)`;
    if (!ArrayBuffer.isView(memory)) return `${head} on ${device}`;
    if (isGone(memory, length)) return `${head} (its memory is detached)`;
    if (depth < 0) return head;
    const shown = Math.min(length, options?.maxArrayLength ?? MAX_SHOWN);
    const values = inspect(Array.from(this.#decode(memory, shown)), { ...options, maxArrayLength: null });
    return shown === length ? `${head} ${values}` : `${head} ${values} and ${length - shown} more`;
  }

  /**
   * Sets all values, each rounded to the nearest of the dtype. A call that throws
   * has changed nothing.
   *
   * @param values as many numbers as the tensor has elements; each is read once
   * @throws TypeError for anything but a list of numbers, RangeError for another length
   */
  set(values: ArrayLike<number>): this {
    if (values instanceof Tensor) throw wrongKind('a list of numbers, not what copyFrom() takes,', 'values', values);
    const numbers = checkNumbers(values, 'values', this.length);
    const elements = isHalf(this.dtype) ? encodeAll(numbers, encoderOf(this.dtype)) : numbers;
    const memory = this.#idle('written'); // only now: a getter among the values may do anything
    if (ArrayBuffer.isView(memory)) {
      setTypedArray(memory, elements);
    } else {
      const copy = newStorage(this.dtype, this.length);
      setTypedArray(copy, elements);
      cudaAddon().copy(memory, copy);
    }
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
    const to = this.#idle('written');
    const from = source.#idle('read', 'source');
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
    const to = this.#idle('written');
    const from = source.#idle('read', 'source');
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

  /**
   * Lets go of the memory; every later use throws. A second call does nothing.
   *
   * @throws RangeError while an asynchronous step uses it
   */
  dispose(): void {
    if (this.#memory === null) return;
    checkIdle(this.#memory, 'written', () => 'this');
    disposals++;
    if (!ArrayBuffer.isView(this.#memory)) this.#memory.dispose();
    this.#giveBack?.();
    this.#memory = null;
  }

  /** The same, for `using`. */
  [Symbol.dispose](): void {
    this.dispose();
  }

  /** @internal */
  get [ORIGIN](): object | null {
    return #memory in this ? THIS_COPY : null;
  }

  /** The first values of memory of the dtype, a copy. */
  #decode(data: Storage, length: number): Float32Array | Float64Array {
    const values = this.dtype === 'float64' ? new Float64Array(length) : new Float32Array(length);
    if (isHalf(this.dtype)) {
      const decode = decoderOf(this.dtype);
      for (let i = 0; i < length; i++) values[i] = decode(data[i]);
    } else {
      const { dtype } = this;
      setTypedArray(values, viewOf(dtype, typedArrayBuffer(data), typedArrayByteOffset(data), length));
    }
    return values;
  }

  #kept(name = 'this'): Memory {
    if (this.#memory === null) throw outOfRangeIn('a live Tensor', name, 'one that was disposed of');
    return this.#memory;
  }

  /** The memory, if nobody has detached it. */
  #live(name = 'this'): Memory {
    const memory = this.#kept(name);
    if (ArrayBuffer.isView(memory) && isGone(memory, this.length)) throw detached(name);
    return memory;
  }

  /** The memory, unless an asynchronous step uses it. */
  #idle(access: Access, name = 'this'): Memory {
    const memory = this.#live(name);
    checkIdle(memory, access, () => name);
    return memory;
  }

  /** The memory, or a copy of that of a GPU. */
  #onHost(): Storage {
    const memory = this.#idle('read');
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

refuseAssignment(Tensor.prototype, 'data', () =>
  wrongKindIn('values by set() or copyFrom()', 'data', 'an assignment, which cannot change it'),
);

/** The bits of numbers; a copy, as the numbers may lie in the memory that they are to be set to. */
function encodeAll(numbers: ArrayLike<number>, encode: (value: number) => number): Uint16Array {
  const length = typedArrayLength(numbers);
  const bits = new Uint16Array(length);
  for (let i = 0; i < length; i++) bits[i] = encode(numbers[i]);
  return bits;
}

/** Whether memory of so many elements was detached. */
function isGone(memory: Storage, length: number): boolean {
  return length > 0 && memory[length - 1] === undefined;
}
