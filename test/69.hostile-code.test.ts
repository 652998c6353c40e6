/** Code of others around a step: replaced built-in functions, accessors on prototypes, loops that never yield. */
import { expect } from 'chai';
import { reportOf } from './support/child.js';
import { itUnless, noNative } from './support/conditions.js';

const OPTIONS = { env: { FUSED_ADAMW_BACKEND: 'native' }, flags: ['--expose-gc'] } as const;

describe('replaced built-in functions', function () {
  this.timeout(200000);

  // Each wrapper can take the memory away; a step that then ran its kernels would write to memory that is gone.
  itUnless(noNative, 'should not come between the check of memory and the kernels', () => {
    const source = `
      const { AdamW } = await import(libraryUrl);
      const { structuredClone } = globalThis;
      const take = (array) => structuredClone(array.buffer, { transfer: [array.buffer] });
      const outcomes = new Set();
      const prototypes = [Array.prototype, Map.prototype, Set.prototype, Object.getPrototypeOf(Uint8Array.prototype),
        Object.getPrototypeOf([].values()), Object.getPrototypeOf(new Map().entries()), Math, Number, Object, Reflect,
        Array, ArrayBuffer, JSON, process];
      for (let nth = 1, done = false; !done && nth < 400; nth++) {
        for (const way of ['bound', 'fused', 'fresh']) {
          const [weight, grad, mean, variance] = [1, 1, 0, 0].map((value) => new Float32Array(1 << 18).fill(value));
          const optimizer = new AdamW();
          const args = [[0], [weight], [grad], [{ mean, variance }]];
          const bound = optimizer.bind(...args);
          if (way === 'bound') bound.step();
          if (way === 'fused') optimizer.fusedStep(...args);
          const originals = [];
          let calls = 0;
          let isArmed = false;
          for (const holder of prototypes) {
            for (const key of Reflect.ownKeys(holder)) {
              const { value: original, writable, configurable } = Object.getOwnPropertyDescriptor(holder, key);
              if (typeof original !== 'function' || key === 'constructor' || !configurable || !writable) continue;
              if (holder === process && key !== 'emitWarning') continue;
              originals.push([holder, key, original]);
            }
          }
          const { apply } = Reflect;
          for (const [holder, key, original] of originals) {
            holder[key] = function (...list) {
              if (isArmed && ++calls === nth && weight.byteLength > 0) take(weight);
              return new.target ? new original(...list) : apply(original, this, list);
            };
          }
          let outcome;
          isArmed = true;
          try {
            outcome = way === 'bound' ? bound.step() : optimizer.fusedStep(...args);
          } catch (error) {
            outcome = error;
          } finally {
            isArmed = false;
            for (let i = 0; i < originals.length; i++) originals[i][0][originals[i][1]] = originals[i][2];
          }
          if (calls < nth && way === 'fresh') done = true;
          const said = outcome instanceof Error ? String(outcome) : JSON.stringify(outcome);
          outcomes.add(said);
          if (weight.byteLength === 0 && !(outcome instanceof Error)) {
            // Taken only after the step: then the moments were updated with it.
            if (mean[0] === 0) throw new Error('skipped in silence');
          }
        }
      }
      report([...outcomes]);`;
    const outcomes = reportOf(source, { ...OPTIONS, timeout: 120 }) as string[];
    expect(outcomes, outcomes.join('\n')).to.include('{"skipped":false}');
    for (const outcome of outcomes) {
      expect(outcome).to.match(
        /^(\{"skipped":false\}|RangeError: Expected (memory that is still there|arrays of equal length) .*)$/,
      );
    }
  });

  itUnless(noNative, 'should not be found by accessors on Array.prototype', () => {
    const source = `
      const { AdamW, multiAdamwUpdate } = await import(libraryUrl);
      const arrays = (value) => [0, 1, 2].map(() => new Float32Array(1 << 16).fill(value));
      const make = () => ({ weights: arrays(1), grads: arrays(1), means: arrays(0), variances: arrays(0) });
      const step = ({ weights, grads, means, variances }) =>
        new AdamW().update([0, 1, 2], weights, grads, means.map((mean, i) => ({ mean, variance: variances[i] })));
      const [plain, hostile] = [make(), make()];
      step(plain);
      let calls = 0;
      for (const key of [0, 1, 2]) {
        Object.defineProperty(Array.prototype, key, {
          configurable: true,
          get() { calls++; return undefined; },
          set() { calls++; const { buffer } = hostile.weights[0]; structuredClone(buffer, { transfer: [buffer] }); },
        });
      }
      let failure = null;
      try {
        step(hostile);
      } catch (error) {
        failure = String(error);
      }
      for (const key of [0, 1, 2]) delete Array.prototype[key];
      report([failure, hostile.weights.map((weight, i) => weight.length === 0 || weight[0] === plain.weights[i][0])]);`;
    const [failure, same] = reportOf(source, OPTIONS) as [string | null, boolean[]];
    if (failure !== null) expect(failure).to.match(/^RangeError: Expected /);
    else expect(same).to.deep.equal([true, true, true]);
  });
});

describe('loops that never yield', function () {
  this.timeout(200000);

  const grown = (loop: string, count: number): number =>
    reportOf(
      `
      const { AdamW, multiAdamwUpdate } = await import(libraryUrl);
      const make = () => [1, 1, 0, 0].map((value) => new Float32Array(4).fill(value));
      const [weight, grad, mean, variance] = make();
      const optimizer = new AdamW();
      const others = make();
      const run = (count) => { for (let k = 0; k < count; k++) { ${loop} } };
      run(20000);
      gc();
      const before = process.memoryUsage().rss;
      run(${count});
      gc();
      report((process.memoryUsage().rss - before) / 2 ** 20);`,
      { ...OPTIONS, timeout: 180 },
    ) as number;

  itUnless(noNative, 'should not grow with multiAdamwUpdate()', () => {
    const call = 'multiAdamwUpdate([weight], [grad], [mean], [variance], { etas: [1], lrs: [1], wds: [0] });';
    expect(grown(call, 150000)).to.be.below(30); // it grew by 360 bytes a call: 54 MiB
  });

  itUnless(noNative, 'should not grow with two lists by turns on one optimizer', () => {
    const call = `
      optimizer.update([0], [weight], [grad], [{ mean, variance }]);
      optimizer.update([1], [others[0]], [others[1]], [{ mean: others[2], variance: others[3] }]);`;
    expect(grown(call, 60000)).to.be.below(30);
  });

  itUnless(noNative, 'should not grow with what is disposed of', () => {
    const call = `
      optimizer.bind([0], [weight], [grad], [{ mean, variance }]).dispose();
      const short = new AdamW();
      short.update([0], [weight], [grad], [{ mean, variance }]);
      short.dispose();`;
    expect(grown(call, 60000)).to.be.below(30); // not disposed of it grew by 3,600 bytes a turn: 200 MiB
  });

  itUnless(noNative, 'should not grow with other gradients, or other indices, at each step', () => {
    const call = `
      optimizer.update([0], [weight], [new Float32Array(4)], [{ mean, variance }]);
      optimizer.update([k % 5000], [weight], [grad], [{ mean, variance }]);`;
    expect(grown(call, 120000)).to.be.below(60); // counts and lists of 5,000 indices among them
  });
});
