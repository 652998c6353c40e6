/** What a backend does: TypeScript decides what a step is, a backend how it runs. */
import type { Storage } from '../numerics/dtype.js';
import type { Rule } from './abi.js';

/**
 * The arrays of a step that stay from call to call, one of each for every
 * tensor; M is the memory behind them.
 */
export interface TensorLists<M = Storage> {
  readonly rule: Rule;
  /** Numbers of layouts (abi.ts). */
  readonly layouts: Uint8Array;
  /** Keys for stochastic rounding. */
  readonly keys: Uint32Array;
  readonly weights: readonly M[];
  readonly means: readonly M[];
  readonly variances: readonly M[];
  /** Undefined where there is none. */
  readonly masters: readonly (M | undefined)[];
}

/** The arrays of a tensor. The order is that of `Role` in native/core/tensor-list.h. */
export const ROLES = ['weight', 'grad', 'mean', 'variance', 'master'] as const;
export type Role = (typeof ROLES)[number];

/** Two arrays that share memory of which the first is written. */
export interface Overlap {
  readonly written: Role;
  readonly writtenTensor: number;
  readonly other: Role;
  readonly otherTensor: number;
}

/** An overlap as native code returns it: numbers of roles and tensors. */
export function overlapOf(found: readonly [number, number, number, number] | null): Overlap | null {
  if (!found) return null;
  const [written, writtenTensor, other, otherTensor] = found;
  return { written: ROLES[written], writtenTensor, other: ROLES[other], otherTensor };
}

export interface BackendBinding<M = Storage> {
  /** Takes these gradients, unless an array that is written shares memory with another: that overlap is returned. */
  setGrads(grads: readonly M[]): Overlap | null;
  /** The group of each tensor, and the array that holds the scalars of all later steps (abi.ts). */
  setGroups(groupOf: Uint32Array, scalars: Float64Array): void;
  /** Does what may fail of a step, before any of it has changed anything; where there is such. */
  begin?(): void;
  /** Updates tensors [first, last) in place. The calls of one step go through the tensors in order, from 0. */
  step(first: number, last: number): void;
  /** Frees what the binding holds; it is not used again. */
  dispose(): void;
}

/** M is the memory behind the tensors that it steps. */
export interface Backend<M = Storage> {
  createBinding(lists: TensorLists<M>): BackendBinding<M>;
}

/** A backend for memory of the host. */
export interface HostBackend extends Backend {
  readonly name: 'native' | 'javascript';
}
