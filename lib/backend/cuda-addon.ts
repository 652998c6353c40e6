/** What native/node/addon-cuda.cc exports. */
import type { Storage } from '../numerics/dtype.js';

/** A range of a GPU's memory. */
export interface DeviceMemory {
  /** Number of the GPU. */
  readonly device: number;
  readonly pointer: bigint;
  readonly byteLength: number;
  /** Gives it back once no work in flight uses it. */
  dispose(): void;
}

export interface AddonBinding {
  setGrads(grads: readonly DeviceMemory[]): [number, number, number, number] | null;
  setGroups(groupOf: Uint32Array, scalars: Float64Array): void;
  begin(): void;
  step(first: number, last: number): void;
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
  readonly Binding: new (
    device: number,
    stream: bigint,
    rule: number,
    layouts: Uint8Array,
    keys: Uint32Array,
    weights: readonly DeviceMemory[],
    means: readonly DeviceMemory[],
    variances: readonly DeviceMemory[],
    masters: readonly (DeviceMemory | undefined)[],
  ) => AddonBinding;
  probe(): { driverVersion?: number; devices?: DriverDevice[]; reason?: string };
  unusable(device: number): string | null;
  pointerInfo(pointer: bigint, wanted: number): { device: number; bytes: number } | string;
  copy(to: Storage | DeviceMemory, from: Storage | DeviceMemory): void;
  startCopy(to: Storage | DeviceMemory, from: Storage | DeviceMemory): Promise<void>;
  pinned(bytes: number, device: number): ArrayBuffer;
  usedDevice(): number;
  synchronize(device: number): void;
  setDeviceCode(paths: readonly string[]): void;
}
