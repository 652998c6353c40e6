/** Warnings that code emits. */

/** Runs a function without its warnings, and returns its result. */
export function quietly<T>(run: () => T): T {
  const { emitWarning } = process;
  process.emitWarning = () => {};
  try {
    return run();
  } finally {
    process.emitWarning = emitWarning;
  }
}

/** The same for what returns a promise, until that is settled. */
export async function quietlyAsync<T>(run: () => Promise<T>): Promise<T> {
  const { emitWarning } = process;
  process.emitWarning = () => {};
  try {
    return await run();
  } finally {
    process.emitWarning = emitWarning;
  }
}

/**
 * The messages that a function passed to process.emitWarning(), which do not
 * reach the console. The warning of the fallback to TypeScript is left out.
 */
export function warningsOf(run: () => void): string[] {
  const messages: string[] = [];
  const { emitWarning } = process;
  process.emitWarning = (warning: string | Error, options?: unknown) => {
    const isFallback = typeof options === 'object' && Reflect.get(options ?? {}, 'code') === 'FUSED_ADAMW_FALLBACK';
    if (!isFallback) messages.push(String(warning));
  };
  try {
    run();
  } finally {
    process.emitWarning = emitWarning;
  }
  return messages;
}

/** Keeps the warning of half precision, which has its own tests, out of the report of a suite. */
export function withoutWarningOfHalf(): void {
  const { emitWarning } = process;
  before(() => {
    process.emitWarning = (warning: string | Error, ...rest: unknown[]) => {
      const [options] = rest;
      const { code } = typeof options === 'object' ? (options as { code?: string }) : {};
      if (code !== 'FUSED_ADAMW_HALF_PRECISION') emitWarning(warning, ...(rest as []));
    };
  });
  after(() => {
    process.emitWarning = emitWarning;
  });
}
