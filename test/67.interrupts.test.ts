/**
 * Steps that are interrupted: JavaScript can be stopped between any two
 * operations, by a timeout of vm, worker.terminate() or an overflow of the
 * stack, and then no `finally` runs. Afterwards weights, states and counts
 * must belong together, and the next step must be possible.
 */
import vm from 'node:vm';
import { expect } from 'chai';
import { AdamW } from '../lib/index.js';
import { reportsOf, runChild } from './support/child.js';
import { itUnless, noNative } from './support/conditions.js';
import { environments, inEnvironment, TYPESCRIPT } from './support/environments.js';
import { attempt, expectError } from './support/errors.js';
import { cloneModel, expectSameModel, type Model } from './support/model.js';
import { gradsOf, start } from './support/small-model.js';
import { CALLS, DONE, stepper } from './support/steps.js';

/** A model that was stepped by gradsOf[0] without interrupts, as often as another one says. */
class Twin {
  readonly #model = cloneModel(start);
  readonly #step = stepper(new AdamW(), this.#model, 'fusedStep()');
  #steps = 0;

  expectLike(model: Model, optimizer: AdamW, what: string): void {
    expect(optimizer.updateCount(0), what).to.be.at.least(this.#steps);
    for (; this.#steps < optimizer.updateCount(0); this.#steps++) this.#step(gradsOf[0]);
    expectSameModel(model, this.#model, what);
  }
}

/** Runs a call over and over until it is interrupted. */
function interrupted(call: () => unknown, milliseconds: number): void {
  const outcome = attempt(() => vm.runInNewContext('for (;;) call()', { call }, { timeout: milliseconds }));
  expect(outcome).to.have.property('error').with.property('code', 'ERR_SCRIPT_EXECUTION_TIMEOUT');
}

for (const environment of environments()) {
  describe(`steps that are interrupted: ${environment.name}`, () => {
    for (const call of CALLS) {
      it(`should leave counts that belong to the weights, and an optimizer that goes on: ${call}`, () => {
        inEnvironment(environment, () => {
          for (let round = 0; round < 5; round++) {
            const model = cloneModel(start);
            const optimizer = new AdamW();
            const step = stepper(optimizer, model, call);
            interrupted(() => step(gradsOf[0]), 5 + round);
            if (environment === TYPESCRIPT || call === 'step()') {
              // Its tensors are updated one after the other: a step may break off between two.
              const next = attempt(() => step(gradsOf[0]));
              if ('error' in next) {
                expect(String(next.error)).to.match(/^Error: The last step was interrupted/);
                const count = optimizer.updateCount(0);
                expectError(() => step(gradsOf[0]), Error, /^The last step was interrupted/);
                optimizer.recover();
                expect(step(gradsOf[0])).to.deep.equal(DONE);
                expect(optimizer.updateCount(0)).to.equal(count + 1);
                continue;
              }
            }
            expect(step(gradsOf[0])).to.deep.equal(DONE);
            new Twin().expectLike(model, optimizer, 'after an interrupt');
            expect(optimizer.numUpdate).to.equal(optimizer.updateCount(0));
          }
        });
      });
    }

    it('should leave everything together at every depth of the stack', () => {
      inEnvironment(environment, () => {
        const model = cloneModel(start);
        const optimizer = new AdamW();
        const step = stepper(optimizer, model, 'bind()');
        step(gradsOf[0]);
        const deepest = ((): number => {
          let depth = 0;
          const dive = (): void => {
            depth++;
            dive();
          };
          attempt(dive);
          return depth;
        })();
        let overflows = 0;
        const twin = new Twin();
        const at = (depth: number): unknown => (depth === 0 ? step(gradsOf[0]) : at(depth - 1));
        for (let depth = Math.floor(deepest * 0.7); depth < deepest * 1.4; depth += 7) {
          const outcome = attempt(() => at(depth));
          if ('error' in outcome) overflows++;
          else expect(outcome.value).to.deep.equal(DONE);
          twin.expectLike(model, optimizer, `${depth} frames`);
          if (overflows > 60) break;
        }
        expect(overflows).to.be.greaterThan(20);
        expect(step(gradsOf[0])).to.deep.equal(DONE);
      });
    }).timeout(120000);
  });
}

describe('setGrads() that is interrupted', () => {
  for (const backend of ['native', 'javascript']) {
    itUnless(
      backend === 'native' ? noNative : null,
      `should leave one of the lists, whose memory is kept: ${backend}`,
      () => {
        const child = runChild(
          `
          import vm from 'node:vm';
          const { AdamW } = await import(libraryUrl);
          const LENGTH = 1 << 16;
          const list = (value) => Array.from({ length: 40 }, () => new Float32Array(LENGTH).fill(value));
          const weights = list(1);
          const optimizer = new AdamW({ learningRate: 0.5, correctBias: false, beta1: 0, beta2: 0, epsilon: 0 });
          const states = weights.map((weight, i) => optimizer.createState(i, weight));
          for (let round = 0; round < 6; round++) {
            let A = list(1);
            let B = list(-1);
            const bound = optimizer.bind(weights.map((_, i) => i), weights, A, states);
            for (const weight of weights) weight.fill(0);
            try {
              vm.runInNewContext('for (;;) { b.setGrads(A); b.setGrads(B); }', { b: bound, A, B }, { timeout: 30 + round });
            } catch {}
            A = B = null;
            gc();
            const garbage = list(7); // where the lists may have been
            bound.step();
            report([...new Set(weights.map((weight) => [...new Set(weight)].join()))]);
            garbage.length = 0;
            bound.dispose();
          }`,
          { env: { FUSED_ADAMW_BACKEND: backend }, flags: ['--expose-gc'] },
        );
        for (const found of reportsOf(child)) expect(['0.5', '-0.5']).to.include((found as string[]).join());
      },
    );
  }
});
