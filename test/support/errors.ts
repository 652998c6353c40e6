/** Tables of errors: what is wrong, the call, and the class and message that it must throw. */
import { expect } from 'chai';

type ErrorClass = new (message?: string) => Error;

export type ErrorRow = readonly [what: string, call: () => unknown, kind: ErrorClass, message: string];

/** What a call throws. */
function errorOf(call: () => unknown): unknown {
  try {
    call();
  } catch (error) {
    return error;
  }
  return undefined;
}

/** Asserts that a call throws an error of exactly this class with exactly this message. */
export function expectError(call: () => unknown, kind: ErrorClass, message: string): void {
  const error = errorOf(call);
  expect(error, 'what was thrown').to.be.an.instanceOf(Error);
  expect(String(error)).to.equal(`${kind.name}: ${message}`);
  expect((error as Error).constructor).to.equal(kind);
}

/** One test for each row. */
export function itRefuses(rows: readonly ErrorRow[]): void {
  for (const [what, call, kind, message] of rows) {
    it(`should throw a ${kind.name} for ${what}`, () => expectError(call, kind, message));
  }
}
