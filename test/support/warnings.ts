/** What a piece of code warns of. */

/** What a function returns; warnings on its way are kept from the console. */
export function quietly<T>(run: () => T): T {
  const { emitWarning } = process;
  process.emitWarning = () => {};
  try {
    return run();
  } finally {
    process.emitWarning = emitWarning;
  }
}

/**
 * The messages that process.emitWarning() was given while a function ran; none
 * reaches the console. That there is no native backend is not among them.
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
