/** Loads the addon and speaks to it. */

import { existsSync } from 'node:fs';
import { createRequire } from 'node:module';
import { fileURLToPath } from 'node:url';
import { checkOneOf, outOfRangeIn } from '../errors.js';
import type { Storage } from '../numerics/dtype.js';
import { LAYOUTS, RULES } from './abi.js';
import { type BackendBinding, type HostBackend, type Overlap, overlapOf, type TensorLists } from './backend.js';
import type { CudaAddon } from './cuda-addon.js';
import { checkWhole } from './elf.js';

interface AddonBinding {
  setGrads(grads: readonly Storage[]): [number, number, number, number] | null;
  setGroups(groupOf: Uint32Array, scalars: Float64Array): void;
  step(first: number, last: number): void;
  dispose(): void;
}

/** What native/node/addon.cc exports. */
export interface Addon {
  readonly Binding: new (
    rule: number,
    layouts: Uint8Array,
    keys: Uint32Array,
    weights: readonly Storage[],
    means: readonly Storage[],
    variances: readonly Storage[],
    masters: readonly (Storage | undefined)[],
  ) => AddonBinding;
  /** Instruction sets that this machine runs, the preferred one first. */
  readonly isas: readonly string[];
  readonly layouts: readonly string[];
  readonly build: string;
  readonly compiler: string;
  readonly availableProcessors: number;
  readonly cuda: CudaAddon;
  address(memory: ArrayBufferView | ArrayBuffer): bigint;
  preferHugePages(buffer: ArrayBuffer): void;
  firstTouch(buffer: ArrayBuffer, byteOffset: number, byteLength: number): void;
  setIsa(name: string): boolean;
  isa(): string;
  numThreads(): number;
  setNumThreads(count: number): void;
  /** How many of numThreads() the system lets a step have, as far as is known. */
  obtainableThreads(): number;
  /** The runtime of the next large step; the OpenMP library, or why there is none. The other is empty. */
  threading(): { readonly runtime: Threading; readonly openmp: string; readonly reason: string };
  setThreading(runtime: Threading | null): void;
  setDefaultThreading(runtime: Threading): void;
}

/** What runs the threads of large steps: an OpenMP library of the machine, or a team of the addon's own. */
export type Threading = 'openmp' | 'team';

export type LoadedAddon = { addon: Addon; path: string } | { addon: null; reason: string };

// This file is dist/lib/backend/native.js.
export const packageRoot = new URL('../../../', import.meta.url);

/** A build of this checkout comes before the binary that the package carries. */
const CANDIDATES = ['build/Release/fused_adamw.node', `prebuilds/${process.platform}-${process.arch}/fused_adamw.node`];

/**
 * The addon, or why there is none. Throws where FUSED_ADAMW_ISA or
 * FUSED_ADAMW_THREADS asks for what there is not.
 */
export function loadAddon(): LoadedAddon {
  const reasons: string[] = [];
  for (const candidate of CANDIDATES) {
    const path = fileURLToPath(new URL(candidate, packageRoot));
    if (!existsSync(path)) continue;
    try {
      checkWhole(path);
      const addon = createRequire(import.meta.url)(path) as Addon;
      checkInterface(addon);
      selectIsa(addon, process.env.FUSED_ADAMW_ISA);
      const threading = process.env.FUSED_ADAMW_THREADS;
      if (threading) addon.setDefaultThreading(checkThreading(addon, threading, 'FUSED_ADAMW_THREADS'));
      return { addon, path };
    } catch (error) {
      if (error instanceof RangeError) throw error;
      reasons.push(error instanceof Error ? error.message : String(error));
    }
  }
  return {
    addon: null,
    reason: reasons.join('; ') || `there is no binary for ${process.platform}-${process.arch}`,
  };
}

/** A binary that was left from another version must not be given our arguments. */
function checkInterface(addon: Addon): void {
  if (addon.layouts?.join() !== LAYOUTS.join())
    throw new Error('the binary belongs to another version; build it again');
}

function selectIsa(addon: Addon, name: string | undefined): void {
  if (name && !addon.setIsa(name)) {
    throw outOfRangeIn(`${addon.isas.join(' or ')} (what this machine runs)`, 'FUSED_ADAMW_ISA', name);
  }
}

/** A runtime that can be used. */
export function checkThreading(addon: Addon, value: unknown, name: string): Threading {
  const runtime = checkOneOf(value, name, ['openmp', 'team']);
  const { reason } = addon.threading();
  if (runtime === 'openmp' && reason !== '') throw outOfRangeIn('a usable runtime', name, `'openmp' (${reason})`);
  return runtime;
}

class NativeBinding implements BackendBinding {
  readonly #binding: AddonBinding;

  constructor(addon: Addon, lists: TensorLists) {
    const { layouts, keys, weights, means, variances, masters } = lists;
    const rule = RULES.indexOf(lists.rule);
    this.#binding = new addon.Binding(rule, layouts, keys, weights, means, variances, masters);
  }

  setGrads(grads: readonly Storage[]): Overlap | null {
    return overlapOf(this.#binding.setGrads(grads));
  }

  setGroups(groupOf: Uint32Array, scalars: Float64Array): void {
    this.#binding.setGroups(groupOf, scalars);
  }

  step(first: number, last: number): void {
    this.#binding.step(first, last);
  }

  dispose(): void {
    this.#binding.dispose();
  }
}

export function nativeBackend(addon: Addon): HostBackend {
  return { name: 'native', createBinding: (lists) => new NativeBinding(addon, lists) };
}
