/** Arrays of the host that share memory of which one is written. */
import type { Storage } from '../numerics/dtype.js';
import {
  typedArrayBuffer,
  typedArrayByteLength,
  typedArrayByteOffset,
  typedArrayLength,
} from '../numerics/typed-arrays.js';
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
export function findOverlap(
  { lists }: Pick<TensorArrays<Storage>, 'lists'>,
  grads: readonly Storage[],
): Overlap | null {
  const written = new Map<ArrayBufferLike, Range[]>();
  const first = sameMemory(buffersOf([...lists, grads]));
  const memoryOf = (array: Storage): ArrayBufferLike => {
    const buffer = typedArrayBuffer(array);
    return first.get(buffer) ?? buffer;
  };
  const rangeOf = (array: Storage, role: Role, tensor: number): Range => {
    const begin = typedArrayByteOffset(array);
    return { begin, end: begin + typedArrayByteLength(array), role, tensor };
  };
  lists.forEach((arrays, role) => {
    if (ROLES[role].access !== 'written') return;
    arrays?.forEach((array, i) => {
      if (!array || typedArrayLength(array) === 0) return;
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
    if (typedArrayLength(grads[i]) === 0) continue;
    const grad = rangeOf(grads[i], 'grad', i);
    const before = lastBeginningBefore(written.get(memoryOf(grads[i])) ?? [], grad.end);
    if (before && before.end > grad.begin) return overlapOf(before, grad);
  }
  return null;
}

/** The first two arrays of a list that share memory, on the host or on a GPU. */
export function findShared(arrays: Arrays<Memory>): Overlap | null {
  const onHost = arrays.map((array) => (array && 'pointer' in array ? undefined : array));
  const overlap = findOverlap({ lists: [onHost] }, []);
  if (overlap) return overlap;
  const onDevice = arrays
    .flatMap((array, tensor) => (array && 'pointer' in array && array.byteLength > 0 ? [{ array, tensor }] : []))
    .sort((a, b) => a.array.device - b.array.device || (a.array.pointer < b.array.pointer ? -1 : 1));
  for (let i = 1; i < onDevice.length; i++) {
    const [before, next] = [onDevice[i - 1], onDevice[i]];
    if (before.array.device !== next.array.device) continue;
    if (before.array.pointer + BigInt(before.array.byteLength) <= next.array.pointer) continue;
    const [first, second] = before.tensor < next.tensor ? [before, next] : [next, before];
    const role = ROLES[0].name;
    return { written: role, writtenTensor: second.tensor, other: role, otherTensor: first.tensor };
  }
  return null;
}

function buffersOf(lists: readonly (Arrays<Storage> | undefined)[]): Set<ArrayBufferLike> {
  const buffers = new Set<ArrayBufferLike>();
  for (const arrays of lists) {
    arrays?.forEach((array) => {
      if (array) buffers.add(typedArrayBuffer(array));
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
