/** Runs a scenario everywhere and compares: with the reference, and of all backends with each other. */
import type { AdamW } from '../../lib/index.js';
import type { Values } from '../support/bits.js';
import { expectSameBits } from '../support/bits.js';
import { type Environment, inEnvironmentAsync, TYPESCRIPT } from '../support/environments.js';
import { quietlyAsync } from '../support/warnings.js';
import { Reference } from './reference.js';
import type { Scenario } from './scenario.js';
import { type Outcome, type Snapshot, World } from './world.js';

/** What was there after an operation. */
interface Event {
  readonly outcome: Outcome;
  readonly after: Snapshot;
}

/** Runs a scenario on the backend of this moment; an error must have changed nothing. */
async function trace(
  scenario: Scenario,
  world: World,
  observe: (k: number, run: () => Promise<Event>) => Promise<Event>,
): Promise<Event[]> {
  const events: Event[] = [];
  let before = world.snapshot();
  for (const [k, operation] of scenario.operations.entries()) {
    const event = await observe(k, async () => {
      const outcome = await world.apply(operation);
      return { outcome, after: world.snapshot() };
    });
    if ('error' in event.outcome)
      expectSameSnapshot(event.after, before, `operation ${k}, which threw ${event.outcome.error}`);
    before = event.after;
    events.push(event);
  }
  return events;
}

function hasSameBytes(a: Values, b: Values): boolean {
  const bytes = ({ buffer, byteOffset, byteLength }: Values): Uint8Array =>
    new Uint8Array(buffer, byteOffset, byteLength);
  return Buffer.compare(bytes(a), bytes(b)) === 0;
}

function expectSameSnapshot(actual: Snapshot, expected: Snapshot, what: string): void {
  for (const [name, values] of actual.arrays) {
    const others = expected.arrays.get(name) as Values;
    if (!hasSameBytes(values, others)) expectSameBits(values, others, `${what}: ${name}`);
  }
  if (actual.optimizers !== expected.optimizers) {
    throw new Error(`${what}: optimizers are ${actual.optimizers}, expected ${expected.optimizers}`);
  }
}

/** Runs a scenario in TypeScript beside the reference. */
function checkReference(scenario: Scenario): Promise<Event[]> {
  const world = new World(scenario);
  const reference = new Reference(scenario, world);
  return trace(scenario, world, async (k, run) => {
    const expected = reference.apply(scenario.operations[k]);
    const event = await run();
    const what = `TypeScript, operation ${k} (${scenario.operations[k].do})`;
    expectOutcome(event.outcome, expected, what);
    for (const grads of reference.cleared) {
      if (Array.from(grads).some((element) => !Object.is(element, 0)))
        throw new Error(`${what}: gradients not cleared`);
    }
    reference.tensors.forEach(({ samples, values }, i) => {
      for (const [role, elements] of values) {
        const { elements: actual } = world.tensors[i].slots[role] as { elements: Values };
        const Type = actual.constructor as new (values: ArrayLike<number>) => Values;
        expectSameBits(
          new Type(samples.map((at) => actual[at])),
          new Type(elements),
          `${what}: ${role} of tensor ${i} at ${samples}`,
        );
      }
    });
    reference.optimizers.forEach((expected, i) => {
      const optimizer: AdamW = world.optimizer(i);
      const counts = (of: (index: number | string) => number) => world.tensors.map(({ plan }) => of(plan.index));
      const found = JSON.stringify([
        optimizer.numUpdate,
        optimizer.learningRate,
        counts((index) => optimizer.updateCount(index)),
      ]);
      const wanted = JSON.stringify([
        expected.numUpdate,
        expected.rateAt(expected.numUpdate),
        counts((index) => expected.countOf(index)),
      ]);
      if (found !== wanted) throw new Error(`${what}: optimizer ${i} has ${found}, expected ${wanted}`);
    });
    return event;
  });
}

function expectOutcome(outcome: Outcome, expected: ReturnType<Reference['apply']>, what: string): void {
  if (expected === 'throws') {
    if (!('error' in outcome)) throw new Error(`${what} returned ${JSON.stringify(outcome.value)}, expected an error`);
    if (!/^(TypeError|RangeError|Error): Expected /.test(outcome.error))
      throw new Error(`${what} threw ${outcome.error}`);
  } else if ('error' in outcome || JSON.stringify(outcome.value) !== JSON.stringify(expected.value)) {
    throw new Error(`${what}: ${JSON.stringify(outcome)}, expected ${JSON.stringify(expected)}`);
  }
}

/**
 * Runs a scenario in TypeScript and in the environments given.
 *
 * @returns rejected at the first difference
 */
export function checkScenario(scenario: Scenario, natives: readonly Environment[]): Promise<void> {
  return quietlyAsync(async () => {
    const expected = await inEnvironmentAsync(TYPESCRIPT, () => checkReference(scenario));
    for (const environment of natives) {
      await inEnvironmentAsync({ ...environment, threads: scenario.threads }, () => {
        const world = new World(scenario);
        return trace(scenario, world, async (k, run) => {
          const event = await run();
          const what = `${environment.name}, ${scenario.threads} threads, operation ${k} (${scenario.operations[k].do})`;
          const [found, wanted] = [event.outcome, expected[k].outcome].map((outcome) => JSON.stringify(outcome));
          if (found !== wanted) throw new Error(`${what}: ${found}, in TypeScript ${wanted}`);
          expectSameSnapshot(event.after, expected[k].after, what);
          return event;
        });
      });
    }
  });
}
