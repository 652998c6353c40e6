/** Arrays that share memory of which one is written. */
import { typedArrayBuffer, typedArrayByteLength, typedArrayByteOffset } from '../numerics/typed-arrays.js';
import { ROLES, type Role } from './abi.js';
import type { Arrays, Memory, Overlap, TensorArrays } from './backend.js';
import { sameMemory } from './shared-memory.js';

interface Range {
  readonly begin: number;
  readonly end: number;
  readonly role: Role;
  readonly tensor: number;
}

/**
 * The first two arrays that share memory of which one is written. Two SharedArrayBuffers may be one memory; that two ArrayBuffers are,
 * which only native code can make, goes unseen here.
 */
export function findOverlap({ lists }: Pick<TensorArrays, 'lists'>, grads: readonly Memory[]): Overlap | null {
  const written = new Map<ArrayBufferLike | number, Range[]>();
  const first = sameMemory(buffersOf([...lists, grads]));
  /** A buffer, or the number of a GPU. */
  const memoryOf = (array: Memory): ArrayBufferLike | number => {
    if ('pointer' in array) return array.device;
    const buffer = typedArrayBuffer(array);
    return first.get(buffer) ?? buffer;
  };
  const rangeOf = (array: Memory, role: Role, tensor: number): Range => {
    const begin = 'pointer' in array ? Number(array.pointer) : typedArrayByteOffset(array); // addresses have at most 49 bits
    return { begin, end: begin + lengthOf(array), role, tensor };
  };
  lists.forEach((arrays, role) => {
    if (ROLES[role].access !== 'written') return;
    arrays?.forEach((array, i) => {
      if (!array || lengthOf(array) === 0) return;
      const memory = memoryOf(array);
      const ranges = written.get(memory);
      const range = rangeOf(array, ROLES[role].name, i);
      if (ranges) ranges.push(range);
      else written.set(memory, [range]);
    });
  });
  // Of several overlaps the one that comes first in the lists, as in native/core/tensor-list.cc.
  const overlaps: (readonly [Range, Range])[] = [];
  for (const ranges of written.values()) {
    ranges.sort((a, b) => a.begin - b.begin);
    for (let i = 1; i < ranges.length; i++) {
      if (ranges[i].begin < ranges[i - 1].end) overlaps.push([ranges[i], ranges[i - 1]]);
    }
  }
  const position = ([{ role, tensor }]: readonly [Range, Range]): number =>
    ROLES.findIndex(({ name }) => name === role) * grads.length + tensor;
  overlaps.sort((a, b) => position(a) - position(b));
  if (overlaps.length > 0) return overlapOf(...overlaps[0]);
  for (let i = 0; i < grads.length; i++) {
    if (lengthOf(grads[i]) === 0) continue;
    const grad = rangeOf(grads[i], 'grad', i);
    const before = lastBeginningBefore(written.get(memoryOf(grads[i])) ?? [], grad.end);
    if (before && before.end > grad.begin) return overlapOf(before, grad);
  }
  return null;
}

/** The first two arrays of a list that share memory. */
export function findShared(arrays: Arrays<Memory>): Overlap | null {
  return findOverlap({ lists: [arrays] }, []);
}

function lengthOf(array: Memory): number {
  return 'pointer' in array ? array.byteLength : typedArrayByteLength(array);
}

function buffersOf(lists: readonly (Arrays<Memory> | undefined)[]): Set<ArrayBufferLike> {
  const buffers = new Set<ArrayBufferLike>();
  for (const arrays of lists) {
    arrays?.forEach((array) => {
      if (array && !('pointer' in array)) buffers.add(typedArrayBuffer(array));
    });
  }
  return buffers;
}

/** The last of sorted ranges that begins before `end`: written ranges do not overlap, so only it can reach that far. */
function lastBeginningBefore(ranges: readonly Range[], end: number): Range | undefined {
  let low = 0;
  let high = ranges.length;
  while (low < high) {
    const middle = (low + high) >>> 1;
    if (ranges[middle].begin < end) low = middle + 1;
    else high = middle;
  }
  return ranges[low - 1];
}

function overlapOf(written: Range, other: Range): Overlap {
  return { written: written.role, writtenTensor: written.tensor, other: other.role, otherTensor: other.tensor };
}
