/** Where tensors lie, and which GPUs can be used. */
import { cudaUnusable } from '../backend/cuda.js';
import { outOfRangeIn, wrongKind } from '../errors.js';

/** A device by its one name: `cuda` alone is `cuda:0`. */
export type ResolvedDevice = 'cpu' | `cuda:${number}`;

/**
 * The device that a name stands for, ready for use; 'auto' is the first GPU
 * where that can be used, else the CPU.
 *
 * @throws RangeError for a GPU that cannot be used, with the reason
 */
export function resolveDevice(device: unknown, name: string): ResolvedDevice {
  if (device === 'cpu') return 'cpu';
  if (device === 'auto') return cudaUnusable(0) === null ? 'cuda:0' : 'cpu';
  const ordinal = typeof device === 'string' ? /^cuda(?::(\d{1,9}))?$/.exec(device) : null;
  if (!ordinal) throw wrongKind("'cpu', 'cuda', 'cuda:N' or 'auto'", name, device);
  const resolved = cudaDevice(Number(ordinal[1] ?? 0));
  const reason = cudaUnusable(ordinalOf(resolved));
  if (reason !== null) throw outOfRangeIn('a usable device', name, `'${device}' (${reason})`);
  return resolved;
}

export function cudaDevice(ordinal: number): `cuda:${number}` {
  return `cuda:${ordinal}`;
}

/** The number of a GPU. */
export function ordinalOf(device: `cuda:${number}`): number {
  return Number(device.slice('cuda:'.length));
}
