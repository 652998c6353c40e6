/** GPUs for tests: arrays on them, and direct calls of the driver. */
import { createRequire } from 'node:module';
import { join } from 'node:path';
import { backendInfo, type DType, Tensor } from '../../lib/index.js';
import { repository, temporaryFolder } from './child.js';
import { compileLibrary, either, noCompiler, noCuda } from './conditions.js';
import { DTYPE_BYTES, type Place, tensorOf } from './memory.js';

/** Memory of a GPU that Tensors own. */
export const deviceMemory: Place = (dtype, length) => Tensor.zeros(length, { dtype, device: 'cuda' });

/** Memory of a GPU as another library may allocate it: aligned to no more than the element's size. */
export class OddDeviceMemory {
  #count = 0;

  readonly place: Place = (dtype, length) =>
    onDeviceAt(dtype, length, DTYPE_BYTES[dtype] * (1 + 2 * (this.#count++ % 7)));
}

/** Zeros on a GPU at an address of this residue modulo 64. */
export function onDeviceAt(dtype: DType, length: number, residue: number): Tensor {
  const bytes = DTYPE_BYTES[dtype];
  const owner = Tensor.zeros(length + 64 / bytes, { dtype, device: 'cuda' });
  return Tensor.fromDevicePointer(owner.pointer + BigInt(residue % 64), { shape: length, dtype, owner });
}

/** A copy of a tensor on a GPU, at the same address modulo 64. */
export function copyToDevice(tensor: Tensor): Tensor {
  const { byteOffset } = tensor.data;
  return onDeviceAt(tensor.dtype, tensor.length, byteOffset % 64).copyFrom(tensor);
}

/** The bits of an array on any device, as a Tensor of the host. */
export function toHost(tensor: Tensor): Tensor {
  return tensorOf(tensor).to('cpu');
}

const { cuda } = backendInfo();
const devices = cuda.available ? cuda.devices : [];

/** Bytes of memory of the first GPU, 0 without one. */
export const deviceBytes: number = devices[0]?.memory ?? 0;

/** Why there are not two GPUs, or null. */
export const noSecondGpu: string | null = noCuda ?? (devices.length > 1 ? null : 'there is one GPU');

/** Why no call of the driver can be made to fail, or null. */
export const noStandIn: string | null =
  noCuda ?? (devices[0].name.startsWith('Stand-in') ? null : 'no call of a real driver fails');

/** Why useDriverCalls() cannot be used, or null. */
export const noDriverCalls: string | null = either(noCuda, noCompiler);

/** Calls of the driver as another library would make them: test/native/cuda/driver-calls.c. */
interface DriverCalls {
  createStream(): bigint;
  synchronizeStream(stream: bigint): void;
  fill(pointer: bigint, stream: bigint): void;
  recordEvent(stream: bigint): bigint;
  allocate(bytes: bigint): bigint;
  free(pointer: bigint): void;
  allocateElsewhere(bytes: bigint): bigint;
  createStreamElsewhere(): bigint;
  allocateHost(bytes: bigint): bigint;
  freeBytes(): bigint;
  hasCurrentContext(): bigint;
  fail(call: string, after: number): void;
  pause(paused: bigint): void;
}

/** For a suite: a function that returns the calls, compiled when a test first needs them. */
export function useDriverCalls(): () => DriverCalls {
  const folder = temporaryFolder();
  let loaded: DriverCalls | undefined;
  return () => {
    if (loaded) return loaded;
    const path = join(folder.path, 'driver-calls.node');
    compileLibrary(join(repository, 'test/native/cuda/driver-calls.c'), path, ['-ldl']);
    loaded = createRequire(import.meta.url)(path) as DriverCalls;
    return loaded;
  };
}
