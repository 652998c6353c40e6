/** Memory that is detached after a Tensor was made: a Tensor's own cannot be, the caller's can. */
import { MessageChannel } from 'node:worker_threads';
import { expect } from 'chai';
import { AdamW, Tensor } from '../lib/index.js';
import { expectSameBits } from './support/bits.js';
import { detach } from './support/buffers.js';
import { itUnless, noNative } from './support/conditions.js';
import { environments, inEnvironment, inNative } from './support/environments.js';
import { attempt, type ErrorRow, expectError, itRefuses } from './support/errors.js';
import { copyOf, DTYPE_BYTES, DTYPES, valuesIn } from './support/memory.js';
import { callersTensor, likeTensor } from './support/scene.js';

describe('Tensor', () => {
  describe('own memory', () => {
    it('should be empty if one size is 0, however large the others are', () => {
      const sizes = [...new Array<number>(21).fill(Number.MAX_SAFE_INTEGER), 0];
      expect(Tensor.zeros(sizes).length).to.equal(0);
      expect(Tensor.from(new Float32Array(0), { shape: sizes }).shape).to.deep.equal(sizes);
      expect([...Tensor.zeros(3).set([1, 2, 3]).data, ...Tensor.zeros(2).data]).to.deep.equal([1, 2, 3, 0, 0]);
    });

    function expectThere(tensor: Tensor): void {
      expect(tensor.data.length).to.equal(3);
      expect([...tensor.toArray()]).to.deep.equal([1, 2, 3]);
    }

    /** Whether the buffer moves or the attempt throws is up to the engine. */
    function tryToMove(move: () => unknown): void {
      const outcome = attempt(move);
      if ('error' in outcome) expect(outcome.error).to.have.property('name', 'DataCloneError');
    }

    it('should not be transferred by structuredClone', () => {
      const tensor = Tensor.zeros(3).set([1, 2, 3]);
      tryToMove(() => detach(tensor.data.buffer));
      expectThere(tensor);
    });

    it('should not be transferred by postMessage', () => {
      const tensor = Tensor.zeros(3).set([1, 2, 3]);
      const { port1, port2 } = new MessageChannel();
      tryToMove(() => port1.postMessage(tensor.data, [tensor.data.buffer as ArrayBuffer]));
      port1.close();
      port2.close();
      expectThere(tensor);
    });

    for (const method of ['transfer', 'transferToFixedLength', 'resize']) {
      const missing = method in ArrayBuffer.prototype ? null : `this engine has no ArrayBuffer.prototype.${method}`;

      itUnless(missing, `should not be moved by ${method}()`, () => {
        const tensor = Tensor.zeros(3).set([1, 2, 3]);
        const { buffer } = tensor.data;
        expectError(
          () => Reflect.apply(Reflect.get(buffer, method), buffer, [0]),
          TypeError,
          `Expected memory that may move for ${method} but received that of a Tensor`,
        );
        expectThere(tensor);
      });
    }

    const noTransfer = 'transfer' in ArrayBuffer.prototype ? null : 'this engine has no ArrayBuffer.prototype.transfer';

    itUnless(noTransfer, "should not be moved by the prototype's transfer(), or the step should throw", () => {
      for (const environment of environments()) {
        inEnvironment(environment, () => {
          const optimizer = new AdamW();
          // Too large for a slab: detaching one would take the slab's other tensors with it.
          const weight = Tensor.zeros(2000);
          const bound = optimizer.bind(
            [0],
            [weight],
            [new Float32Array(2000).fill(1)],
            [optimizer.createState(0, weight)],
          );
          const outcome = attempt(() => {
            Reflect.apply(Reflect.get(ArrayBuffer.prototype, 'transfer'), weight.data.buffer, []);
          });
          if ('error' in outcome) {
            expect(outcome.error).to.be.an.instanceOf(TypeError);
            expect(weight.data.length).to.equal(2000);
            bound.step();
            return;
          }
          expectError(
            () => bound.step(),
            RangeError,
            'Expected memory that is still there for weights[0] but received a detached ArrayBuffer',
          );
          expect(optimizer.numUpdate).to.equal(0);
        });
      }
    });
  });

  describe("the caller's memory", () => {
    const names = {
      weight: 'weights[1]',
      grad: 'grads[1]',
      mean: 'states[1].mean',
      variance: 'states[1].variance',
      master: 'states[1].master',
    };

    for (const environment of environments()) {
      for (const role of Object.keys(names) as (keyof typeof names)[]) {
        it(`should make the step throw if it was detached after binding: ${role}, ${environment.name}`, () => {
          inEnvironment(environment, () => {
            const optimizer = new AdamW();
            const tensors = [0, 1].map(() => callersTensor(true));
            const [weights, grads] = (['weight', 'grad'] as const).map((name) =>
              tensors.map(({ arrays }) => likeTensor(arrays[name])),
            );
            const lists = [[0, 1], weights, grads, tensors.map(({ state }) => state)] as const;
            const bound = optimizer.bind(...lists);
            optimizer.fusedStep(...lists);
            bound.step();
            const kept = copyOf(weights[0]);
            detach(tensors[1].arrays[role].buffer);
            const message = `Expected memory that is still there for ${names[role]} but received a detached ArrayBuffer`;
            for (const step of [
              () => bound.step(),
              () => optimizer.fusedStep(...lists),
              () => optimizer.step(...lists),
              () => optimizer.bind(...lists),
            ]) {
              expectError(step, RangeError, message);
            }
            expectSameBits(valuesIn(weights[0]), kept, 'the other weight');
            expect(optimizer.updateCount(0)).to.equal(2);
            expect(optimizer.numUpdate).to.equal(2);
          });
        });
      }
    }

    itUnless(noNative, 'should keep its address when it is small', () => {
      inNative(() => {
        const tensor = Tensor.from(Float32Array.of(1, 2));
        const { pointer } = tensor;
        for (let i = 0; i < 3; i++) {
          Array.from({ length: 10_000 }, () => new Float32Array(2));
          globalThis.gc?.();
        }
        expect(tensor.pointer).to.equal(pointer);
      });
    });

    const THERE = 'but received a detached ArrayBuffer';
    itRefuses(
      DTYPES.flatMap((dtype): ErrorRow[] => {
        const gone = () => {
          const tensor = Tensor.from(new ArrayBuffer(2 * DTYPE_BYTES[dtype]), { dtype });
          detach(tensor.data.buffer);
          return tensor;
        };
        const here = () => Tensor.zeros(2, { dtype });
        const message = `Expected memory that is still there for this ${THERE}`;
        return [
          [`toArray() of a detached ${dtype} tensor`, () => gone().toArray(), RangeError, message],
          [`set() of a detached ${dtype} tensor`, () => gone().set([1, 2]), RangeError, message],
          [`copyFrom() into a detached ${dtype} tensor`, () => gone().copyFrom(here()), RangeError, message],
          [
            `copyFrom() of a detached ${dtype} tensor`,
            () => here().copyFrom(gone()),
            RangeError,
            `Expected memory that is still there for source ${THERE}`,
          ],
        ];
      }),
    );
  });
});
