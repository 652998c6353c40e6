/** Memory of our own, on the host and on a GPU, placed for speed. */
import { markAsUntransferable } from 'node:worker_threads';
import { cudaAddon } from '../backend/cuda.js';
import type { DeviceMemory } from '../backend/cuda-addon.js';
import { loadBackend } from '../backend/index.js';
import { bytesOf, type DType, type Storage, viewOf } from '../numerics/dtype.js';
import { ordinalOf } from './device.js';

// Large arrays whose addresses are equal modulo a large power of two, or one page
// apart (as malloc places them), compete for cache sets and banks, so they are
// staggered over SLOTS offsets within a window (docs/performance.md). The largest
// ask for huge pages. Small arrays share slabs, as Node's own Buffers do, so that
// neighbours in a list are neighbours in memory.
/** Bytes; every array of ours begins at a multiple of it. */
export const ALIGNMENT = 64;
const SLOT = 16 * 1024;
const SLOTS = 16;
const WINDOW = SLOT * SLOTS;
const STAGGER_FROM = 1024 * 1024; // bytes
const HUGE_PAGES_FROM = 4 * 1024 * 1024; // bytes
const SMALL = 4 * 1024; // bytes
const SLAB = 256 * 1024; // bytes
/** Of arrays that allocate() and allocatePinned() returned. */
const buffersOfOurs = new WeakSet<ArrayBufferLike>();
let nextSlot = 0;
let slab = { buffer: new ArrayBuffer(0), used: 0 };

/** Zeros, aligned and placed. */
export function allocate(dtype: DType, length: number): Storage {
  const bytes = length * bytesOf(dtype);
  if (bytes > SMALL) {
    const stagger = bytes >= STAGGER_FROM;
    const buffer = newBuffer(bytes, stagger ? WINDOW : ALIGNMENT);
    if (bytes >= HUGE_PAGES_FROM) loadBackend().addon?.preferHugePages(buffer);
    return viewOf(dtype, buffer, offsetOf(buffer, stagger), length);
  }
  if (slab.used + bytes > slab.buffer.byteLength) {
    const buffer = newBuffer(SLAB, 0);
    slab = { buffer, used: offsetOf(buffer, false) };
  }
  const byteOffset = slab.used;
  slab.used += Math.ceil(bytes / ALIGNMENT) * ALIGNMENT;
  return viewOf(dtype, slab.buffer, byteOffset, length);
}

/**
 * Lets the threads of a step touch large memory first, each the share that it
 * will work on, so that pages are near it on machines with several memories.
 */
export function firstTouch({ buffer, byteOffset, byteLength }: Storage): void {
  if (byteLength >= HUGE_PAGES_FROM) loadBackend().addon?.firstTouch(buffer as ArrayBuffer, byteOffset, byteLength);
}

/** Zeros in a buffer of their own, for a temporary copy. */
export function newStorage(dtype: DType, length: number): Storage {
  return viewOf(dtype, new ArrayBuffer(length * bytesOf(dtype)), 0, length);
}

/** Zeros in page-locked memory. */
export function allocatePinned(dtype: DType, length: number, device: number): Storage {
  const bytes = length * bytesOf(dtype);
  if (bytes === 0) return newStorage(dtype, length);
  const buffer = cudaAddon().pinned(bytes, device);
  pin(buffer);
  buffersOfOurs.add(buffer);
  return viewOf(dtype, buffer, 0, length);
}

/** Zeros on a GPU, at an address that is `residue` modulo ALIGNMENT. */
export function allocateOn(device: `cuda:${number}`, dtype: DType, length: number, residue: number): DeviceMemory {
  const { DeviceMemory: Allocation } = cudaAddon();
  const bytes = length * bytesOf(dtype);
  if (!Number.isSafeInteger(bytes)) throw cannotAllocate(bytes);
  return new Allocation(ordinalOf(device), bytes, residue);
}

/** Bytes from the start of a buffer to the next aligned or staggered address. */
function offsetOf(buffer: ArrayBuffer, stagger: boolean): number {
  const { addon } = loadBackend();
  if (!addon) return 0; // without native code nothing depends on addresses
  const address = Number(addon.address(buffer) % BigInt(WINDOW));
  if (!stagger) return (ALIGNMENT - (address % ALIGNMENT)) % ALIGNMENT;
  const slot = nextSlot;
  nextSlot = (nextSlot + 1) % SLOTS;
  return (slot * SLOT + WINDOW - address) % WINDOW;
}

function cannotAllocate(bytes: number): RangeError {
  return new RangeError(`Cannot allocate ${bytes} bytes for shape`);
}

function newBuffer(bytes: number, spare: number): ArrayBuffer {
  let buffer: ArrayBuffer;
  try {
    buffer = new ArrayBuffer(bytes + spare);
  } catch {
    throw cannotAllocate(bytes);
  }
  pin(buffer);
  buffersOfOurs.add(buffer);
  return buffer;
}

/** Whether a buffer is memory that was allocated here. */
export function isOurs(buffer: ArrayBufferLike): boolean {
  return buffersOfOurs.has(buffer);
}

/** Native code keeps the address of this memory, so it must neither be transferred nor resized. */
export function pin(buffer: ArrayBuffer): void {
  markAsUntransferable(buffer);
  for (const method of ['transfer', 'transferToFixedLength', 'resize']) {
    if (!(method in buffer)) continue;
    Object.defineProperty(buffer, method, {
      value: () => {
        throw new TypeError(`Expected memory that may move for ${method} but received that of a Tensor`);
      },
    });
  }
}

/**
 * Whether pin() holds whatever is called: in Node 22 ArrayBuffer.prototype.transfer takes the memory away all the same.
 */
export const pinHolds: boolean = (() => {
  const buffer = new ArrayBuffer(8);
  markAsUntransferable(buffer);
  const { transfer } = ArrayBuffer.prototype as { transfer?: () => ArrayBuffer };
  try {
    transfer?.call(buffer);
  } catch {
    return true;
  }
  return buffer.byteLength > 0;
})();
