/** The memory of the host that asynchronous steps use, in this thread. */
import type { Memory } from '../backend/backend.js';
import { busy } from '../errors.js';
import { typedArrayBuffer, typedArrayByteLength, typedArrayByteOffset } from '../numerics/typed-arrays.js';

export type Access = 'read' | 'written';

/** Bytes of a buffer. Small arrays share one. */
interface Range {
  readonly begin: number;
  readonly end: number;
  readonly access: Access;
}

type Ranges = ReadonlyMap<ArrayBufferLike, readonly Range[]>;

/** Of each step that is in flight. */
const steps = new Set<Ranges>();

/** Whether no step is in flight. */
export function isAllIdle(): boolean {
  return steps.size === 0;
}

/** @throws RangeError, with the code FUSED_ADAMW_BUSY, where a step in flight writes memory, or reads what is to be written */
export function checkIdle(memory: Memory, access: Access, name: () => string): void {
  if (steps.size === 0 || !ArrayBuffer.isView(memory)) return;
  const { begin, end } = rangeOf(memory, access);
  for (const ranges of steps) {
    for (const range of ranges.get(typedArrayBuffer(memory)) ?? []) {
      const isShared = range.begin < end && begin < range.end;
      if (isShared && (access === 'written' || range.access === 'written')) {
        throw busy('idle memory', name(), 'memory that is busy with an asynchronous step');
      }
    }
  }
}

/** Takes memory for a step; what is returned gives it back. */
export function take(arrays: Iterable<readonly [memory: Memory, access: Access]>): () => void {
  const ranges = new Map<ArrayBufferLike, Range[]>();
  for (const [memory, access] of arrays) {
    if (!ArrayBuffer.isView(memory)) continue;
    const buffer = typedArrayBuffer(memory);
    const range = rangeOf(memory, access);
    const known = ranges.get(buffer);
    if (known) known.push(range);
    else ranges.set(buffer, [range]);
  }
  steps.add(ranges);
  return () => steps.delete(ranges);
}

function rangeOf(memory: ArrayBufferView, access: Access): Range {
  const begin = typedArrayByteOffset(memory);
  return { begin, end: begin + typedArrayByteLength(memory), access };
}
