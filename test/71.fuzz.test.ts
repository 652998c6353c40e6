/** A few of the random scenarios of `npm run fuzz`, the same in every run. */
import fc from 'fast-check';
import { checkScenario } from './fuzz/check.js';
import { scenario } from './fuzz/scenario.js';
import { environments } from './support/environments.js';

describe('random scenarios', () => {
  const natives = environments().filter(({ backend }) => backend === 'native');

  it('should give the results of the reference, and the same on every backend', async function () {
    this.timeout(120_000);
    await fc.assert(
      fc.asyncProperty(scenario, (scenario) => checkScenario(scenario, natives)),
      { seed: 71, numRuns: 80 },
    );
  });
});
