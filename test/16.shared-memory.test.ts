/** Memory that two SharedArrayBuffers share: a step must not take it for two. */
import { expect } from 'chai';
import { sameMemory } from '../lib/backend/shared-memory.js';
import { AdamW, type AdamWState, Tensor } from '../lib/index.js';
import { describeOnEachBackend } from './support/backends.js';
import { expectSameBits } from './support/bits.js';
import { expectError } from './support/errors.js';
import { DTYPE_BYTES, DTYPES } from './support/memory.js';
import { shares } from './support/messages.js';

/** Another object of the same memory, as a worker gets it by postMessage(). */
function again(buffer: SharedArrayBuffer): SharedArrayBuffer {
  return structuredClone(buffer);
}

/** WebAssembly.Memory, which neither es2022 nor Node's types declare. */
interface WasmMemory {
  readonly buffer: SharedArrayBuffer;
  grow(pages: number): void;
}

/** The buffer of a shared WebAssembly.Memory before and after it grew: objects of different lengths. */
function grown(): [before: SharedArrayBuffer, after: SharedArrayBuffer] {
  const { Memory } = Reflect.get(globalThis, 'WebAssembly') as {
    Memory: new (options: { initial: number; maximum: number; shared: boolean }) => WasmMemory;
  };
  const memory = new Memory({ initial: 1, maximum: 2, shared: true });
  const before = memory.buffer;
  memory.grow(1);
  return [before, memory.buffer];
}

describeOnEachBackend('shared memory', (run) => {
  const LENGTH = 8;

  for (const dtype of DTYPES) {
    const bytes = DTYPE_BYTES[dtype] * LENGTH;
    const over = (buffer: SharedArrayBuffer, byteOffset = 0): Tensor =>
      Tensor.from(buffer, { dtype, byteOffset, length: LENGTH });
    const fresh = (): Tensor => over(new SharedArrayBuffer(bytes));

    const ways: Record<string, () => { one: Tensor; other: Tensor }> = {
      'a clone': () => {
        const buffer = new SharedArrayBuffer(bytes);
        return { one: over(buffer), other: over(again(buffer)) };
      },
      'two clones': () => {
        const buffer = new SharedArrayBuffer(2 * bytes);
        return { one: over(again(buffer), bytes / 2), other: over(again(buffer), bytes) };
      },
      'a WebAssembly.Memory that grew': () => {
        const [before, after] = grown();
        return { one: over(before, 64), other: over(after, 64) };
      },
    };

    for (const [way, make] of Object.entries(ways)) {
      it(`should be found: ${way}, ${dtype}`, () => {
        run(() => {
          for (const [role, name] of [
            ['grad', 'grads[1]'],
            ['mean', 'states[1].mean'],
            ['variance', 'states[1].variance'],
          ] as const) {
            const { one, other } = make();
            const weights = [fresh(), one];
            const arrays = { grad: fresh(), mean: fresh(), variance: fresh(), [role]: other };
            const states = [
              { mean: fresh(), variance: fresh() },
              { mean: arrays.mean, variance: arrays.variance },
            ];
            const optimizer = new AdamW();
            const before = one.data.slice();
            const call = (): unknown => optimizer.fusedStep([0, 1], weights, [fresh(), arrays.grad], states);
            let message = '';
            try {
              call();
            } catch (error) {
              message = (error as Error).message;
            }
            expect([shares('weights[1]', name), shares(name, 'weights[1]')]).to.include(message);
            expectError(call, RangeError, message);
            expectSameBits(one.data, before, 'the weight');
            expect(optimizer.numUpdate).to.equal(0);
          }
        });
      });
    }

    it(`should be found again with other gradients, ${dtype}`, () => {
      run(() => {
        const buffer = new SharedArrayBuffer(bytes);
        const optimizer = new AdamW();
        const state: AdamWState = { mean: fresh(), variance: fresh() };
        const bound = optimizer.bind(0, over(buffer), fresh(), state);
        bound.step();
        expectError(() => bound.setGrads([over(again(buffer))]), RangeError, shares('weights[0]', 'grads[0]'));
        bound.step();
        expect(optimizer.numUpdate).to.equal(2);
      });
    });

    it(`should be allowed where it does not overlap, or is only read, ${dtype}`, () => {
      run(() => {
        const buffer = new SharedArrayBuffer(4 * bytes);
        const parts = [0, 1, 2, 3].map((i) => over(again(buffer), i * bytes));
        const [weight, grad, mean, variance] = parts;
        grad.set(new Float32Array(LENGTH).fill(1));
        new AdamW().fusedStep(0, weight, grad, { mean, variance });
        const expected = Tensor.zeros(LENGTH, { dtype });
        const state = { mean: Tensor.zeros(LENGTH, { dtype }), variance: Tensor.zeros(LENGTH, { dtype }) };
        new AdamW().fusedStep(0, expected, Tensor.zeros(LENGTH, { dtype }).copyFrom(grad), state);
        expectSameBits(weight.data, expected.data, 'the weight');

        const grads = new SharedArrayBuffer(bytes);
        new AdamW().fusedStep(
          [0, 1],
          [fresh(), fresh()],
          [over(grads), over(again(grads))],
          [
            { mean: fresh(), variance: fresh() },
            { mean: fresh(), variance: fresh() },
          ],
        );
      });
    });
  }
});

describe('sameMemory', () => {
  it('should find the first buffer of each memory', () => {
    const [a, b, c] = [64, 8, 4096].map((bytes) => new SharedArrayBuffer(bytes));
    const [before, after] = grown();
    const [a2, a3, c2, c3] = [a, a, c, c].map(again);
    const found = sameMemory([a, before, b, a2, c, c2, after, c3, a3]);
    expect([...found]).to.have.length(5);
    expect(found.get(a2)).to.equal(a);
    expect(found.get(a3)).to.equal(a);
    expect(found.get(c2)).to.equal(c);
    expect(found.get(c3)).to.equal(c);
    expect(found.get(after)).to.equal(before);
    expect(sameMemory([a2, a]).get(a)).to.equal(a2);
  });

  it('should find none where there is none', () => {
    const buffers = Array.from({ length: 100 }, () => new SharedArrayBuffer(16));
    expect(sameMemory(buffers).size).to.equal(0);
    expect(sameMemory([]).size).to.equal(0);
    expect(sameMemory([new ArrayBuffer(8), new ArrayBuffer(8), new SharedArrayBuffer(0)]).size).to.equal(0);
  });

  it('should change nothing in the memory, and leave nobody waiting', () => {
    const buffer = new SharedArrayBuffer(16);
    const bytes = new Uint8Array(buffer).fill(0xa5);
    expect(sameMemory([buffer, again(buffer), again(buffer)]).size).to.equal(2);
    expect([...bytes]).to.deep.equal(new Array(16).fill(0xa5));
    for (let i = 0; i < 4; i++) expect(Atomics.notify(new Int32Array(buffer), i)).to.equal(0);
  });

  it('should wake nobody who waits at the beginning of the memory', async () => {
    const buffer = new SharedArrayBuffer(64);
    const { waitAsync } = Atomics as unknown as {
      waitAsync(array: Int32Array, index: number, value: number): { readonly value: Promise<string> };
    };
    const waiting = waitAsync(new Int32Array(buffer), 0, 0);
    expect(sameMemory([buffer, again(buffer)]).size).to.equal(1);
    expect(Atomics.notify(new Int32Array(buffer), 0)).to.equal(1);
    expect(await waiting.value).to.equal('ok');
  });
});
