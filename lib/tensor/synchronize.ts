/** Waiting for a GPU, and making it wait. */
import { cudaAddon } from '../backend/cuda.js';
import { checkPointer, outOfRange, outOfRangeIn } from '../errors.js';
import type { Device } from '../numerics/dtype.js';
import { readOptions } from '../options.js';
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

/** Options of waitEvent(). */
export interface WaitEventOptions {
  /** The GPU that waits. Default 'cuda'. */
  readonly device?: Device;
  /** The stream whose work waits, as AdamW's: a CUstream or cudaStream_t. Default 0n, the legacy default stream. */
  readonly stream?: bigint | number;
}

/**
 * Lets a GPU wait for work of another library: what is put on the stream from
 * now on (steps of an optimizer with that stream) and copyAsync() come after the
 * event. Returns at once. On the default stream, all copies and whatever other
 * streams synchronise with it come after it, too.
 *
 * @param event a CUevent or cudaEvent_t that was recorded, of any GPU
 * @throws TypeError for an unknown option, RangeError for a device that is not
 *   usable, for 0 and for a stream of another context, Error for an event or a
 *   stream of a capture
 */
export function waitEvent(event: bigint | number, options: WaitEventOptions = {}): void {
  const handle = checkPointer(event, 'event');
  if (handle === 0n) throw outOfRange('a CUevent', 'event', event);
  const { device = 'cuda', stream = 0n } = readOptions(options, 'options', ['device', 'stream']);
  const streamHandle = checkPointer(stream, 'stream');
  const resolved = resolveDevice(device, 'device');
  if (resolved === 'cpu') throw outOfRange("'cuda' or 'cuda:N'", 'device', device);
  const instead = cudaAddon().waitEvent(ordinalOf(resolved), handle, streamHandle);
  if (instead !== null) throw outOfRangeIn(`a stream of ${resolved}`, 'stream', instead);
}
