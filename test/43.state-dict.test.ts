/** stateDict(): what resumes an optimizer beside its states. */
import { expect } from 'chai';
import { AdamW, type AdamWState, FactorScheduler, type OptimizerStateDict } from '../lib/index.js';
import { environments, inEnvironment } from './support/environments.js';
import { type ErrorRow, expectError, itRefuses } from './support/errors.js';

const grad = Float32Array.of(0.5);

/** A weight with its state and what updates it. */
class Weight {
  readonly weight = Float32Array.of(1);
  state: AdamWState;

  constructor(optimizer: AdamW, index: string | number) {
    this.state = optimizer.createState(index, this.weight);
  }

  update(optimizer: AdamW, index: string | number): void {
    optimizer.update(index, this.weight, grad, this.state);
  }

  copyFrom({ weight, state }: Weight): void {
    this.weight.set(weight);
    for (const role of ['mean', 'variance'] as const) {
      (this.state[role] as unknown as { copyFrom(source: unknown): void }).copyFrom(state[role]);
    }
  }
}

describe('stateDict()', () => {
  for (const environment of environments()) {
    it(`should resume counts that differ from index to index: ${environment.name}`, () => {
      inEnvironment(environment, () => {
        const optimizer = new AdamW();
        const body = new Weight(optimizer, 0);
        const head = new Weight(optimizer, 'head');
        for (let step = 0; step < 52; step++) {
          body.update(optimizer, 0);
          if (step >= 50) head.update(optimizer, 'head');
        }
        const saved = JSON.parse(JSON.stringify(optimizer.stateDict())) as OptimizerStateDict;
        expect(saved).to.deep.equal({
          version: 1,
          numUpdate: 52,
          counts: { cpu: { 0: 52, head: 2 } },
          learningRate: 0.001,
        });

        const resumed = new AdamW();
        const [otherBody, otherHead] = [new Weight(resumed, 0), new Weight(resumed, 'head')];
        otherBody.copyFrom(body);
        otherHead.copyFrom(head);
        resumed.loadStateDict(saved);
        expect([resumed.numUpdate, resumed.updateCount(0), resumed.updateCount('head')]).to.deep.equal([52, 52, 2]);
        for (let step = 0; step < 3; step++) {
          for (const [one, [a, b]] of [
            [optimizer, [body, head]],
            [resumed, [otherBody, otherHead]],
          ] as const) {
            a.update(one, 0);
            b.update(one, 'head');
          }
        }
        expect([...otherBody.weight, ...otherHead.weight]).to.deep.equal([...body.weight, ...head.weight]);
        expect(resumed.stateDict()).to.deep.equal(optimizer.stateDict());
      });
    });

    it(`should be followed by a step that was bound before it was loaded: ${environment.name}`, () => {
      inEnvironment(environment, () => {
        const [optimizer, twin] = [new AdamW(), new AdamW({ beginNumUpdate: 7 })];
        const [one, other] = [new Weight(optimizer, 0), new Weight(twin, 0)];
        const bound = optimizer.bind(0, one.weight, grad, one.state);
        optimizer.loadStateDict({ version: 1, numUpdate: 7, counts: { cpu: { 0: 7 } }, learningRate: 0.001 });
        bound.step();
        other.update(twin, 0);
        expect([...one.weight]).to.deep.equal([...other.weight]);
        expect(optimizer.updateCount(0)).to.equal(8);
      });
    });
  }

  it('should keep the learning rate that was set, and null beside a scheduler', () => {
    const optimizer = new AdamW();
    optimizer.setLearningRate(0.25);
    const resumed = new AdamW();
    resumed.loadStateDict(optimizer.stateDict());
    expect(resumed.learningRate).to.equal(0.25);
    const lrScheduler = new FactorScheduler({ step: 10, baseLr: 0.5 });
    expect(new AdamW({ lrScheduler }).stateDict().learningRate).to.equal(null);
  });

  it('should be what JSON.stringify() makes of an optimizer', () => {
    const optimizer = new AdamW({ stream: 0n });
    expect(JSON.parse(JSON.stringify(optimizer))).to.deep.equal(optimizer.stateDict());
  });

  it('should take indices of every kind', () => {
    const optimizer = new AdamW();
    const indices = [0, '__proto__', 'a.b', 2 ** 40, '01'];
    const weights = indices.map((index) => new Weight(optimizer, index));
    weights.forEach((weight, i) => {
      for (let step = 0; step <= i; step++) weight.update(optimizer, indices[i]);
    });
    const resumed = new AdamW();
    resumed.loadStateDict(JSON.parse(JSON.stringify(optimizer)));
    expect(indices.map((index) => resumed.updateCount(index))).to.deep.equal([1, 2, 3, 4, 5]);
  });

  const good = { version: 1, numUpdate: 3, counts: { cpu: { 0: 3 } }, learningRate: 0.1 };
  const rows: readonly (readonly [string, unknown, typeof TypeError, string])[] = [
    ['nothing', null, TypeError, 'Expected an object for stateDict but received null'],
    ['another version', { ...good, version: 2 }, RangeError, 'Expected 1 for stateDict.version but received 2'],
    [
      'a misspelt key',
      { ...good, numUpdates: 3 },
      TypeError,
      'Expected a known option for stateDict but received "numUpdates"; did you mean numUpdate?',
    ],
    [
      'a negative count',
      { ...good, counts: { cpu: { 0: -1 } } },
      RangeError,
      'Expected an integer of at least 0 for stateDict.counts.cpu["0"] but received -1',
    ],
    [
      'a count above numUpdate',
      { ...good, counts: { cpu: { 0: 4 } } },
      RangeError,
      'Expected at most numUpdate (3) for stateDict.counts.cpu["0"] but received 4',
    ],
    [
      'a device that does not exist',
      { ...good, counts: { gpu: { 0: 3 } } },
      RangeError,
      `Expected 'cpu' or 'cuda:N' for a device of stateDict.counts but received "gpu"`,
    ],
    [
      'no rate without a scheduler',
      { ...good, learningRate: null },
      RangeError,
      'Expected a number, since there is no lrScheduler, for stateDict.learningRate but received null',
    ],
    [
      'a list of counts',
      { ...good, counts: [] },
      TypeError,
      'Expected an object for stateDict.counts but received an array of length 0',
    ],
  ];
  itRefuses(
    rows.map(
      ([what, value, kind, message]): ErrorRow => [
        what,
        () => new AdamW().loadStateDict(value as OptimizerStateDict),
        kind,
        message,
      ],
    ),
  );

  it('should have changed nothing where it throws', () => {
    const optimizer = new AdamW();
    const weight = new Weight(optimizer, 0);
    weight.update(optimizer, 0);
    const before = optimizer.stateDict();
    for (const [, value, kind, message] of rows) {
      expectError(() => optimizer.loadStateDict(value as OptimizerStateDict), kind, message);
      expect(optimizer.stateDict()).to.deep.equal(before);
    }
  });
});
