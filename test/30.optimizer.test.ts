/** The ways to make a step, and the lists that fusedStep() keeps from call to call. */
import { expect } from 'chai';
import { AdamW, type StepResult, Tensor, type TensorLike } from '../lib/index.js';
import { expectError, itRefuses } from './support/errors.js';
import { copyOf, tensorOf, valuesIn } from './support/memory.js';
import {
  cloneArguments,
  cloneArrays,
  cloneModel,
  type DTypeConfig,
  expectSameModel,
  type Model,
  makeArguments,
  makeGrads,
  makeModel,
  type StepArguments,
} from './support/model.js';
import { randomFrom } from './support/random.js';
import { gradsOf, only, start } from './support/small-model.js';
import { CALLS, DONE, stepper } from './support/steps.js';
import { quietly } from './support/warnings.js';

describe('arguments', () => {
  for (const call of CALLS) {
    it(`should accept one index with one tensor, or lists: ${call}`, () => {
      const lists = cloneModel(start);
      const single = cloneModel(start);
      const byLists = new AdamW();
      const bySingle = new AdamW();
      for (const i of [0, 1, 2]) {
        stepper(byLists, only(lists, i), call)([gradsOf[0][i]]);
        const args = [i, single.weights[i], gradsOf[0][i], single.states[i]] as const;
        if (call === 'fusedStep()') bySingle.fusedStep(...args);
        else if (call === 'step()') bySingle.step(...args);
        else bySingle.bind(...args).step();
      }
      expectSameModel(single, lists, 'single');
      expect(() => expectSameModel(single, start, 'undefined')).to.throw();
    });

    it(`should accept typed arrays as well as Tensors: ${call}`, () => {
      const tensors = cloneModel(start);
      const arrays: Model = {
        indices: [...start.indices],
        weights: start.weights.map(copyOf) as TensorLike[],
        states: start.states.map(({ mean, variance }) => ({
          mean: copyOf(mean) as TensorLike,
          variance: copyOf(variance) as TensorLike,
        })),
      };
      stepper(new AdamW(), tensors, call)(gradsOf[0]);
      stepper(new AdamW(), arrays, call)(gradsOf[0].map(copyOf) as TensorLike[]);
      expectSameModel(arrays, tensors, 'arrays');
    });

    it(`should accept empty lists and empty tensors: ${call}`, () => {
      const optimizer = new AdamW();
      expect(stepper(optimizer, { indices: [], weights: [], states: [] }, call)([])).to.deep.equal(DONE);
      expect(optimizer.numUpdate).to.equal(0);
      const empty = makeModel([['float32', 0]], randomFrom(1));
      expect(stepper(optimizer, empty, call)([new Float32Array(0)])).to.deep.equal(DONE);
      expect(optimizer.numUpdate).to.equal(1);
    });
  }
});

describe('update', () => {
  class Witness extends AdamW {
    readonly calls: string[] = [];
    override step(...args: Parameters<AdamW['step']>): StepResult {
      this.calls.push('step');
      return super.step(...args);
    }
    override fusedStep(...args: Parameters<AdamW['fusedStep']>): StepResult {
      this.calls.push('fusedStep');
      return super.fusedStep(...args);
    }
  }

  for (const [useFusedStep, called] of [
    [undefined, 'fusedStep'],
    [true, 'fusedStep'],
    [false, 'step'],
  ] as const) {
    it(`should call ${called}() if useFusedStep is ${useFusedStep}`, () => {
      const optimizer = new Witness({ useFusedStep });
      const model = cloneModel(start);
      optimizer.update(model.indices, model.weights, gradsOf[0], model.states);
      optimizer.updateMultiPrecision(model.indices, model.weights, gradsOf[1], model.states);
      expect(optimizer.calls).to.deep.equal([called, called]);
      expect(optimizer.numUpdate).to.equal(2);
    });
  }
});

describe('rescaleGrad', () => {
  it('should apply to the next step when it is set', () => {
    const optimizer = new AdamW({ rescaleGrad: 0.5 });
    expect(optimizer.rescaleGrad).to.equal(0.5);
    optimizer.rescaleGrad = 0.125;
    expect(optimizer.rescaleGrad).to.equal(0.125);
    const model = cloneModel(start);
    const expected = cloneModel(start);
    optimizer.fusedStep(model.indices, model.weights, gradsOf[0], model.states);
    const scaled = cloneArrays(gradsOf[0]);
    for (const array of scaled) valuesIn(array).set(valuesIn(array).map((value) => value / 8)); // exact
    new AdamW().fusedStep(expected.indices, expected.weights, scaled, expected.states);
    expectSameModel(model, expected, 'rescaled');
  });

  itRefuses([
    [
      'a string',
      () => {
        new AdamW().rescaleGrad = '1' as never;
      },
      TypeError,
      'Expected a number for rescaleGrad but received "1"',
    ],
    [
      'undefined',
      () => {
        new AdamW().rescaleGrad = undefined as never;
      },
      TypeError,
      'Expected a number for rescaleGrad but received undefined',
    ],
  ]);
});

describe('fusedStep', () => {
  function makeLists(configs: readonly DTypeConfig[] = ['float32', 'float32', 'float32']): StepArguments {
    return makeArguments(
      configs.map((config, i) => [config, 4 + i]),
      randomFrom(40),
    );
  }

  const other = (like: TensorLike, seed: number): TensorLike => {
    const { dtype, length } = tensorOf(like);
    return Tensor.zeros(length, { dtype }).set(
      makeGrads({ indices: [0], weights: [like], states: [] }, randomFrom(seed))
        .map(tensorOf)[0]
        .toArray(),
    );
  };

  const changes: readonly [what: string, change: (lists: StepArguments) => void, configs?: readonly DTypeConfig[]][] = [
    ['undefined', () => {}],
    ['a gradient in the same list', (lists) => (lists.grads[1] = other(lists.grads[1], 50))],
    ['all gradients', (lists) => (lists.grads = lists.grads.map((grad, i) => other(grad, 60 + i)))],
    ['the list of gradients alone', (lists) => (lists.grads = [...lists.grads])],
    ['one weight', (lists) => (lists.weights[2] = other(lists.weights[2], 51))],
    [
      'one weight, of another length',
      (lists) => {
        lists.weights[0] = new Float32Array(9).fill(1);
        lists.grads[0] = new Float32Array(9).fill(2);
        lists.states[0] = { mean: new Float32Array(9), variance: new Float32Array(9) };
      },
    ],
    [
      'one weight, of another dtype',
      (lists) => {
        lists.weights[0] = new Float64Array(9).fill(1);
        lists.grads[0] = new Float64Array(9).fill(2);
        lists.states[0] = { mean: new Float64Array(9), variance: new Float64Array(9) };
      },
    ],
    ['one state', (lists) => (lists.states[1] = { mean: new Float32Array(5), variance: new Float32Array(5) })],
    ['the mean inside a state', (lists) => Object.assign(lists.states[1], { mean: new Float32Array(5).fill(0.5) })],
    [
      'the variance inside a state',
      (lists) => Object.assign(lists.states[1], { variance: new Float32Array(5).fill(0.5) }),
    ],
    [
      'the master inside a state',
      (lists) => Object.assign(lists.states[1], { master: new Float32Array(5).fill(0.5) }),
      ['float16+master', 'float16+master'],
    ],
    [
      'a state that loses its master',
      (lists) => Object.assign(lists.states[1], { master: undefined }),
      ['float16+master', 'float16+master'],
    ],
    [
      'a state that gets a master',
      (lists) => Object.assign(lists.states[0], { master: new Float32Array(4).fill(0.5) }),
      ['bfloat16+float32 states', 'float32'],
    ],
    ['the index of a tensor', (lists) => (lists.indices[2] = 'other')],
    [
      'the order of the tensors',
      (lists) => {
        for (const list of Object.values(lists)) list.reverse();
      },
    ],
    [
      'one tensor less',
      (lists) => {
        for (const list of Object.values(lists)) list.pop();
      },
    ],
    [
      'one tensor more',
      (lists) => {
        lists.indices.push(9);
        lists.weights.push(new Float32Array(3).fill(1));
        lists.grads.push(new Float32Array(3).fill(1));
        lists.states.push({ mean: new Float32Array(3), variance: new Float32Array(3) });
      },
    ],
  ];

  for (const [what, change, configs] of changes) {
    for (const call of ['fusedStep()', 'step()'] as const) {
      it(`should notice if what changes between steps is ${what}: ${call}`, () => {
        const lists = makeLists(configs);
        const expected = cloneArguments(lists);
        const optimizer = new AdamW({ learningRate: 0.1 });
        const by = new AdamW({ learningRate: 0.1 });
        const stepBoth = (t: string) => {
          const { indices, weights, grads, states } = lists;
          if (call === 'fusedStep()') quietly(() => optimizer.fusedStep(indices, weights, grads, states));
          else quietly(() => optimizer.step(indices, weights, grads, states));
          quietly(() => by.bind(expected.indices, expected.weights, expected.grads, expected.states)).step();
          expectSameModel(lists, expected, t);
        };
        stepBoth('step 1');
        stepBoth('step 2');
        change(lists);
        change(expected);
        stepBoth('step 3');
        stepBoth('step 4');
        expect(lists.indices.map((index) => optimizer.updateCount(index))).to.deep.equal(
          expected.indices.map((index) => by.updateCount(index)),
        );
      });
    }
  }

  it('should notice gradients that are replaced in the same list repeatedly', () => {
    const lists = makeLists();
    const expected = cloneArguments(lists);
    const optimizer = new AdamW();
    const by = new AdamW();
    for (let t = 0; t < 6; t++) {
      optimizer.fusedStep(lists.indices, lists.weights, lists.grads, lists.states);
      by.bind(expected.indices, expected.weights, expected.grads, expected.states).step();
      expectSameModel(lists, expected, `step ${t}`);
      lists.grads[t % 3] = other(lists.grads[t % 3], 90 + t);
      expected.grads[t % 3] = other(expected.grads[t % 3], 90 + t);
    }
  });

  it('should alternate between lists', () => {
    const lists = [makeLists(), makeLists(['float64', 'float32'])];
    const expected = lists.map((each) => cloneArguments(each));
    const optimizer = new AdamW();
    const by = new AdamW();
    for (const k of [0, 1, 0, 0, 1, 1, 0]) {
      const { indices, weights, grads, states } = lists[k];
      optimizer.fusedStep(indices, weights, grads, states);
      by.bind(expected[k].indices, expected[k].weights, expected[k].grads, expected[k].states).step();
      expectSameModel(lists[k], expected[k], `lists ${k}`);
    }
  });

  it('should work with the last valid lists after a call that threw', () => {
    const lists = makeLists();
    const expected = cloneArguments(lists);
    const optimizer = new AdamW();
    const by = new AdamW();
    const { indices, weights, grads, states } = lists;
    for (let t = 0; t < 3; t++) {
      optimizer.fusedStep(indices, weights, grads, states);
      by.bind(expected.indices, expected.weights, expected.grads, expected.states).step();
      expectSameModel(lists, expected, `step ${t}`);
      for (const [call, message] of [
        [
          () => optimizer.fusedStep(indices, weights, [grads[0], grads[1], weights[2]], states),
          'Expected memory of its own for weights[2] but received memory shared with grads[2]',
        ],
        [
          () => optimizer.fusedStep(indices, weights, [grads[0], grads[1], grads[1]], states),
          'Expected length 6 for grads[2] but received length 5',
        ],
        [
          () => optimizer.fusedStep([0, 0, 1], weights, grads, states),
          'Expected an index of its own for indices[1] but received 0, as indices[0]',
        ],
      ] as const) {
        expectError(call, RangeError, message);
      }
      expectSameModel(lists, expected, `failed step ${t}`);
    }
    expect(optimizer.numUpdate).to.equal(3);
  });

  it('should keep working after dispose()', () => {
    const lists = makeLists();
    const expected = cloneArguments(lists);
    const optimizer = new AdamW();
    const by = new AdamW();
    optimizer.dispose();
    for (let t = 0; t < 3; t++) {
      optimizer.fusedStep(lists.indices, lists.weights, lists.grads, lists.states);
      optimizer.dispose();
      by.bind(expected.indices, expected.weights, expected.grads, expected.states).step();
      expectSameModel(lists, expected, `step ${t}`);
    }
    expect(optimizer.numUpdate).to.equal(3);
  });

  it('should release the last lists on dispose()', async () => {
    const optimizer = new AdamW();
    const stepOnce = () => {
      const weight = Tensor.zeros(100_000); // too large for a slab
      optimizer.fusedStep(0, weight, Tensor.zeros(100_000), optimizer.createState(0, weight));
      return new WeakRef(weight.data.buffer);
    };
    const memory = stepOnce();
    optimizer.dispose();
    for (let i = 0; i < 10 && memory.deref(); i++) {
      await new Promise((resolve) => setImmediate(resolve));
      globalThis.gc?.();
    }
    expect(memory.deref()).to.equal(undefined);
  });
});
