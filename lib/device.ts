/** Which devices there are. */
import type { Device } from './dtype.js';
import { outOfRangeIn, wrongKind } from './errors.js';

/** A device that a tensor can lie on in this version. */
export type ResolvedDevice = 'cpu';

/** Why CUDA is not usable. */
export const CUDA_REASON = 'this version of fused-adamw has no CUDA backend';

/**
 * The device that a name stands for; 'auto' is the CPU where CUDA is not usable.
 *
 * @throws RangeError for a CUDA device, with the reason why there is none
 */
export function checkDevice(device: unknown, name: string): ResolvedDevice {
  if (device === 'cpu' || device === 'auto') return 'cpu';
  if (typeof device === 'string' && /^cuda(:\d+)?$/.test(device)) {
    throw outOfRangeIn('a usable device', name, `'${device}' (${CUDA_REASON})`);
  }
  throw wrongKind("'cpu', 'cuda', 'cuda:N' or 'auto'", name, device);
}

export type { Device };
