/** DLPack: tensors of other libraries, and ours for them, without a copy. */
import { types } from 'node:util';
import { cudaAbsent, cudaAddon } from '../backend/cuda.js';
import type { DlpackAddon, DlpackDescription, DlpackHold } from '../backend/dlpack-addon.js';
import { loadBackend } from '../backend/index.js';
import { checkPointer, outOfRange, outOfRangeIn, wrongKind } from '../errors.js';
import { bytesOf, type DType, type Storage, viewOf } from '../numerics/dtype.js';
import { pin } from './allocator.js';
import { cudaDevice, ordinalOf, type ResolvedDevice, resolveDevice } from './device.js';
import { checkShape, elementsOf } from './shape.js';

/**
 * A tensor on its way to another library, with the names that DLPack gives to
 * capsules of Python: who takes the tensor puts `used_` before the name, and
 * calls the deleter once it has no more use for it.
 */
export interface DlpackCapsule {
  /** 'dltensor': a DLManagedTensor; 'dltensor_versioned': a DLManagedTensorVersioned. */
  name: string;
  /** Its address, or an External with it. */
  readonly pointer: unknown;
}

const UNVERSIONED = 'dltensor';
const VERSIONED = 'dltensor_versioned';
const USED = 'used_';

/** DLDataTypeCode and bits. */
const TYPES: Readonly<Record<DType, readonly [code: number, bits: number]>> = {
  float16: [2, 16],
  bfloat16: [4, 16],
  float32: [2, 32],
  float64: [2, 64],
};

/** DLDeviceType: the CPU, a GPU, page-locked memory, managed memory. */
const CPU = 1;
const CUDA = 2;
const CUDA_HOST = 3;
const CUDA_MANAGED = 13;

interface Taken {
  readonly dtype: DType;
  readonly shape: readonly number[];
  readonly memory: Storage | InstanceType<ReturnType<typeof cudaAddon>['DeviceMemory']>;
  readonly device: ResolvedDevice;
  /** Gives memory of the host back: its buffer is detached. */
  readonly giveBack: () => void;
}

/** Takes a tensor over: its deleter is called when the memory is not used any more. If this throws, nothing was taken. */
export function takeDlpack(capsule: unknown): Taken {
  const dlpack = dlpackAddon('capsule');
  const { pointer, isVersioned, rename } = openCapsule(capsule);
  const description = dlpack.describe(pointer, isVersioned);
  const { dtype, shape } = checkDescription(description);
  const bytes = elementsOf(shape) * bytesOf(dtype);
  const isOnHost = description.deviceType === CPU || description.deviceType === CUDA_HOST;
  const device = isOnHost ? 'cpu' : deviceOf(description, bytes);
  const hold = new dlpack.Hold();
  rename(USED); // first: a capsule that was taken and does not know it would call the deleter again
  try {
    hold.take(pointer, isVersioned);
    const memory = memoryOf(hold, description, dtype, bytes, device);
    return { dtype, shape, memory, device, giveBack: () => hold.release() };
  } catch (error) {
    rename('');
    hold.giveBack();
    throw error;
  }
}

/** The same for others. `memory` is kept until they call the deleter. */
export function makeCapsule(
  memory: Storage | object,
  dtype: DType,
  shape: readonly number[],
  isVersioned: boolean,
): DlpackCapsule {
  const [code, bits] = TYPES[dtype];
  return new (dlpackAddon('this').Capsule)(memory, code, bits, shape, isVersioned);
}

function dlpackAddon(name: string): DlpackAddon {
  const { addon, reason } = loadBackend();
  if (!addon) throw outOfRangeIn('the native backend', name, `the TypeScript backend (${reason})`);
  return addon.dlpack;
}

function openCapsule(capsule: unknown): { pointer: unknown; isVersioned: boolean; rename: (prefix: string) => void } {
  if (typeof capsule === 'bigint' || types.isExternal(capsule)) {
    return { pointer: checkAddress(capsule, 'capsule'), isVersioned: false, rename: () => {} };
  }
  if (typeof capsule !== 'object' || capsule === null) {
    throw wrongKind('a DLPack capsule, or the address of a DLManagedTensor,', 'capsule', capsule);
  }
  const given = capsule as DlpackCapsule;
  const { name, pointer } = given;
  if (name === USED + UNVERSIONED || name === USED + VERSIONED) {
    throw outOfRangeIn('a DLPack capsule', 'capsule', 'one that was used already');
  }
  if (name !== UNVERSIONED && name !== VERSIONED) {
    throw outOfRange(`'${UNVERSIONED}' or '${VERSIONED}'`, 'capsule.name', name);
  }
  return {
    pointer: checkAddress(pointer, 'capsule.pointer'),
    isVersioned: name === VERSIONED,
    rename: (prefix) => {
      given.name = prefix + name;
    },
  };
}

function checkAddress(pointer: unknown, name: string): unknown {
  if (types.isExternal(pointer)) return pointer;
  const address = checkPointer(pointer, name);
  if (address === 0n) throw outOfRange('an address', name, pointer);
  return address;
}

/** The dtype and the shape of a tensor that can be used in place. */
function checkDescription(description: DlpackDescription): { dtype: DType; shape: readonly number[] } {
  const { isInUse, major, isReadOnly, deviceType, code, bits, lanes, strides, address } = description;
  if (isInUse) throw outOfRangeIn('a DLPack tensor', 'capsule', 'one that is in use already');
  if (major > 1) throw outOfRangeIn('a tensor of DLPack 1', 'capsule', `one of DLPack ${major}`);
  if (isReadOnly) throw outOfRangeIn('a tensor that may be written', 'capsule', 'a read-only one');
  if (![CPU, CUDA, CUDA_HOST, CUDA_MANAGED].includes(deviceType)) {
    throw outOfRangeIn('memory of the CPU or of CUDA', 'capsule', `memory of DLPack's device type ${deviceType}`);
  }
  const dtype = (Object.keys(TYPES) as DType[]).find((each) => TYPES[each][0] === code && TYPES[each][1] === bits);
  if (dtype === undefined || lanes !== 1) {
    const type = `DLPack's type ${code} of ${bits} bits and ${lanes} lanes`;
    throw outOfRangeIn('float16, bfloat16, float32 or float64', 'capsule', type);
  }
  const shape = checkShape(description.shape, 'capsule.shape');
  if (strides && !isContiguous(shape, strides)) {
    throw outOfRangeIn(`contiguous strides for shape [${shape.join(', ')}]`, 'capsule', `[${strides.join(', ')}]`);
  }
  if (elementsOf(shape) > 0 && address % BigInt(bytesOf(dtype)) !== 0n) {
    throw outOfRange(`an address that is a multiple of ${bytesOf(dtype)}`, 'capsule', address);
  }
  return { dtype, shape };
}

/** Whether the last dimension's elements are next to each other, and so on. The stride of a size 1 means nothing. */
function isContiguous(shape: readonly number[], strides: readonly number[]): boolean {
  if (elementsOf(shape) === 0) return true;
  let expected = 1;
  for (let i = shape.length - 1; i >= 0; i--) {
    if (shape[i] !== 1 && strides[i] !== expected) return false;
    expected *= shape[i];
  }
  return true;
}

/** The GPU of a tensor, made ready, once the driver has agreed that its memory is there. */
function deviceOf({ deviceId, address }: DlpackDescription, bytes: number): `cuda:${number}` {
  const reason = cudaAbsent();
  if (reason !== null) throw outOfRangeIn('memory that can be used', 'capsule', `that of a GPU (${reason})`);
  const device = cudaDevice(deviceId);
  resolveDevice(device, 'capsule');
  if (bytes === 0) return device;
  const info = cudaAddon().pointerInfo(address, bytes);
  if (typeof info === 'string') throw outOfRangeIn(`memory of ${device}`, 'capsule', info);
  if (info.device !== deviceId)
    throw outOfRangeIn(`memory of ${device}`, 'capsule', `that of ${cudaDevice(info.device)}`);
  if (bytes > info.bytes) throw outOfRangeIn(`at least ${bytes} bytes`, 'capsule', `memory of ${info.bytes} bytes`);
  return device;
}

function memoryOf(
  hold: DlpackHold,
  { address }: DlpackDescription,
  dtype: DType,
  bytes: number,
  device: ResolvedDevice,
): Taken['memory'] {
  if (device !== 'cpu') {
    const { DeviceMemory } = cudaAddon();
    const memory = new DeviceMemory(ordinalOf(device), bytes, address, hold);
    hold.release(); // from here on the memory holds it
    return memory;
  }
  const buffer = bytes === 0 ? new ArrayBuffer(0) : hold.buffer(bytes);
  pin(buffer);
  return viewOf(dtype, buffer, 0, bytes / bytesOf(dtype));
}
