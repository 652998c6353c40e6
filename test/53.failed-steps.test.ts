/** A step that throws changes none of its tensors, whichever of them is invalid. */
import { expect } from 'chai';
import { AdamW, type AdamWOptions, Tensor, type TensorLike } from '../lib/index.js';
import { environments, inEnvironment } from './support/environments.js';
import { attempt, expectError } from './support/errors.js';
import { tensorOf, valuesIn } from './support/memory.js';
import { makeArguments, makeGrads, makeModel, remember, type StepArguments } from './support/model.js';
import { randomFrom } from './support/random.js';
import { CALLS, DONE, stepper } from './support/steps.js';
import { quietly } from './support/warnings.js';

describe('A step that throws', () => {
  /** Two float32 tensors, a float16 one with a master and a float64 one. */
  function make(): StepArguments {
    return makeArguments(
      [
        ['float32', 4],
        ['float32', 5],
        ['float16+master', 6],
        ['float64', 3],
      ],
      randomFrom(70),
    );
  }
  const view = (array: TensorLike) => valuesIn(array) as Float32Array;

  const rows: readonly [
    what: string,
    spoil: (args: StepArguments) => void,
    kind: typeof TypeError,
    message: string,
    options?: AdamWOptions,
  ][] = [
    [
      'too few gradients',
      ({ grads }) => grads.pop(),
      RangeError,
      'Expected a list of length 4 for grads but received one of length 3',
    ],
    [
      'too many weights',
      ({ weights }) => weights.push(new Float32Array(1)),
      RangeError,
      'Expected a list of length 4 for weights but received one of length 5',
    ],
    [
      'states that are not a list',
      (args) => Object.assign(args, { states: args.states[0] }),
      TypeError,
      'Expected a list, since indices is one, for states but received an object',
    ],
    [
      'one index with lists',
      (args) => Object.assign(args, { indices: 0 }),
      TypeError,
      'Expected one Tensor, since indices is one index, for weights but received an array of length 4',
    ],
    [
      'an undefined index',
      (args) => Object.assign(args, { indices: undefined }),
      TypeError,
      'Expected a whole number of at least 0 or a string for indices but received undefined',
    ],
    [
      'a negative index',
      ({ indices }) => (indices[3] = -1),
      TypeError,
      'Expected a whole number of at least 0 or a string for indices[3] but received -1',
    ],
    [
      'a fractional index',
      ({ indices }) => (indices[1] = 1.5),
      TypeError,
      'Expected a whole number of at least 0 or a string for indices[1] but received 1.5',
    ],
    [
      'the same index twice',
      ({ indices }) => (indices[3] = 1),
      RangeError,
      'Expected an index of its own for indices[3] but received 1, as indices[1]',
    ],
    [
      'the same name twice',
      ({ indices }) => indices.fill('w', 2),
      RangeError,
      'Expected an index of its own for indices[3] but received "w", as indices[2]',
    ],
    [
      'a weight that is a plain array',
      ({ weights }) => (weights[1] = [1] as never),
      TypeError,
      'Expected a Tensor, Float32Array, Float64Array or Float16Array for weights[1] but received an array of length 1',
    ],
    [
      'a Uint16Array',
      ({ grads }) => (grads[2] = new Uint16Array(6) as never),
      TypeError,
      "Expected a Tensor (make one with Tensor.from(array, { dtype: 'float16' }) or 'bfloat16') for grads[2] but received a Uint16Array, which does not say its dtype",
    ],
    [
      'a gradient of another dtype',
      ({ grads }) => (grads[3] = new Float32Array(3)),
      TypeError,
      'Expected float64 for grads[3] but received float32',
    ],
    [
      'a gradient of another length',
      ({ grads }) => (grads[3] = new Float64Array(4)),
      RangeError,
      'Expected length 3 for grads[3] but received length 4',
    ],
    [
      'an undefined gradient',
      ({ grads }) => (grads[0] = undefined as never),
      TypeError,
      'Expected a Tensor, Float32Array, Float64Array or Float16Array for grads[0] but received undefined',
    ],
    [
      'a state that is null',
      ({ states }) => (states[3] = null as never),
      TypeError,
      'Expected a state with mean and variance for states[3] but received null',
    ],
    [
      'a state without a variance',
      ({ states }) => (states[3] = { mean: new Float64Array(3) } as never),
      TypeError,
      'Expected a state with mean and variance for states[3] but received an object',
    ],
    [
      'a mean of another dtype',
      ({ states }) => Object.assign(states[0], { mean: new Float64Array(4) }),
      TypeError,
      'Expected float32 or bfloat16 for states[0].mean but received float64',
    ],
    [
      'a variance of another dtype',
      ({ states }) => Object.assign(states[3], { variance: new Float32Array(3) }),
      TypeError,
      'Expected float64 for states[3].variance but received float32',
    ],
    [
      'a variance of another length',
      ({ states }) => Object.assign(states[3], { variance: new Float64Array(2) }),
      RangeError,
      'Expected length 3 for states[3].variance but received length 2',
    ],
    [
      'a half-precision mean with a master',
      ({ states }) => Object.assign(states[2], { mean: Tensor.zeros(6, { dtype: 'float16' }) }),
      TypeError,
      'Expected float32 for states[2].mean but received float16',
    ],
    [
      'a master of a float32 weight',
      ({ states }) => Object.assign(states[1], { master: new Float32Array(5) }),
      TypeError,
      'Expected no master beside a float32 weight for states[1].master but received a Float32Array',
    ],
    [
      'a master of another dtype',
      ({ states }) => Object.assign(states[2], { master: new Float64Array(6) }),
      TypeError,
      'Expected float32 for states[2].master but received float64',
    ],
    [
      'a master of another length',
      ({ states }) => Object.assign(states[2], { master: new Float32Array(5) }),
      RangeError,
      'Expected length 6 for states[2].master but received length 5',
    ],
    [
      'a weight that is its gradient',
      ({ weights, grads }) => (grads[1] = weights[1]),
      RangeError,
      'Expected memory of its own for weights[1] but received memory shared with grads[1]',
    ],
    [
      "a gradient that is another tensor's variance",
      ({ states, grads }) => (grads[0] = view(states[1].variance).subarray(1)),
      RangeError,
      'Expected memory of its own for states[1].variance but received memory shared with grads[0]',
    ],
    [
      'a mean that is the variance',
      ({ states }) => (states[0] = { mean: states[0].mean, variance: states[0].mean }),
      RangeError,
      'Expected memory of its own for states[0].variance but received memory shared with states[0].mean',
    ],
    [
      'weights that overlap',
      ({ weights }) => {
        const memory = new Float32Array(8);
        weights[0] = memory.subarray(0, 4);
        weights[1] = memory.subarray(3, 8);
      },
      RangeError,
      'Expected memory of its own for weights[1] but received memory shared with weights[0]',
    ],
    [
      'a gradient that was disposed of',
      ({ grads }) => tensorOf(grads[3]).dispose(),
      RangeError,
      'Expected a live Tensor for grads[3] but received one that was disposed of',
    ],
    [
      'a rate that float32 cannot hold',
      () => {},
      RangeError,
      'Expected a number that float32 can hold for learningRate but received 1e+39',
      { learningRate: 1e39, correctBias: false },
    ],
    [
      'a decay that float32 cannot hold',
      () => {},
      RangeError,
      'Expected a number that float32 can hold for wd but received 1e+39',
      { wd: 1e39 },
    ],
    [
      'an epsilon that float32 cannot hold',
      () => {},
      RangeError,
      'Expected a number that float32 can hold for epsilon but received 1e+39',
      { epsilon: 1e39 },
    ],
    [
      'a clipGradient that float32 cannot hold',
      () => {},
      RangeError,
      'Expected a number that float32 can hold for clipGradient but received 1e+39',
      { clipGradient: 1e39 },
    ],
    [
      'a clipGradient that is 0 in float32',
      () => {},
      RangeError,
      'Expected a positive number in float32 for clipGradient but received 1e-60',
      { clipGradient: 1e-60 },
    ],
    [
      'a beta1 that is 1 in float32',
      () => {},
      RangeError,
      'Expected less than 1 in float32 for beta1 but received 0.9999999999',
      { beta1: 0.9999999999 },
    ],
    [
      'a beta2 that is 1 in float32',
      () => {},
      RangeError,
      'Expected less than 1 in float32 for beta2 but received 0.9999999999',
      { beta2: 0.9999999999 },
    ],
    [
      "a decay of rule 'pytorch' that float32 cannot hold",
      () => {},
      RangeError,
      'Expected a number that float32 can hold for learningRate * wd but received 1.6069380442589903e+60',
      { learningRate: 2 ** 100, wd: 2 ** 100, rule: 'pytorch', correctBias: false },
    ],
  ];

  for (const environment of [environments()[0], ...environments().slice(-1)]) {
    for (const [what, spoil, kind, message, options] of rows) {
      it(`should change nothing for ${what}: ${environment.name}`, () => {
        inEnvironment(environment, () => {
          for (const call of CALLS) {
            const args = make();
            const expectKept = remember(args);
            spoil(args);
            const optimizer = new AdamW({ learningRate: 0.1, ...options });
            const step = stepper(optimizer, args, call);
            expectError(() => quietly(() => step(args.grads)), kind, message);
            expectKept(call);
            expect(optimizer.numUpdate).to.equal(0);
            for (const index of [0, 1, 2, 3]) expect(optimizer.updateCount(index)).to.equal(0);
          }
        });
      });
    }
  }

  it('should tell the first of several overlaps, on every backend the same', () => {
    const random = randomFrom(53);
    const below = (end: number): number => Math.floor(end * random());
    const messages = new Set<string>();
    for (let round = 0; round < 60; round++) {
      const memories = Array.from({ length: 3 }, () => new ArrayBuffer(4000));
      // 70 tensors lie in memory in more runs than are merged.
      const size = round % 6 === 0 ? 70 : 4;
      const array = (): Float32Array =>
        below(size) > 1 ? new Float32Array(2) : new Float32Array(memories[below(3)], 4 * below(990), 1 + below(9));
      const list = (): Float32Array[] => Array.from({ length: size }, array).map((each) => each.subarray(0, 1));
      const [weights, grads, means, variances] = [list(), list(), list(), list()];
      weights[1] = weights[0]; // at least one, and two that begin together
      const told = environments().map((environment) =>
        inEnvironment(environment, () => {
          const states = means.map((mean, i) => ({ mean, variance: variances[i] }));
          const outcome = attempt(() => new AdamW().bind([...weights.keys()], weights, grads, states));
          return 'error' in outcome ? String(outcome.error) : 'nothing';
        }),
      );
      expect(new Set(told), `round ${round}`).to.have.property('size', 1);
      messages.add(told[0]);
    }
    for (const message of messages) expect(message).to.match(/^RangeError: Expected memory of its own for /);
  });

  it('should tell an overlap of weights before one of states, wherever they lie in memory', () => {
    for (const environment of environments()) {
      inEnvironment(environment, () => {
        for (const order of [
          [0, 1],
          [1, 0],
        ]) {
          const memory = new Float32Array(8);
          const [first, second] = order.map((i) => memory.subarray(4 * i, 4 * i + 2));
          const weights = [new Float32Array(2), second, second];
          const states = weights.map(() => ({ mean: new Float32Array(2), variance: new Float32Array(2) }));
          states[0] = { mean: first, variance: first };
          const grads = weights.map(() => new Float32Array(2));
          expectError(
            () => new AdamW().fusedStep([0, 1, 2], weights, grads, states),
            RangeError,
            'Expected memory of its own for weights[2] but received memory shared with weights[1]',
            environment.name,
          );
        }
      });
    }
  });

  it('should check scalars only against the dtypes of the call', () => {
    const wide = makeModel([['float64', 3]], randomFrom(1));
    const options = { learningRate: 1e39, wd: 0, epsilon: 1e39, clipGradient: 1e-60, beta1: 0.9999999999 };
    expect(stepper(new AdamW(options), wide, 'fusedStep()')(makeGrads(wide, randomFrom(2)))).to.deep.equal(DONE);
  });
});
