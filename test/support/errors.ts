/** What calls throw, and tables of errors: what is wrong, the call, and the class and message of its error. */
import { expect } from 'chai';

export type ErrorClass = new (message?: string) => Error;

export type ErrorRow = readonly [what: string, call: () => unknown, kind: ErrorClass, message: string];

/** What a call returns or throws. */
export function attempt<T>(call: () => T): { readonly value: T } | { readonly error: unknown } {
  try {
    return { value: call() };
  } catch (error) {
    return { error };
  }
}

/** Asserts that a call throws an error of exactly this class, with exactly this message or one that matches. */
export function expectError(call: () => unknown, kind: ErrorClass, message: string | RegExp, what = ''): void {
  const outcome = attempt(call);
  if (!('error' in outcome)) expect.fail(`${what}: expected "${message}" but nothing was thrown`);
  const { error } = outcome;
  if (!(error instanceof Error)) expect.fail(`${what}: expected "${message}" but ${error} was thrown`);
  if (typeof message === 'string') expect(String(error), what).to.equal(`${kind.name}: ${message}`);
  else expect(error.message, what).to.match(message);
  expect(error.constructor, what).to.equal(kind);
}

/** One test for each row. */
export function itRefuses(rows: readonly ErrorRow[]): void {
  for (const [what, call, kind, message] of rows) {
    it(`should throw a ${kind.name} for ${what}`, () => expectError(call, kind, message));
  }
}
