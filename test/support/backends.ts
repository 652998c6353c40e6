/** One environment of each backend. */
import { type Environment, environments, inEnvironment } from './environments.js';
import { withoutWarningOfHalf } from './warnings.js';

/** The preferred native environment and TypeScript: validation does not depend on the instruction set. */
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
