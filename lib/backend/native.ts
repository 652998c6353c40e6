/** Loads the addon. */
import { checkOneOf, outOfRangeIn } from '../errors.js';
import type { Storage } from '../numerics/dtype.js';
import { type Abi, accumulationsOf, checkAbi, configsOfGrads } from './abi.js';
import { type AddonTensorListClass, hostTensorList } from './addon-tensor-list.js';
import type { HostBackend } from './backend.js';
import { binaries, platformName } from './binary.js';
import type { CudaAddon } from './cuda-addon.js';
import type { DlpackAddon } from './dlpack-addon.js';
import { environment } from './environment.js';
import type { Threading } from './threading.js';

/** What native/node/addon.cc exports. */
export interface Addon {
  readonly TensorList: AddonTensorListClass;
  /** Instruction sets that this machine runs, the preferred one first. */
  readonly isas: readonly string[];
  readonly abi: Abi;
  readonly build: string;
  readonly compiler: string;
  readonly availableProcessors: number;
  readonly cuda: CudaAddon;
  readonly dlpack: DlpackAddon;
  address(memory: ArrayBufferView | ArrayBuffer): bigint;
  preferHugePages(buffer: ArrayBuffer): void;
  firstTouch(buffer: ArrayBuffer, byteOffset: number, byteLength: number): void;
  setIsa(name: string): boolean;
  isa(): string;
  /** Calls a function in a floating-point environment that does not flush subnormal numbers to zero. */
  keepSubnormals<T>(body: () => T): T;
  numThreads(): number;
  setNumThreads(count: number): void;
  /** How many of numThreads() the system lets a step have, as far as is known. */
  obtainableThreads(): number;
  /** The runtime of the next large step; the OpenMP library, or why there is none. The other is empty. */
  threading(): { readonly runtime: Threading; readonly openmp: string; readonly reason: string };
  setThreading(runtime: Threading | null): void;
  setDefaultThreading(runtime: Threading): void;
  /** As HostBackend's; the dtypes are those of the gradients of dtype configurations. */
  sumsOfSquares(grads: readonly Storage[], configs: Uint8Array, sums: Float64Array): boolean;
  /** As HostBackend's; the dtypes are positions in ACCUMULATIONS. */
  accumulate(into: readonly Storage[], grads: readonly Storage[], dtypes: Uint8Array, scale: number): void;
  /** Reads Float32Arrays of one length and writes all but `grad`, on the threads of a step: what memory allows it. */
  stream(weight: Float32Array, grad: Float32Array, mean: Float32Array, variance: Float32Array): void;
}

export type LoadedAddon = { addon: Addon; path: string } | { addon: null; reason: string };

/**
 * The addon, or why there is none. Throws where FUSED_ADAMW_ISA or
 * FUSED_ADAMW_THREADS asks for what there is not.
 */
export function loadAddon(): LoadedAddon {
  const reasons: string[] = [];
  for (const open of binaries()) {
    try {
      const binary = open();
      if (binary === null) continue;
      const addon = binary.exports as Addon;
      checkAbi(addon.abi);
      selectIsa(addon, environment('FUSED_ADAMW_ISA'));
      const threading = environment('FUSED_ADAMW_THREADS');
      if (threading) addon.setDefaultThreading(checkThreading(addon, threading, 'FUSED_ADAMW_THREADS'));
      return { addon, path: binary.path };
    } catch (error) {
      if (error instanceof RangeError) throw error;
      reasons.push(error instanceof Error ? error.message : String(error));
    }
  }
  return { addon: null, reason: [...new Set(reasons)].join('; ') || `there is no binary for ${platformName()}` };
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

export function nativeBackend(addon: Addon): HostBackend {
  return {
    name: 'native',
    createTensorList: (arrays) => hostTensorList(addon.TensorList, arrays),
    sumsOfSquares(grads, dtypes, sums) {
      return addon.sumsOfSquares(grads, configsOfGrads(dtypes), sums);
    },
    accumulate(into, grads, intoDTypes, gradDTypes, scale) {
      addon.accumulate(into, grads, accumulationsOf(intoDTypes, gradDTypes), scale);
    },
  };
}
