/** Which backend runs, and why. */
import { checkOneOf } from '../errors.js';
import type { HostBackend } from './backend.js';
import { environment } from './environment.js';
import { javascriptBackend } from './javascript.js';
import { type Addon, loadAddon, nativeBackend } from './native.js';

export interface LoadedBackend {
  readonly backend: HostBackend;
  readonly addon: Addon | null;
  /** The file that the addon was loaded from. */
  readonly path: string | null;
  /** Why there is no addon; null where there is one. */
  readonly reason: string | null;
  /** Whether the TypeScript backend runs although nobody asked for it. */
  readonly isFallback: boolean;
}

let loaded: LoadedBackend | undefined;

/** Loads the backend at first use: importing the package touches no binary. */
export function loadBackend(): LoadedBackend {
  loaded ??= load();
  return loaded;
}

/**
 * Loads again as if FUSED_ADAMW_BACKEND were what is given: for tests and
 * benchmarks that compare backends in one process. What was bound before stays
 * with its backend.
 *
 * @internal
 */
export function switchBackend(wanted: 'native' | 'javascript'): void {
  loaded = load(wanted);
}

function load(wanted = environment('FUSED_ADAMW_BACKEND')): LoadedBackend {
  if (wanted) checkOneOf(wanted, 'FUSED_ADAMW_BACKEND', ['native', 'javascript']);
  if (wanted === 'javascript') {
    const reason = 'FUSED_ADAMW_BACKEND is javascript';
    return { backend: javascriptBackend, addon: null, path: null, reason, isFallback: false };
  }
  const result = loadAddon();
  if (result.addon) {
    return {
      backend: nativeBackend(result.addon),
      addon: result.addon,
      path: result.path,
      reason: null,
      isFallback: false,
    };
  }
  if (wanted === 'native') {
    throw new Error(`FUSED_ADAMW_BACKEND is native, but the addon does not load: ${result.reason}`);
  }
  return { backend: javascriptBackend, addon: null, path: null, reason: result.reason, isFallback: true };
}

/** The smallest normal number and 1/2: elements of an array, so that no compiler multiplies them beforehand. */
const NUMBERS = new Float64Array([2 ** -1022, 0.5]);

/** Whether a library that was linked with -ffast-math made this thread flush subnormal numbers to zero. */
export function flushesSubnormals(): boolean {
  return NUMBERS[0] * NUMBERS[1] === 0;
}

/** What a function returns, computed with subnormal numbers in a thread that flushes them too; native code is needed. */
export function withSubnormals<T>(body: () => T): T {
  const { addon } = loadBackend();
  return addon && flushesSubnormals() ? addon.keepSubnormals(body) : body();
}

let warned = false;

/** Says once, before the first step, that the TypeScript backend runs and why. */
export function warnOfFallback(): void {
  if (warned) return;
  warned = true;
  const { isFallback, reason } = loadBackend();
  if (!isFallback) return;
  process.emitWarning(`fused-adamw runs in TypeScript, many times slower than its native code: ${reason}`, {
    code: 'FUSED_ADAMW_FALLBACK',
    detail:
      'The results are the same. `npx fused-adamw doctor` says what to do. FUSED_ADAMW_BACKEND=javascript silences ' +
      'this warning.',
  });
}
