/** What the addon exports as `cuda` (native/node/cuda-exports.cc). */
import type { Storage } from '../numerics/dtype.js';

/** A range of a GPU's memory. */
export interface DeviceMemory {
  /** Number of the GPU. */
  readonly device: number;
  readonly pointer: bigint;
  /** The number by which the addon finds it in this thread. */
  readonly slot: number;
  readonly byteLength: number;
  /** Notes that other libraries may use it: asynchronous copies keep in order with their work. */
  share(): void;
  /** Frees it once no work in flight uses it. */
  dispose(): void;
}

export interface DriverDevice {
  readonly name: string;
  readonly computeCapability: string;
  readonly bytes: number;
}

export interface CudaAddon {
  readonly DeviceMemory: {
    new (device: number, bytes: number, residue: number): DeviceMemory;
    new (device: number, bytes: number, pointer: bigint, owner: unknown): DeviceMemory;
  };
  probe(): { driverVersion?: number; devices?: DriverDevice[]; reason?: string };
  unusable(device: number): string | null;
  pointerInfo(pointer: bigint, wanted: number): { device: number; bytes: number } | string;
  copy(to: Storage | DeviceMemory, from: Storage | DeviceMemory): void;
  startCopy(to: Storage | DeviceMemory, from: Storage | DeviceMemory): Promise<void>;
  pinned(bytes: number, device: number): ArrayBuffer;
  usedDevice(): number;
  synchronize(device: number): void;
  /** Returns what else the stream is, if it is not one of the device. */
  waitEvent(device: number, event: bigint, stream: bigint): string | null;
  /**
   * As BackendTensorList's sumsOfSquares(), for gradients on a GPU, after all work so far on it that is ours; the dtypes are
   * those of the gradients of dtype configurations.
   */
  sumsOfSquares(device: number, grads: readonly DeviceMemory[], configs: Uint8Array, sums: Float64Array): boolean;
  /** As HostBackend's, and without waiting; the dtypes are positions in ACCUMULATIONS. */
  accumulate(
    device: number,
    into: readonly DeviceMemory[],
    grads: readonly DeviceMemory[],
    dtypes: Uint8Array,
    scale: number,
  ): void;
  /** Whether some thread of the process has set it. */
  hasDeviceCode(): boolean;
  setDeviceCode(image: Uint8Array): void;
}
