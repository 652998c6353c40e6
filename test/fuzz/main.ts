/**
 * npm run fuzz: random scenarios on every backend and in the reference, until
 * the time is over or one differs. That one is made as small as it can be, and
 * printed with what repeats it.
 *
 *   npm run fuzz -- [--minutes 1 | --cases 1000] [--seed 1] [--path 3:1:0]
 */
import { parseArgs } from 'node:util';
import fc from 'fast-check';
import { environments } from '../support/environments.js';
import { checkScenario } from './check.js';
import { scenario } from './scenario.js';

/** Cases of one seed. */
const BATCH = 50;

const { values: given } = parseArgs({
  options: {
    seed: { type: 'string' },
    path: { type: 'string' },
    minutes: { type: 'string' },
    cases: { type: 'string' },
  },
});

function numberOf(name: 'seed' | 'minutes' | 'cases', otherwise: number): number {
  const text = given[name];
  if (text === undefined) return otherwise;
  const value = Number(text);
  if (text.trim() !== '' && value >= 0 && (name === 'minutes' || Number.isSafeInteger(value))) return value;
  console.error(`Expected a number for --${name} but received ${text}`);
  process.exit(2);
}

const natives = environments().filter(({ backend }) => backend === 'native');
const property = fc.asyncProperty(scenario, (scenario) => checkScenario(scenario, natives));
const firstSeed = numberOf('seed', Date.now() % 2 ** 31);
const cases = numberOf('cases', given.path === undefined ? Infinity : 1);
const end = cases < Infinity ? Infinity : Date.now() + 60_000 * numberOf('minutes', 1);
console.log(`from seed ${firstSeed}, in TypeScript, the reference and ${natives.map(({ name }) => name).join(', ')}`);

let done = 0;
for (let seed = firstSeed; done < cases && Date.now() < end; seed++) {
  const result = await fc.check(property, { seed, path: given.path, numRuns: Math.min(BATCH, cases - done) });
  if (result.failed) {
    const { counterexample, counterexamplePath, errorInstance } = result;
    console.log(`\nseed ${seed} differs: ${(errorInstance as Error).stack}`);
    console.log(fc.stringify(counterexample?.[0]));
    console.log(`npm run fuzz -- --seed ${seed} --path ${counterexamplePath}`);
    process.exit(1);
  }
  done += result.numRuns;
  if (process.stdout.isTTY) process.stdout.write(`\r${done} cases`);
  else if ((seed - firstSeed) % 4 === 3) console.log(`${done} cases`);
}
console.log(`${process.stdout.isTTY ? '\r' : ''}${done} cases without a difference`);
