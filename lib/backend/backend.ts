/** What a backend does: TypeScript decides what a step is, a backend how it runs. */
import type { DType, Storage } from '../numerics/dtype.js';
import { ROLES, type Role, type Rule } from './abi.js';
import type { DeviceMemory } from './cuda-addon.js';

/** Memory of the host, or of a GPU. */
export type Memory = Storage | DeviceMemory;

/** One array for each tensor; undefined where a tensor has none. */
export type Arrays<M> = readonly (M | undefined)[];

/** The tensors of a step on one device: what stays from step to step. M is their memory. */
export interface TensorArrays<M = Memory> {
  readonly rule: Rule;
  /** Positions in DTYPE_CONFIGS. */
  readonly configs: Uint8Array;
  /** Keys for stochastic rounding. */
  readonly keys: Uint32Array;
  /** In the order of ROLES; undefined for the gradients, which setGrads() gives. */
  readonly lists: readonly (Arrays<M> | undefined)[];
}

/** Two arrays that share memory, of which the first is written. */
export interface Overlap {
  readonly written: Role;
  readonly writtenTensor: number;
  readonly other: Role;
  readonly otherTensor: number;
}

/** An overlap as native code returns it: positions in ROLES, and of tensors. */
export function overlapOf(found: readonly [number, number, number, number] | null): Overlap | null {
  if (!found) return null;
  const [written, writtenTensor, other, otherTensor] = found;
  return { written: ROLES[written].name, writtenTensor, other: ROLES[other].name, otherTensor };
}

/** The sum of the squares of each gradient, and whether all elements are finite. */
export interface SumsOfSquares {
  readonly sums: Float64Array;
  readonly finite: boolean;
}

/** The tensors of a step on one device, kept by a backend. */
export interface BackendTensorList<M = Memory> {
  /** Takes these gradients, unless an array that is written shares memory with another: that overlap is returned. */
  setGrads(grads: readonly M[]): Overlap | null;
  /** The group of each tensor, and the array that holds the scalars of all later steps (scalar-table.ts). */
  setGroups(groupOf: Uint32Array, scalars: Float64Array): void;
  /** Does whatever may fail in a step, before anything is changed. step() comes after it. */
  begin(): void;
  /**
   * On a GPU, in place of begin(): has that decide by the gradients whether the step takes place, and which of the
   * candidates it takes (native/node/tensor-list-object.h). Does not wait.
   */
  decide?(candidates: Float64Array, decision: Float64Array, scale: DeviceMemory | undefined): void;
  /** Whether readDecision() would not wait. */
  isDecided?(number: number): boolean;
  /**
   * Writes what was decided about a step, by its number since the last that restarted: a position in DECISION_OUTCOMES,
   * the norm of the rescaled gradients before clipping, and whether all gradients are finite (0 or 1). Waits for it.
   */
  readDecision?(number: number, to: Float64Array): void;
  /** Updates tensors [first, last) in place. The calls of one step go through the tensors in order, from 0. */
  step(first: number, last: number): void;
  /**
   * Writes the sum of the squares of each gradient, in the order of native/core/gradient-norm.h; false where an
   * element is infinite or NaN.
   */
  sumsOfSquares(sums: Float64Array): boolean;
  /** Clears the gradients. */
  zeroGrads(): void;
  /**
   * As step() over all tensors and as sumsOfSquares(), beside JavaScript and with the scalars as they are now. `progress`
   * stays as it is. Only where the backend can do that, on the host.
   */
  startStep?(): Promise<void>;
  startSumsOfSquares?(): Promise<SumsOfSquares>;
  /** Frees what the list holds; it is not used again. */
  dispose(): void;
}

/** A backend for memory of the host. */
export interface HostBackend {
  readonly name: 'native' | 'javascript';
  createTensorList(arrays: TensorArrays<Storage>): BackendTensorList<Storage>;
  /** As that of a list, for gradients of these dtypes. */
  sumsOfSquares(grads: readonly Storage[], dtypes: readonly DType[], sums: Float64Array): boolean;
  /** into = into + scale * grad, for dtypes that ACCUMULATIONS has (abi.ts) and arrays that do not overlap. */
  accumulate(
    into: readonly Storage[],
    grads: readonly Storage[],
    intoDTypes: readonly DType[],
    gradDTypes: readonly DType[],
    scale: number,
  ): void;
}
