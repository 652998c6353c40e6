/** Waiting for a GPU. */
import { cudaAddon } from '../backend/cuda.js';
import type { Device } from '../numerics/dtype.js';
import { ordinalOf, resolveDevice } from './device.js';

/**
 * Waits until all steps and copies of this package on a device are done. Values
 * that toArray() or copyFrom() bring to the host never need it; other libraries
 * that read a device's memory do, unless they use the optimizer's stream.
 *
 * @param device by default the first GPU where one can be used; nothing is to be waited for on the CPU
 * @throws RangeError where the device is not usable, with the reason
 */
export function synchronize(device: Device | 'auto' = 'auto'): void {
  const resolved = resolveDevice(device, 'device');
  if (resolved !== 'cpu') cudaAddon().synchronize(ordinalOf(resolved));
}
