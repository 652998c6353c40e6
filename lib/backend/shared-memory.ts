/** Which SharedArrayBuffers are one memory: postMessage() and structuredClone() make new objects of it. */
import { types } from 'node:util';
import { bufferLength } from '../numerics/typed-arrays.js';

/** Atomics.waitAsync(), which es2022 does not declare. */
type WaitAsync = (array: Int32Array, index: number, value: number) => { readonly async: boolean };

/**
 * For each of several buffers, the first of them that is the same memory.
 *
 * No address can be had in TypeScript, but the engine keeps those who wait for a
 * place of shared memory by its address. So one waits at the same place of each
 * buffer, nothing of which is changed, and it tells how many are woken through
 * each. Nobody can wait in buffers of less than four bytes; they are left alone.
 */
export function sameMemory(buffers: Iterable<ArrayBufferLike>): Map<ArrayBufferLike, ArrayBufferLike> {
  const shared = [...buffers].filter((buffer) => types.isSharedArrayBuffer(buffer) && bufferLength(buffer) >= 4);
  const first = new Map<ArrayBufferLike, ArrayBufferLike>();
  if (shared.length < 2) return first;
  // The last word that all of them have: others rather wait at the beginning, and would be woken.
  const words = shared.reduce((least, buffer) => Math.min(least, Math.floor(bufferLength(buffer) / 4)), Infinity);
  const places: Place[] = shared.map((buffer) => ({ buffer, word: new Int32Array(buffer, 4 * (words - 1), 1) }));
  for (const { word } of places) wait(word);
  const candidates: Place[] = [];
  for (const place of places) {
    const woken = Atomics.notify(place.word, 0);
    if (woken === 1) continue; // the only one here
    const before = woken === 0 ? firstOf(place.word, candidates) : undefined;
    if (before) first.set(place.buffer, before.buffer);
    else candidates.push(place);
  }
  return first;
}

interface Place {
  readonly buffer: ArrayBufferLike;
  readonly word: Int32Array;
}

/** The first place that is that of a word. */
function firstOf(word: Int32Array, places: readonly Place[]): Place | undefined {
  wait(word);
  const found = places.find((place) => Atomics.notify(place.word, 0) > 0);
  if (!found) Atomics.notify(word, 0);
  return found;
}

/** Waits at a word until somebody notifies; whatever other threads write there meanwhile. */
function wait(word: Int32Array): void {
  const { waitAsync } = Atomics as unknown as { readonly waitAsync: WaitAsync };
  while (!waitAsync(word, 0, Atomics.load(word, 0)).async);
}
