/** CUDA: whether it is usable and why not, and the part of the addon that speaks to it. */
import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { brotliDecompressSync } from 'node:zlib';
import type { AddonTensorListClass } from './addon-tensor-list.js';
import type { CudaAddon } from './cuda-addon.js';
import { environment } from './environment.js';
import { loadBackend } from './index.js';

type Cuda = { readonly addon: CudaAddon } | { readonly addon: null; readonly reason: string };

/** The addon's part for CUDA, which has not asked the driver for anything yet. */
export function loadCuda(): Cuda {
  if (environment('FUSED_ADAMW_DEVICE') === 'cpu') return { addon: null, reason: 'FUSED_ADAMW_DEVICE is cpu' };
  const { addon, reason } = loadBackend();
  if (!addon) return { addon: null, reason: `CUDA needs the native backend: ${reason}` };
  return { addon: addon.cuda };
}

/** The addon of a process where there is a driver with a device. */
export function cudaAddon(): CudaAddon {
  const { addon } = loadCuda();
  if (!addon) throw new Error('Expected CUDA for a Tensor on a GPU'); // such a Tensor was made with it
  giveDeviceCode(addon);
  return addon;
}

/** The device code that the package carries, compressed, if it is there. A whole literal, for tracers. */
function deviceCodePath(): string | null {
  if (typeof __dirname !== 'string') return null; // in a bundle that is an ES module
  const path = join(__dirname, '../../../prebuilds/fused_adamw.fatbin.br');
  return existsSync(path) ? path : null;
}

/** The device code, or why there is none. It takes 10 ms, so nobody asks where there is no device. */
function deviceCode(): Buffer | string {
  const path = deviceCodePath();
  if (path === null) return 'no device code is usable: the package carries none';
  try {
    return brotliDecompressSync(readFileSync(path));
  } catch (error) {
    return `no device code is usable: ${path}: ${(error as Error).message}`;
  }
}

/** Hands the device code to the addon once; returns why there is none, or null. */
function giveDeviceCode(addon: CudaAddon): string | null {
  if (addon.hasDeviceCode()) return null;
  const code = deviceCode();
  if (typeof code === 'string') return code;
  addon.setDeviceCode(code);
  return null;
}

/** Why there is no driver, or no device, without making one ready; null if there is. */
export function cudaAbsent(): string | null {
  const cuda = loadCuda();
  if (!cuda.addon) return cuda.reason;
  absent ??= { reason: cuda.addon.probe().reason ?? null };
  return absent.reason;
}

let absent: { readonly reason: string | null } | undefined;

/** Why a GPU cannot be used, found by making it ready; null if it can. */
export function cudaUnusable(device: number): string | null {
  const cuda = loadCuda();
  if (!cuda.addon) return cuda.reason;
  let reason = unusable.get(device);
  if (reason === undefined) {
    const withoutCode = cudaAbsent() === null ? giveDeviceCode(cuda.addon) : null;
    reason = withoutCode ?? cuda.addon.unusable(device);
    unusable.set(device, reason);
  }
  return reason;
}

/**
 * The GPU to make page-locked memory with, which serves all of them: one that
 * is ready already, so that no other is made ready, else the first. Null where
 * it cannot be used.
 */
export function pinningDevice(): number | null {
  const cuda = loadCuda();
  if (!cuda.addon) return null;
  const device = Math.max(0, cuda.addon.usedDevice());
  return cudaUnusable(device) === null ? device : null;
}

const unusable = new Map<number, string | null>();

/** The GPUs and what serves them, or why there are none that can be used. */
export type CudaInfo =
  | {
      /** Whether a GPU can be used. */
      readonly available: true;
      /** CUDA version of the driver, as '13.0'. */
      readonly driver: string;
      /** The GPUs, `cuda:0` first. */
      readonly devices: readonly {
        /** As the driver gives it. */
        readonly name: string;
        /** Compute capability, as '9.0'. */
        readonly computeCapability: string;
        /** Bytes of its memory. */
        readonly memory: number;
      }[];
      /** What the device code was made from, and by which compiler. */
      readonly deviceCode: string;
    }
  | {
      /** Whether a GPU can be used. */
      readonly available: false;
      /** Why not, in one line; docs/cuda.md says what to do. */
      readonly reason: string;
    };

/** What the driver tells of itself and its devices; none of them is made ready for it. */
export function cudaInfo(): CudaInfo {
  const cuda = loadCuda();
  if (!cuda.addon) return { available: false, reason: cuda.reason };
  const { driverVersion = 0, devices, reason } = cuda.addon.probe();
  const why = devices ? (unusable.get(0) ?? null) : (reason ?? 'there is no CUDA device');
  if (why !== null) return { available: false, reason: why };
  const code = deviceCode();
  if (typeof code === 'string') return { available: false, reason: code };
  return {
    available: true,
    driver: `${Math.floor(driverVersion / 1000)}.${Math.floor((driverVersion % 1000) / 10)}`,
    devices: (devices ?? []).map(({ name, computeCapability, bytes }) => ({ name, computeCapability, memory: bytes })),
    deviceCode: describeDeviceCode(code),
  };
}

/** The text that the build writes into the device code. */
function describeDeviceCode(bytes: Buffer): string {
  const start = bytes.indexOf('fused-adamw device code ');
  return start < 0 ? 'unknown' : bytes.toString('latin1', start, bytes.indexOf(0, start));
}

/** The class that keeps tensors of a GPU, in a process where some tensor lies on one already. */
export function cudaTensorListClass(): AddonTensorListClass {
  const { addon } = loadBackend();
  if (!addon) throw new Error('Expected CUDA for a Tensor on a GPU');
  return addon.TensorList;
}
