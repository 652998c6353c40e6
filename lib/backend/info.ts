/** What runs here, and why anything is absent. */

import { checkInteger } from '../errors.js';
import { type CudaInfo, cudaInfo } from './cuda.js';
import { flushesSubnormals, loadBackend } from './index.js';

export interface BackendInfo {
  /** Which backend the next step runs on. */
  readonly backend: 'native' | 'javascript';
  readonly native:
    | {
        readonly available: true;
        /** The binary that was loaded. */
        readonly path: string;
        /** 'node-gyp' or 'cmake'. */
        readonly build: string;
        /** Version of the compiler. */
        readonly compiler: string;
        /** The instruction set that steps use. */
        readonly isa: string;
        /** All that this machine runs, the preferred one first. */
        readonly isas: readonly string[];
      }
    | { readonly available: false; readonly reason: string };
  /** Threads of a large step. */
  readonly threads: number;
  /** The GPUs, or why there are none that can be used. */
  readonly cuda: CudaInfo;
  readonly javascript: {
    /** Whether a library linked with -ffast-math made this thread flush subnormals to zero. */
    readonly flushesSubnormals: boolean;
  };
}

/**
 * What was loaded, which instruction set and how many threads run, and why
 * anything is absent. Loads the backend if no step has done so yet.
 */
export function backendInfo(): BackendInfo {
  const { backend, addon, path, reason } = loadBackend();
  return {
    backend: backend.name,
    native:
      addon && path !== null
        ? {
            available: true,
            path,
            build: addon.build,
            compiler: addon.compiler,
            isa: addon.isa(),
            isas: [...addon.isas],
          }
        : { available: false, reason: reason ?? '' },
    threads: addon ? addon.numThreads() : 1,
    cuda: cudaInfo(),
    javascript: { flushesSubnormals: flushesSubnormals() },
  };
}

/**
 * Sets how many threads a large step uses, in the whole process; null returns
 * to the default: OMP_NUM_THREADS, else the processors that the process may
 * use. The bits do not depend on it. The TypeScript backend has one thread.
 *
 * @throws TypeError or RangeError for anything but a whole number of at least 1
 */
export function setNumThreads(count: number | null): void {
  const checked = count === null ? 0 : checkInteger(count, 'count', 1);
  loadBackend().addon?.setNumThreads(Math.min(checked, MOST_THREADS));
}

const MOST_THREADS = 1024;
