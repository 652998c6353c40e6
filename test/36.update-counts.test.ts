/** The update count of each index, and what depends on it: the learning rate and the bias correction. */
import { expect } from 'chai';
import fc from 'fast-check';
import { AdamW, type Index, multiAdamwUpdate, type StepResult } from '../lib/index.js';
import { exactPower } from './support/exact-power.js';
import { cloneModel, expectSameModel, type Model, makeGrads, makeModel } from './support/model.js';
import { randomFrom } from './support/random.js';
import { InverseRoot } from './support/schedulers.js';
import { gradsOf, only, start } from './support/small-model.js';

describe('counts', () => {
  it('should be kept per index, with numUpdate as their maximum', () => {
    const optimizer = new AdamW();
    const { weights, states } = cloneModel(start);
    const step = (...indices: number[]) =>
      optimizer.fusedStep(
        indices,
        indices.map((i) => weights[i]),
        indices.map((i) => gradsOf[0][i]),
        indices.map((i) => states[i]),
      );
    const counts = () => [0, 1, 2].map((index) => optimizer.updateCount(index));
    expect([...counts(), optimizer.numUpdate]).to.deep.equal([0, 0, 0, 0]);
    step(0, 1, 2);
    expect([...counts(), optimizer.numUpdate]).to.deep.equal([1, 1, 1, 1]);
    step(1);
    step(1, 2);
    expect([...counts(), optimizer.numUpdate]).to.deep.equal([1, 3, 2, 3]);
    step(0);
    expect([...counts(), optimizer.numUpdate]).to.deep.equal([2, 3, 2, 3]);
    step(2, 0);
    step(0, 2, 1);
    expect([...counts(), optimizer.numUpdate]).to.deep.equal([4, 4, 4, 4]);
    step();
    expect(optimizer.numUpdate).to.equal(4);
    expect(optimizer.updateCount(9)).to.equal(0);
  });

  it('should be kept per device', () => {
    const optimizer = new AdamW({ beginNumUpdate: 2 });
    const { indices, weights, states } = cloneModel(start);
    optimizer.fusedStep(indices, weights, gradsOf[0], states);
    expect(optimizer.updateCount(0)).to.equal(3);
    expect(optimizer.updateCount(0, 'cpu')).to.equal(3);
    expect(optimizer.updateCount(0, 'cuda:0')).to.equal(2);
  });

  it('should start at beginNumUpdate', () => {
    const optimizer = new AdamW({ beginNumUpdate: 41 });
    expect(optimizer.numUpdate).to.equal(41);
    expect(optimizer.updateCount('any')).to.equal(41);
    const { indices, weights, states } = cloneModel(start);
    optimizer.step(indices, weights, gradsOf[0], states);
    expect(optimizer.numUpdate).to.equal(42);
    expect(optimizer.updateCount(2)).to.equal(42);
    expect(optimizer.updateCount('any')).to.equal(41);
  });

  it('should determine the bias correction of each index', () => {
    const model = cloneModel(start);
    const optimizer = new AdamW({ learningRate: 0.1, beginNumUpdate: 3 });
    optimizer.step(1, model.weights[1], gradsOf[0][1], model.states[1]);
    optimizer.step(model.indices, model.weights, gradsOf[1], model.states);
    const expected = only(cloneModel(start), 1);
    const third = new AdamW({ learningRate: 0.1, beginNumUpdate: 3 });
    third.step(expected.indices, expected.weights, [gradsOf[0][1]], expected.states);
    const fourth = new AdamW({ learningRate: 0.1, beginNumUpdate: 4 });
    fourth.step(expected.indices, expected.weights, [gradsOf[1][1]], expected.states);
    expectSameModel(only(model, 1), expected, 'tensor 1');
    const other = only(cloneModel(start), 0);
    third.step([0], other.weights, [gradsOf[1][0]], other.states);
    expectSameModel(only(model, 0), other, 'tensor 0');
  });

  it('should give the bias correction of the formula, bit for bit in float64', () => {
    const random = randomFrom(33);
    for (const count of [1, 2, 3, 4, 7, 10, 64, 99, 100, 1000, 4321]) {
      for (const [beta1, beta2] of [
        [0.9, 0.999],
        [0.7, 0.95],
        [0, 0.5],
      ]) {
        const learningRate = random();
        const lrMult = 2 * random();
        const wd = random();
        const correction = Math.sqrt(1 - exactPower(beta2, count)) / (1 - exactPower(beta1, count));
        const eta = (learningRate * lrMult * Math.sqrt(1 - exactPower(beta2, count))) / (1 - exactPower(beta1, count));
        expect(eta).to.be.closeTo(learningRate * lrMult * correction, 1e-12);
        const model = makeModel([['float64', 9]], random);
        const expected = cloneModel(model);
        const grads = makeGrads(model, random);
        const optimizer = new AdamW({ learningRate, beta1, beta2, wd, epsilon: 1e-8, beginNumUpdate: count - 1 });
        optimizer.setLrMult({ 0: lrMult });
        optimizer.step(model.indices, model.weights, grads, model.states);
        const [{ mean, variance }] = expected.states;
        multiAdamwUpdate(expected.weights, grads, [mean], [variance], {
          etas: [eta],
          lrs: [1],
          wds: [wd],
          beta1,
          beta2,
        });
        expectSameModel(model, expected, `update ${count} with betas ${beta1} and ${beta2}`);
      }
    }
  });

  const TENSORS = 6;
  const six = makeModel(
    Array.from({ length: TENSORS }, (_, i) => ['float32', 1 + (i % 3)] as const),
    randomFrom(31),
  );
  const sixGrads = makeGrads(six, randomFrom(32));
  const indicesOf: readonly (readonly Index[])[] = [
    [0, 1, 2, 3, 4, 5],
    ['a', 'b', 0, '01', 'c', 7],
  ];

  interface Action {
    readonly call: 'fusedStep()' | 'step()' | 'bind()' | 'bound before';
    readonly subset: readonly number[];
  }
  const actions: fc.Arbitrary<Action[]> = fc.array(
    fc.record({
      call: fc.constantFrom('fusedStep()', 'step()', 'bind()', 'bound before'),
      subset: fc.oneof(
        fc.shuffledSubarray([0, 1, 2, 3, 4, 5]),
        // Overlapping subsets that recur.
        fc.constantFrom([0, 1, 2], [2, 3], [1, 2, 3, 4], [0, 1, 2, 3, 4, 5], [5]),
      ),
    }),
    { maxLength: 25 },
  );

  /** Runs actions with one optimizer for all; `check` sees the subset after each. */
  function runActions(
    optimizer: AdamW,
    model: Model,
    indices: readonly Index[],
    sequence: readonly Action[],
    check: (subset: readonly number[]) => void,
  ): void {
    const boundBefore = new Map<string, { step(): StepResult }>();
    for (const { call, subset } of sequence) {
      const pick = <T>(list: readonly T[]) => subset.map((i) => list[i]);
      const lists = [pick(indices), pick(model.weights), pick(sixGrads), pick(model.states)] as const;
      const key = subset.join();
      if (call === 'fusedStep()') optimizer.fusedStep(...lists);
      else if (call === 'step()') optimizer.step(...lists);
      else if (call === 'bind()') optimizer.bind(...lists).step();
      else {
        const bound = boundBefore.get(key) ?? optimizer.bind(...lists);
        boundBefore.set(key, bound);
        bound.step();
      }
      check(subset);
    }
  }

  for (const indices of indicesOf) {
    it(`should update subsets at different times as separate optimizers would: indices ${indices.join()}`, () => {
      fc.assert(
        fc.property(actions, fc.integer({ min: 0, max: 5 }), (sequence, beginNumUpdate) => {
          const options = { learningRate: 0.1, wd: 0.1, beginNumUpdate };
          const optimizer = new AdamW(options);
          const model = cloneModel(six);
          const expected = cloneModel(six);
          const own = indices.map(() => new AdamW(options));
          runActions(optimizer, model, indices, sequence, (subset) => {
            for (const i of subset) own[i].step(indices[i], expected.weights[i], sixGrads[i], expected.states[i]);
            const counts = own.map(({ numUpdate }) => numUpdate);
            expect(indices.map((index) => optimizer.updateCount(index))).to.deep.equal(counts);
            expect(optimizer.numUpdate).to.equal(Math.max(...counts));
          });
          expectSameModel(model, expected, 'at the end');
        }),
        { numRuns: 150 },
      );
    });
  }

  it('should give subsets at different times the learning rate of the largest count', () => {
    const [indices] = indicesOf;
    fc.assert(
      fc.property(actions, (sequence) => {
        const lrScheduler = new InverseRoot({ baseLr: 0.1, warmupSteps: 3 });
        const optimizer = new AdamW({ lrScheduler });
        const model = cloneModel(six);
        const expected = cloneModel(six);
        const own = indices.map(() => new AdamW());
        runActions(optimizer, model, indices, sequence, (subset) => {
          const counts = own.map(({ numUpdate }, i) => numUpdate + (subset.includes(i) ? 1 : 0));
          for (const i of subset) {
            own[i].setLearningRate(lrScheduler.learningRateAt(Math.max(...counts)));
            own[i].step(i, expected.weights[i], sixGrads[i], expected.states[i]);
          }
        });
        expectSameModel(model, expected, 'at the end');
      }),
      { numRuns: 100 },
    );
  });

  it('should be right for overlapping bound steps that alternate', () => {
    const model = cloneModel(six);
    const expected = cloneModel(six);
    const optimizer = new AdamW({ learningRate: 0.1 });
    const own = six.indices.map(() => new AdamW({ learningRate: 0.1 }));
    const subsets = [
      [0, 1, 2],
      [2, 3],
      [3, 4, 5, 0],
    ];
    const bounds = subsets.map((subset) =>
      optimizer.bind(
        subset,
        subset.map((i) => model.weights[i]),
        subset.map((i) => sixGrads[i]),
        subset.map((i) => model.states[i]),
      ),
    );
    for (let round = 0; round < 20; round++) {
      const k = [0, 1, 2, 1, 0, 0, 2][round % 7];
      bounds[k].step();
      for (const i of subsets[k]) own[i].step(i, expected.weights[i], sixGrads[i], expected.states[i]);
      expectSameModel(model, expected, `round ${round}`);
    }
    expect(six.indices.map((i) => optimizer.updateCount(i))).to.deep.equal(own.map(({ numUpdate }) => numUpdate));
  });
});
