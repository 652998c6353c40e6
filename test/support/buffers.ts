/** Memory that is taken away or may change its size. */
import type { Tensor } from '../../lib/index.js';

/** The bytes of a buffer in hexadecimal; none of a detached one. */
export function bytesOf(buffer: ArrayBufferLike): string {
  return buffer.byteLength === 0 ? '' : Buffer.from(buffer).toString('hex');
}

/** Moves the memory of a buffer to a new one, which is returned, and leaves the buffer detached. */
export function detach(buffer: ArrayBufferLike): ArrayBuffer {
  return structuredClone(buffer as ArrayBuffer, { transfer: [buffer as ArrayBuffer] });
}

/** The same array, whose buffer is detached. */
export function detached<T extends { readonly buffer: ArrayBufferLike }>(array: T): T {
  detach(array.buffer);
  return array;
}

/** The same tensor, disposed of. */
export function disposed(tensor: Tensor): Tensor {
  tensor.dispose();
  return tensor;
}

interface ResizableOptions {
  readonly maxByteLength: number;
}

/** A resizable ArrayBuffer; es2022 does not declare it. */
export function resizableBuffer(bytes: number): ArrayBuffer {
  const Resizable = ArrayBuffer as unknown as new (bytes: number, options: ResizableOptions) => ArrayBuffer;
  return new Resizable(bytes, { maxByteLength: 2 * bytes });
}

/** A growable SharedArrayBuffer. */
export function growableBuffer(bytes: number): SharedArrayBuffer {
  const Growable = SharedArrayBuffer as unknown as new (bytes: number, options: ResizableOptions) => SharedArrayBuffer;
  return new Growable(bytes, { maxByteLength: 2 * bytes });
}
