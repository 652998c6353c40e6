/** One environment of each backend. */
import { type Environment, environments, inEnvironment } from './environments.js';

/** Validation does not depend on the instruction set: the first native environment, and TypeScript. */
export function eachBackend(): Environment[] {
  return environments().filter(({ backend }, i, all) => all.findIndex((other) => other.backend === backend) === i);
}

/** A suite on each backend; `run` puts the body of a test on it. */
export function describeOnEachBackend(title: string, suite: (run: <T>(body: () => T) => T) => void): void {
  for (const environment of eachBackend()) {
    describe(`${title} (${environment.name})`, () => {
      withoutWarningOfHalf();
      suite((body) => inEnvironment(environment, body));
    });
  }
}

/** Keeps the optimizers' warning of half precision, tested elsewhere, out of the report of a suite. */
export function withoutWarningOfHalf(): void {
  const { emitWarning } = process;
  before(() => {
    process.emitWarning = (warning: string | Error, ...rest: unknown[]) => {
      if (!String(warning).startsWith('Accumulating with float16')) emitWarning(warning, ...(rest as []));
    };
  });
  after(() => {
    process.emitWarning = emitWarning;
  });
}
