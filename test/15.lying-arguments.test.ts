/** Arguments of Tensors that answer differently each time, or run code: each is read once, and the copy is what counts. */
import { expect } from 'chai';
import { Tensor } from '../lib/index.js';
import { expectSameBits } from './support/bits.js';
import { growableBuffer, resizableBuffer } from './support/buffers.js';
import { environments, inEnvironment } from './support/environments.js';
import { expectError, itRefuses } from './support/errors.js';
import { DTYPES } from './support/memory.js';

/** A list with holes but for some values. */
function sparse<T>(length: number, values: Readonly<Record<number, T>>): T[] {
  return Object.assign(new Array<T>(length), values);
}

/** Options that give another value at each read: the first of a list, then the next, and the last for good. */
function changing(options: Readonly<Record<string, readonly unknown[]>>): never {
  const reads: Record<string, number> = {};
  const get = (key: string): unknown => {
    reads[key] = (reads[key] ?? 0) + 1;
    return options[key][Math.min(reads[key], options[key].length) - 1];
  };
  return Object.defineProperties(
    {},
    Object.fromEntries(Object.keys(options).map((key) => [key, { get: () => get(key), enumerable: true }])),
  ) as never;
}

/** Options that count how often each is read, by getters or by a Proxy. */
function counted(values: Readonly<Record<string, unknown>>, isProxy: boolean) {
  const reads: Record<string, number> = {};
  const count = (key: string): unknown => {
    reads[key] = (reads[key] ?? 0) + 1;
    return values[key];
  };
  const getters = Object.defineProperties(
    {},
    Object.fromEntries(Object.keys(values).map((key) => [key, { get: () => count(key), enumerable: true }])),
  );
  const options = isProxy ? new Proxy(values, { get: (_, key) => count(String(key)) }) : getters;
  return { reads, options: options as never };
}

/** Lists that say one thing to whom they are validated by, and another to whom they are used by. */
class LyingList extends Array<number> {
  override map(): never[] {
    return [NaN as never];
  }
  override forEach(): void {}
  override includes(): boolean {
    return true;
  }
  override reduce(): never {
    return NaN as never;
  }
  override slice(): never[] {
    return [NaN as never];
  }
  override join(): string {
    return '';
  }
  override *[Symbol.iterator](): ArrayIterator<number> {
    yield NaN;
  }
  static override get [Symbol.species](): never {
    throw new Error('species');
  }
}

/** Asserts that new small tensors share no byte with each other. */
function expectApart(): void {
  const tensors = Array.from({ length: 8 }, (_, i) => Tensor.zeros(5).set(new Array(5).fill(i + 1)));
  tensors.forEach((tensor, i) => {
    expect([...tensor], `tensor ${i}`).to.deep.equal(new Array(5).fill(i + 1));
  });
}

describe('lying arguments', () => {
  for (const environment of environments()) {
    describe(environment.name, () => {
      const run = <T>(body: () => T): T => inEnvironment(environment, body);

      for (const [what, shape] of [
        ['a hole', () => sparse(3, { 0: 2, 2: 3 })],
        ['a hole at the end', () => sparse(3, { 0: 2, 1: 3 })],
        ['holes alone', () => new Array<number>(2)],
      ] as const) {
        it(`should be refused: a shape with ${what}`, () => {
          run(() => {
            for (const call of [
              () => Tensor.zeros(shape()),
              () => Tensor.from(new Float32Array(6), { shape: shape() }),
              () => Tensor.fromJSON({ dtype: 'float32', shape: shape(), data: new Array(6).fill(0) }),
              () => Tensor.fromDevicePointer(256n, { dtype: 'float32', shape: shape() }),
            ]) {
              expect(call).to.throw(
                TypeError,
                /^Expected an integer of at least 0 for (json\.)?shape\[\d\] but received undefined$/,
              );
            }
            expectApart();
          });
        });
      }

      it('should be taken by its elements: a shape of a subclass', () => {
        run(() => {
          const tensor = Tensor.zeros(LyingList.of(2, 3));
          expect(tensor.shape).to.deep.equal([2, 3]);
          expect(Object.getPrototypeOf(tensor.shape)).to.equal(Array.prototype);
          expect(tensor.length).to.equal(6);
          expect(tensor.data.length).to.equal(6);
          expect(Tensor.from(new Float32Array(6), { shape: LyingList.of(2, 3) }).shape).to.deep.equal([2, 3]);
          expectApart();
        });
      });

      it('should be taken as first read: a shape that changes', () => {
        run(() => {
          const shape = [2, 3];
          let reads = 0;
          Object.defineProperty(shape, 1, { get: () => (reads++ === 0 ? 3 : 1e9), enumerable: true });
          const tensor = Tensor.zeros(shape);
          expect(reads).to.equal(1);
          expect([...tensor.shape, tensor.length, tensor.data.length]).to.deep.equal([2, 3, 6, 6]);
          expectApart();
        });
      });

      it('should be taken as first read: a shape whose length changes', () => {
        run(() => {
          let reads = 0;
          const shape = new Proxy([2, 3], {
            get: (target, key) => (key === 'length' && reads++ > 0 ? 9 : Reflect.get(target, key)),
          });
          expect(Tensor.zeros(shape).shape).to.deep.equal([2, 3]);
          expectApart();
        });
      });

      it('should be taken by its elements: a shape, while the prototype of arrays has setters', () => {
        run(() => {
          let tensor: Tensor | undefined;
          Object.defineProperty(Array.prototype, 0, { get: () => NaN, set() {}, configurable: true });
          try {
            tensor = Tensor.zeros(3);
          } catch {
            // Other parts may need a sound prototype.
          } finally {
            Reflect.deleteProperty(Array.prototype, 0);
          }
          if (tensor) expect(tensor.length).to.equal(3);
          expectApart();
        });
      });

      it('should be 0 where it is -0: a size', () => {
        run(() => {
          const tensor = Tensor.zeros([-0, 2]);
          expect(Object.is(tensor.shape[0], 0)).to.equal(true);
          expect(Object.is(Tensor.zeros(-0).length, 0)).to.equal(true);
        });
      });

      for (const isProxy of [false, true]) {
        it(`should be read once: options (${isProxy ? 'a Proxy' : 'getters'})`, () => {
          run(() => {
            const once = (values: Record<string, unknown>, call: (options: never) => unknown): void => {
              const { reads, options } = counted(values, isProxy);
              try {
                call(options);
              } catch (error) {
                expect(error).to.be.an.instanceOf(RangeError); // of an address, where there is no GPU
              }
              const expected = Object.fromEntries(Object.keys(values).map((key) => [key, 1]));
              expect(reads).to.deep.equal(expected);
            };
            once({ dtype: 'float64', device: 'cpu', pinned: false }, (options) => Tensor.zeros(3, options));
            once({ shape: [1, 3], dtype: 'bfloat16', byteOffset: undefined, length: undefined }, (options) =>
              Tensor.from(new Uint16Array(3), options),
            );
            once({ shape: 3, dtype: 'float32', byteOffset: undefined, length: undefined }, (options) =>
              Tensor.from(new Float32Array(3), options),
            );
            once({ shape: [2], dtype: 'float32', byteOffset: 4, length: 2 }, (options) =>
              Tensor.from(new ArrayBuffer(16), options),
            );
            once({ shape: [2], dtype: 'float32', device: undefined, owner: null }, (options) =>
              Tensor.fromDevicePointer(256n, options),
            );
            once({ device: 'cpu', pinned: false }, (options) =>
              Tensor.fromJSON({ dtype: 'float32', shape: [1], data: [1] }, options),
            );
            once({ dtype: 'float32', shape: [1], data: [1] }, (json) => Tensor.fromJSON(json));
          });
        });
      }

      it('should be taken as first read: a dtype', () => {
        run(() => {
          const halves = new Uint16Array(4);
          const tensor = Tensor.from(halves, changing({ dtype: ['float16', 'float16', 'float64'] }));
          expect(tensor.dtype).to.equal('float16');
          expect(tensor.data).to.equal(halves);
          expectError(
            () => Tensor.from(halves, changing({ dtype: ['float64', 'float16'] })),
            TypeError,
            "Expected 'float16' or 'bfloat16' beside a Uint16Array for dtype but received \"float64\"",
          );
          const part = Tensor.from(
            new ArrayBuffer(64),
            changing({ dtype: ['float32', 'float64'], byteOffset: [8, 60], length: [2, 1e6], shape: [[2], [1e6]] }),
          );
          expect([part.dtype, part.length, part.data.byteOffset, part.data.length]).to.deep.equal(['float32', 2, 8, 2]);
          const zeros = Tensor.zeros(4, changing({ dtype: ['float32', 'float64'] }));
          expect([zeros.dtype, zeros.data.byteLength]).to.deep.equal(['float32', 16]);
        });
      });

      it('should stay: what says how memory is to be read', () => {
        run(() => {
          const tensor: Tensor = Tensor.zeros(2, { dtype: 'bfloat16' });
          for (const [key, value] of Object.entries({ dtype: 'float64', shape: [9], length: 9, device: 'cuda:0' })) {
            expect(() => Object.assign(tensor, { [key]: value }), key).to.throw(TypeError);
          }
          expect(() => (tensor.shape as number[]).push(3)).to.throw(TypeError);
          expect([tensor.dtype, tensor.shape, tensor.length, tensor.device]).to.deep.equal(['bfloat16', [2], 2, 'cpu']);
        });
      });

      for (const dtype of DTYPES) {
        it(`should leave a tensor as it was: values that throw halfway (${dtype})`, () => {
          run(() => {
            const tensor = Tensor.zeros(4, { dtype }).set([1, 2, 3, 4]);
            const list = (get: (reads: number) => unknown): number[] => {
              let reads = 0;
              return Object.defineProperty([5, 6, 7, 8], 2, { get: () => get(++reads) });
            };
            const failing = (at: number) => (reads: number) => {
              if (reads === at) throw new Error('halfway');
              return 7;
            };
            expect(() => tensor.set(list(failing(1)))).to.throw('halfway');
            expect([...tensor]).to.deep.equal([1, 2, 3, 4]);
            expect(() => tensor.set(list(() => '7'))).to.throw(TypeError, 'values[2]');
            expect([...tensor]).to.deep.equal([1, 2, 3, 4]);
            expect([...tensor.set(list(failing(2)))]).to.deep.equal([5, 6, 7, 8]);
            tensor.set(list((reads) => (reads === 1 ? 9 : NaN)));
            expect([...tensor]).to.deep.equal([5, 6, 9, 8]);
          });
        });

        it(`should leave a tensor as it was: values with a hole (${dtype})`, () => {
          run(() => {
            const tensor = Tensor.zeros(3, { dtype }).set([1, 2, 3]);
            expectError(
              () => tensor.set(sparse(3, { 0: 4, 2: 5 })),
              TypeError,
              'Expected a number for values[1] but received undefined',
            );
            expect([...tensor]).to.deep.equal([1, 2, 3]);
            expect([...tensor.set(LyingList.of(4, 5, 6))]).to.deep.equal([4, 5, 6]);
          });
        });

        it(`should be noticed: values that take the memory away (${dtype})`, () => {
          run(() => {
            const tensor = Tensor.zeros(2, { dtype });
            const values = Object.defineProperty([1, 2], 1, {
              get: () => {
                tensor.dispose();
                return 2;
              },
            });
            expectError(
              () => tensor.set(values),
              RangeError,
              'Expected a live Tensor for this but received one that was disposed of',
            );
          });
        });

        it(`should be read before they are overwritten: values in the same memory (${dtype})`, () => {
          run(() => {
            const buffer = new ArrayBuffer(80);
            const numbers = [1, 2, -3, 0.5];
            for (const Values of [Float32Array, Float64Array]) {
              for (const byteOffset of [0, 8, 16]) {
                const values = new Values(buffer, 16, 4);
                values.set(numbers);
                const tensor = Tensor.from(buffer, { dtype, byteOffset, length: 4 }).set(values);
                expectSameBits(tensor.data, Tensor.zeros(4, { dtype }).set(numbers).data, `at ${byteOffset}`);
              }
            }
          });
        });
      }

      it('should be seen as it is: a buffer that hides that it can be resized', () => {
        run(() => {
          for (const [buffer, key, what] of [
            [resizableBuffer(16), 'resizable', 'a resizable ArrayBuffer'],
            [growableBuffer(16), 'growable', 'a growable SharedArrayBuffer'],
          ] as const) {
            Object.defineProperty(buffer, key, { value: false });
            const message = `Expected memory of a fixed size for data but received ${what}`;
            expectError(() => Tensor.from(new Float32Array(buffer)), RangeError, message);
            expectError(() => Tensor.from(buffer, { dtype: 'float32' }), RangeError, message);
          }
        });
      });
    });
  }

  describe('unknown options', () => {
    itRefuses([
      [
        'type of Tensor.zeros()',
        () => Tensor.zeros(2, { type: 'float64' } as never),
        TypeError,
        'Expected a known option for options but received "type"; did you mean dtype?',
      ],
      [
        'one that is undefined',
        () => Tensor.zeros(2, { dType: undefined } as never),
        TypeError,
        'Expected a known option for options but received "dType"; did you mean dtype?',
      ],
      [
        'one that is inherited',
        () => Tensor.zeros(2, Object.create({ pined: true })),
        TypeError,
        'Expected a known option for options but received "pined"; did you mean pinned?',
      ],
      [
        'a dtype in place of the options',
        () => Tensor.zeros(2, 'float64' as never),
        TypeError,
        'Expected an object for options but received "float64"',
      ],
      [
        'device of Tensor.from()',
        () => Tensor.from(new Float32Array(2), { device: 'cuda' } as never),
        TypeError,
        'Expected a known option for options but received "device"; known are shape, dtype, byteOffset, length',
      ],
      [
        'offset of Tensor.from()',
        () => Tensor.from(new ArrayBuffer(8), { dtype: 'float32', offset: 4 } as never),
        TypeError,
        'Expected a known option for options but received "offset"; did you mean byteOffset?',
      ],
      [
        'type of Tensor.fromDevicePointer()',
        () => Tensor.fromDevicePointer(256n, { shape: 1, type: 'float32' } as never),
        TypeError,
        'Expected a known option for options but received "type"; did you mean dtype?',
      ],
      [
        'dtype of Tensor.fromJSON()',
        () => Tensor.fromJSON({ dtype: 'float32', shape: [], data: [1] }, { dtype: 'float64' } as never),
        TypeError,
        'Expected a known option for options but received "dtype"; known are device, pinned',
      ],
    ]);
  });

  itRefuses([
    [
      'a Tensor as the values of set()',
      () => Tensor.zeros(2).set(Tensor.zeros(2) as never),
      TypeError,
      'Expected a list of numbers, not what copyFrom() takes, for values but received a Tensor',
    ],
  ]);
});
