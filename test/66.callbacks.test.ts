/** What the caller's code does while a step asks it: schedulers, parameters with getters, lists that are Proxies. */
import { expect } from 'chai';
import { AdamW, type AdamWOptions, type BoundStep, LossScaler, type StepResult } from '../lib/index.js';
import { environments, inEnvironment } from './support/environments.js';
import { attempt, expectError } from './support/errors.js';
import { valuesIn } from './support/memory.js';
import { cloneModel, expectSameModel, type Model } from './support/model.js';
import { Schedule } from './support/schedulers.js';
import { gradsOf, only, start } from './support/small-model.js';
import { CALLS, type Call, DONE, SKIPPED, stepper } from './support/steps.js';

type Callback = () => void;

/** The places where a step asks code of the caller's: options that call a function there. */
const CALLBACKS: readonly (readonly [string, (call: Callback) => AdamWOptions])[] = [
  [
    'a scheduler',
    (call) => ({
      lrScheduler: new Schedule(() => {
        call();
        return 0.1;
      }),
    }),
  ],
  [
    'a parameter',
    (call) => ({
      learningRate: 0.1,
      paramDict: {
        0: {
          get lrMult() {
            call();
            return 1;
          },
        },
      },
    }),
  ],
];

const NESTED = 'Expected a call outside of its steps for this but received one inside a step of this optimizer';

/** Every public call that changes an optimizer, or what is bound to it. */
const REFUSED: readonly (readonly [string, (optimizer: AdamW, bound: BoundStep, part: Model) => unknown])[] = [
  ['step()', (o, _, { indices, weights, states }) => o.step(indices, weights, [gradsOf[3][1]], states)],
  ['fusedStep()', (o, _, { indices, weights, states }) => o.fusedStep(indices, weights, [gradsOf[3][1]], states)],
  ['update()', (o, _, { indices, weights, states }) => o.update(indices, weights, [gradsOf[3][1]], states)],
  ['bind()', (o, _, { indices, weights, states }) => o.bind(indices, weights, [gradsOf[3][1]], states)],
  ['bound.step()', (_, bound) => bound.step()],
  ['bound.setGrads()', (_, bound) => bound.setGrads(gradsOf[3])],
  ['bound.dispose()', (_, bound) => bound.dispose()],
  ['dispose()', (o) => o.dispose()],
  ['setLrMult()', (o) => o.setLrMult({ 0: 5 })],
  ['setWdMult()', (o) => o.setWdMult({ 0: 5 })],
  ['loadStateDict()', (o) => o.loadStateDict(o.stateDict())],
  ['recover()', (o) => o.recover()],
];

for (const environment of environments()) {
  for (const [where, optionsOf] of CALLBACKS) {
    describe(`code of the caller's inside a step: ${where}, ${environment.name}`, () => {
      const run = (
        call: Call,
        during: (optimizer: AdamW, bound: BoundStep, model: Model) => void,
      ): { results: StepResult[]; model: Model; optimizer: AdamW } =>
        inEnvironment(environment, () => {
          const model = cloneModel(start);
          let inside: Callback = () => {};
          const optimizer: AdamW = new AdamW(optionsOf(() => inside()));
          const bound = optimizer.bind(model.indices, model.weights, gradsOf[4], model.states);
          const step = stepper(optimizer, model, call);
          const results = [step(gradsOf[0])];
          inside = () => {
            inside = () => {};
            during(optimizer, bound, model);
          };
          results.push(step(gradsOf[1]));
          results.push(step(gradsOf[2]));
          return { results, model, optimizer };
        });

      for (const call of CALLS) {
        const expected = run(call, () => {});

        it(`should be refused every call that changes the optimizer, and leave the step as it was: ${call}`, () => {
          for (const [what, made] of REFUSED) {
            let calls = 0;
            const { results, model, optimizer } = run(call, (optimizer, bound, all) => {
              calls++;
              expectError(() => made(optimizer, bound, only(all, 1)), RangeError, NESTED, what);
            });
            expect(calls, what).to.equal(1);
            expect(results, what).to.deep.equal([DONE, DONE, DONE]);
            expectSameModel(model, expected.model, what);
            expect(optimizer.stateDict(), what).to.deep.equal(expected.optimizer.stateDict());
          }
        });

        it(`should take effect at once where it assigns options: ${call}`, () => {
          const skipping = run(call, (optimizer) => {
            optimizer.rescaleGrad = NaN;
          });
          expect(skipping.results).to.deep.equal([DONE, SKIPPED, SKIPPED]);
          expect(skipping.optimizer.updateCount(0)).to.equal(1);
          for (const weight of skipping.model.weights) expect(Array.from(valuesIn(weight))).not.to.include(NaN);

          const decaying = run(call, (optimizer) => Object.assign(optimizer, { wd: 0.5, beta1: 0.5, epsilon: 0.01 }));
          const twin = inEnvironment(environment, () => {
            const model = cloneModel(start);
            const optimizer = new AdamW({ learningRate: 0.1 });
            const step = stepper(optimizer, model, call);
            step(gradsOf[0]);
            Object.assign(optimizer, { wd: 0.5, beta1: 0.5, epsilon: 0.01 });
            step(gradsOf[1]);
            step(gradsOf[2]);
            return model;
          });
          expectSameModel(decaying.model, twin, 'assigned inside');
        });

        it(`should change nothing where it throws, or assigns what the step cannot use: ${call}`, () => {
          for (const fail of [
            () => {
              throw new Error('of the caller');
            },
            (optimizer: AdamW) => {
              optimizer.wd = 1e300; // no float32
            },
          ]) {
            inEnvironment(environment, () => {
              const model = cloneModel(start);
              let inside: Callback = () => {};
              const optimizer: AdamW = new AdamW(optionsOf(() => inside()));
              const step = stepper(optimizer, model, call);
              step(gradsOf[0]);
              const [before, counts] = [cloneModel(model), optimizer.stateDict()];
              inside = () => fail(optimizer);
              expect(attempt(() => step(gradsOf[1]))).to.have.property('error');
              expectSameModel(model, before, 'after an error');
              expect(optimizer.stateDict()).to.deep.equal(counts);
              inside = () => {};
              optimizer.wd = 0;
              expect(step(gradsOf[1])).to.deep.equal(DONE);
              expect(optimizer.updateCount(0)).to.equal(2);
            });
          }
        });
      }

      it('should be refused to count an update, from a subclass', () => {
        class Counting extends AdamW {
          count(): void {
            this.advanceCounts([0]);
          }
        }
        let calls = 0;
        let inside: Callback = () => {};
        const optimizer = new Counting(optionsOf(() => inside()));
        const step = stepper(optimizer, cloneModel(start), 'fusedStep()');
        inside = () => {
          calls++;
          expectError(() => optimizer.count(), RangeError, NESTED);
        };
        step(gradsOf[0]);
        expect(calls).to.be.greaterThan(0);
        expect(optimizer.updateCount(0)).to.equal(1);
        optimizer.count();
        expect(optimizer.updateCount(0)).to.equal(2);
      });

      it('should not be asked for a step that is skipped', () => {
        let calls = 0;
        const optimizer = new AdamW(
          optionsOf(() => {
            calls++;
          }),
        );
        optimizer.rescaleGrad = 0;
        const model = cloneModel(start);
        calls = 0;
        expect(stepper(optimizer, model, 'fusedStep()')(gradsOf[0])).to.deep.equal(SKIPPED);
        expect(calls).to.equal(0);
      });

      it('should be free to step another optimizer, and to read this one', () => {
        const other = new AdamW();
        const weight = Float32Array.of(1);
        const state = other.createState(0, weight);
        const { results, model } = run('fusedStep()', (optimizer) => {
          expect(other.update(0, weight, Float32Array.of(1), state)).to.deep.equal(DONE);
          expect(optimizer.numUpdate).to.equal(1);
          expect(optimizer.updateCount(0)).to.equal(1);
          expect(optimizer.stateDict().numUpdate).to.equal(1);
        });
        expect(results).to.deep.equal([DONE, DONE, DONE]);
        expectSameModel(model, run('fusedStep()', () => {}).model, 'beside another optimizer');
      });
    });
  }
}

describe("code of the caller's inside a step: a loss scaler's", () => {
  for (const where of ['scale', 'update()'] as const) {
    it(`should be refused every call that changes the optimizer: ${where}`, () => {
      let inside: Callback = () => {};
      class Asking extends LossScaler {
        override get scale(): number {
          if (where === 'scale') inside();
          return 1;
        }
        override update(): void {
          if (where === 'update()') inside();
        }
      }
      const { indices, weights, states } = cloneModel(start);
      const twin = cloneModel(start);
      const [optimizer, plain] = [new AdamW(), new AdamW()];
      const bound = optimizer.bind(indices, weights, gradsOf[4], states);
      let calls = 0;
      for (const [what, made] of REFUSED) {
        inside = () => {
          calls++;
          expectError(() => made(optimizer, bound, only({ indices, weights, states }, 1)), RangeError, NESTED, what);
        };
        const result = optimizer.fusedStep(indices, weights, gradsOf[0], states, { lossScaler: new Asking() });
        expect(result.skipped, what).to.equal(false);
        plain.fusedStep(twin.indices, twin.weights, gradsOf[0], twin.states);
      }
      expect(calls).to.equal(REFUSED.length);
      expectSameModel({ indices, weights, states }, twin, where);
    });
  }
});
