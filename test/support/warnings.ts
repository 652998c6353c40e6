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
