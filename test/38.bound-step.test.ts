/** Steps that are bound to their tensors once. */
import { expect } from 'chai';
import { AdamW, Tensor } from '../lib/index.js';
import { environments, inEnvironment } from './support/environments.js';
import { type ErrorRow, expectError, itRefuses } from './support/errors.js';
import { valuesIn } from './support/memory.js';
import { cloneArrays, cloneModel, expectSameModel, remember } from './support/model.js';
import { gradsOf, start } from './support/small-model.js';
import { DONE } from './support/steps.js';

describe('bind', () => {
  for (const environment of environments()) {
    it(`should make the same steps as fusedStep(): ${environment.name}`, () => {
      inEnvironment(environment, () => {
        const model = cloneModel(start);
        const expected = cloneModel(start);
        const optimizer = new AdamW({ learningRate: 0.1, aggregateNum: 2 });
        const bound = optimizer.bind(model.indices, model.weights, gradsOf[0], model.states);
        const by = new AdamW({ learningRate: 0.1 });
        for (const grads of gradsOf) {
          bound.setGrads(grads);
          for (let i = 0; i < 2; i++) {
            expect(bound.step()).to.deep.equal(DONE);
            by.fusedStep(expected.indices, expected.weights, grads, expected.states);
          }
        }
        expectSameModel(model, expected, 'bound');
        expect(optimizer.numUpdate).to.equal(10);
      });
    });

    it(`should read new values from the same gradient arrays: ${environment.name}`, () => {
      inEnvironment(environment, () => {
        const model = cloneModel(start);
        const expected = cloneModel(start);
        const grads = cloneArrays(gradsOf[0]);
        const bound = new AdamW().bind(model.indices, model.weights, grads, model.states);
        const by = new AdamW();
        for (const values of gradsOf) {
          grads.forEach((grad, i) => {
            valuesIn(grad).set(valuesIn(values[i]));
          });
          bound.step();
          by.step(expected.indices, expected.weights, values, expected.states);
        }
        expectSameModel(model, expected, 'bound');
      });
    });

    it(`should keep the last gradients if setGrads() throws: ${environment.name}`, () => {
      inEnvironment(environment, () => {
        const model = cloneModel(start);
        const expected = cloneModel(start);
        const bound = new AdamW().bind(model.indices, model.weights, gradsOf[0], model.states);
        const [first, second, third] = gradsOf[1];
        const rows: ErrorRow[] = [
          [
            '',
            () => bound.setGrads([first, new Float64Array(8), third]),
            TypeError,
            'Expected float32 for grads[1] but received float64',
          ],
          [
            '',
            () => bound.setGrads([first, second, first]),
            RangeError,
            'Expected length 3 for grads[2] but received length 5',
          ],
          [
            '',
            () => bound.setGrads([first, model.weights[1], third]),
            RangeError,
            'Expected memory of its own for weights[1] but received memory shared with grads[1]',
          ],
          [
            '',
            () => bound.setGrads([first, model.states[1].mean, third]),
            RangeError,
            'Expected memory of its own for states[1].mean but received memory shared with grads[1]',
          ],
        ];
        for (const [, call, kind, message] of rows) expectError(call, kind, message);
        bound.step();
        new AdamW().step(expected.indices, expected.weights, gradsOf[0], expected.states);
        expectSameModel(model, expected, 'bound');
      });
    });

    it(`should report shared memory even if the last gradients were detached: ${environment.name}`, () => {
      inEnvironment(environment, () => {
        const weight = new Float32Array(4);
        const grad = new Float32Array(4);
        const optimizer = new AdamW();
        const bound = optimizer.bind([0], [weight], [grad], [optimizer.createState(0, weight)]);
        structuredClone(grad.buffer, { transfer: [grad.buffer] });
        expectError(
          () => bound.setGrads([weight]),
          RangeError,
          'Expected memory of its own for weights[0] but received memory shared with grads[0]',
        );
        expectError(
          () => bound.step(),
          RangeError,
          'Expected memory that is still there for grads[0] but received a detached ArrayBuffer',
        );
        bound.setGrads([new Float32Array(4)]);
        expect(bound.step()).to.deep.equal(DONE);
      });
    });
  }

  const ofThree = () => new AdamW().bind(start.indices, start.weights, gradsOf[0], start.states);
  itRefuses([
    [
      'too few gradients in setGrads()',
      () => ofThree().setGrads(gradsOf[0].slice(1)),
      RangeError,
      'Expected a list of length 3 for grads but received one of length 2',
    ],
    [
      'one gradient in setGrads()',
      () => ofThree().setGrads(Tensor.zeros(5) as never),
      TypeError,
      'Expected a list for grads but received a Tensor',
    ],
    [
      'a typed array in setGrads()',
      () => ofThree().setGrads(new Float32Array(3) as never),
      TypeError,
      'Expected a list for grads but received a Float32Array',
    ],
    [
      'undefined in setGrads()',
      () => ofThree().setGrads(undefined as never),
      TypeError,
      'Expected a list for grads but received undefined',
    ],
  ]);

  it('should ignore later changes to the lists', () => {
    const model = cloneModel(start);
    const expected = cloneModel(start);
    const lists = { ...model, weights: [...model.weights], states: [...model.states], grads: [...gradsOf[0]] };
    const bound = new AdamW().bind(lists.indices, lists.weights, lists.grads, lists.states);
    bound.setGrads(lists.grads);
    lists.indices.reverse();
    lists.weights.pop();
    lists.grads[0] = new Float32Array(5);
    lists.states.length = 0;
    bound.step();
    new AdamW().step(expected.indices, expected.weights, gradsOf[0], expected.states);
    expectSameModel(model, expected, 'bound');
  });

  it('should follow later settings of the optimizer', () => {
    const model = cloneModel(start);
    const expected = cloneModel(start);
    const optimizer = new AdamW();
    const by = new AdamW();
    const bound = optimizer.bind(model.indices, model.weights, gradsOf[0], model.states);
    const changes: readonly ((o: AdamW) => void)[] = [
      (o) => o.setLearningRate(0.3),
      (o) => o.setLrMult({ 1: 0.5 }),
      (o) => o.setWdMult({ 2: 4 }),
      (o) => {
        o.rescaleGrad = 0.3;
      },
    ];
    for (const change of changes) {
      change(optimizer);
      change(by);
      bound.step();
      by.fusedStep(expected.indices, expected.weights, gradsOf[0], expected.states);
      expectSameModel(model, expected, 'bound');
    }
  });

  it('should refuse to step after dispose()', () => {
    const model = cloneModel(start);
    const optimizer = new AdamW();
    const bound = optimizer.bind(model.indices, model.weights, gradsOf[0], model.states);
    bound.step();
    bound.dispose();
    bound.dispose();
    const expectKept = remember(model);
    const message = 'Expected a live BoundStep for this but received one that was disposed of';
    expectError(() => bound.step(), RangeError, message);
    expectError(() => bound.setGrads(gradsOf[1]), RangeError, message);
    expectKept('after dispose()');
    expect(optimizer.numUpdate).to.equal(1);
    expect(optimizer.fusedStep(model.indices, model.weights, gradsOf[1], model.states)).to.deep.equal(DONE);
  });
});
