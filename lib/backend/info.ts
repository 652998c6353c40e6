/** What runs here, and why anything is absent. */

import { checkInteger, checkOneOf, outOfRangeIn } from '../errors.js';
import { type CudaInfo, cudaInfo } from './cuda.js';
import { flushesSubnormals, loadBackend } from './index.js';
import { checkThreading } from './native.js';
import type { Threading } from './threading.js';

/** What backendInfo() returns. */
export interface BackendInfo {
  /** Which backend the next step runs on. */
  readonly backend: 'native' | 'javascript';
  /** The addon, or why it does not run. */
  readonly native:
    | {
        /** Whether it was loaded. */
        readonly available: true;
        /** The binary that was loaded. */
        readonly path: string;
        /** 'prebuild' for a binary that the package carries, 'node-gyp' or 'cmake'. */
        readonly build: string;
        /** Version of the compiler. */
        readonly compiler: string;
        /** The instruction set that steps use. */
        readonly isa: string;
        /** All that this machine runs, the preferred one first. */
        readonly isas: readonly string[];
      }
    | {
        /** Whether it was loaded. */
        readonly available: false;
        /** Why not, in one line. */
        readonly reason: string;
      };
  /** Threads of a large step; fewer than were asked for while the system refuses to make more. */
  readonly threads: number;
  /** What runs the threads of large steps. */
  readonly threading: ThreadingInfo;
  /** The GPUs, or why there are none that can be used. */
  readonly cuda: CudaInfo;
  /** What the TypeScript backend meets in this thread. */
  readonly javascript: {
    /** Whether a library linked with -ffast-math made this thread flush subnormals to zero. */
    readonly flushesSubnormals: boolean;
  };
}

/** What runs the threads of large steps, and what else could. */
export interface ThreadingInfo {
  /** What runs the threads of the next large step; the TypeScript backend has one thread. */
  readonly runtime: Threading | 'none';
  /** What setThreading() takes here. */
  readonly available: readonly Threading[];
  /** The file of the OpenMP library, where there is one. */
  readonly library?: string;
  /** Why OpenMP is not available. */
  readonly reason?: string;
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
    threads: addon ? addon.obtainableThreads() : 1,
    threading: threadingInfo(),
    cuda: cudaInfo(),
    javascript: { flushesSubnormals: flushesSubnormals() },
  };
}

function threadingInfo(): ThreadingInfo {
  const { addon } = loadBackend();
  if (!addon) return { runtime: 'none', available: [], reason: NO_THREADS };
  const { runtime, openmp, reason } = addon.threading();
  if (reason !== '') return { runtime, available: ['team'], reason };
  return { runtime, available: ['openmp', 'team'], library: openmp };
}

const NO_THREADS = 'the TypeScript backend has one thread';

/**
 * Sets what runs the threads of large steps, in the whole process: an OpenMP
 * library of the machine ('openmp'), or a team of the package's own ('team').
 * null returns to the default: FUSED_ADAMW_THREADS, else OpenMP where there is
 * a library, else the team. The bits do not depend on it.
 *
 * @throws TypeError for anything else, RangeError for another name and for what
 *   cannot be used here, with the reason
 */
export function setThreading(runtime: Threading | null): void {
  const { addon } = loadBackend();
  if (runtime === null) addon?.setThreading(null);
  else if (addon) addon.setThreading(checkThreading(addon, runtime, 'runtime'));
  else {
    checkOneOf(runtime, 'runtime', ['openmp', 'team']);
    throw outOfRangeIn('a usable runtime', 'runtime', `'${runtime}' (${NO_THREADS})`);
  }
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
