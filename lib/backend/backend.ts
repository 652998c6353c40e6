/** What a backend does: TypeScript decides what a step is, a backend how it runs. */
import type { Storage } from '../dtype.js';
import type { Rule } from './layout.js';

/** The arrays of a step that stay from call to call, one of each for every tensor. */
export interface TensorLists {
  readonly rule: Rule;
  /** Numbers of layouts (layout.ts). */
  readonly layouts: Uint8Array;
  /** Keys for stochastic rounding. */
  readonly keys: Uint32Array;
  readonly weights: readonly Storage[];
  readonly means: readonly Storage[];
  readonly variances: readonly Storage[];
  /** Undefined where there is none. */
  readonly masters: readonly (Storage | undefined)[];
}

/** The arrays of a tensor. The order is that of `Role` in native/binding.h. */
export const ROLES = ['weight', 'grad', 'mean', 'variance', 'master'] as const;
export type Role = (typeof ROLES)[number];

/** Two arrays that share memory of which the first is written. */
export interface Overlap {
  readonly written: Role;
  readonly writtenTensor: number;
  readonly other: Role;
  readonly otherTensor: number;
}

export interface BackendBinding {
  /** Takes these gradients, unless an array that is written shares memory with another: that overlap is returned. */
  setGrads(grads: readonly Storage[]): Overlap | null;
  /** The group of each tensor, and the array that holds the scalars of all later steps (layout.ts). */
  setGroups(groupOf: Uint32Array, scalars: Float64Array): void;
  /** Updates tensors [first, last) in place. The calls of one step go through the tensors in order, from 0. */
  step(first: number, last: number): void;
  /** Frees what the binding holds; it is not used again. */
  dispose(): void;
}

export interface Backend {
  readonly name: 'native' | 'javascript';
  createBinding(lists: TensorLists): BackendBinding;
}
