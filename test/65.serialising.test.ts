/** Tensors that are saved, sent, cloned, printed or read as lists: no number is lost without a word. */
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';
import { inspect } from 'node:util';
import v8 from 'node:v8';
import { BroadcastChannel, MessageChannel, Worker } from 'node:worker_threads';
import { expect } from 'chai';
import { AdamW, LossScaler, Tensor, type TensorJSON } from '../lib/index.js';
import { expectSameBits } from './support/bits.js';
import { detached, disposed } from './support/buffers.js';
import { copyPackage, temporaryFolder } from './support/child.js';
import { itUnless, noCuda } from './support/conditions.js';
import { environments, inEnvironment } from './support/environments.js';
import { expectError, itRefuses } from './support/errors.js';
import { DTYPES } from './support/memory.js';
import { randomFrom } from './support/random.js';

/** Numbers that JSON, or a conversion on the way to it, may lose. */
const HARD = [
  0,
  -0,
  NaN,
  Infinity,
  -Infinity,
  1,
  -1,
  0.1,
  1 / 3,
  2 ** -1074,
  2 ** -149,
  2 ** -24,
  65504,
  1e300,
  -7e-46,
];

describe('serialising', () => {
  describe('JSON', () => {
    for (const environment of environments()) {
      for (const dtype of DTYPES) {
        it(`should give back every number of ${dtype} (${environment.name})`, () => {
          inEnvironment(environment, () => {
            const tensor = Tensor.zeros([3, 5], { dtype }).set(HARD);
            const json: unknown = JSON.parse(JSON.stringify(tensor));
            const again = Tensor.fromJSON(json);
            expect(again.dtype).to.equal(dtype);
            expect(again.shape).to.deep.equal([3, 5]);
            expectSameBits(again.data, tensor.data, dtype);
          });
        });
      }
    }

    for (const dtype of ['float16', 'bfloat16'] as const) {
      it(`should give back all ${dtype}, every NaN as the one that set() stores`, () => {
        const bits = Uint16Array.from({ length: 0x10000 }, (_, i) => i);
        const tensor = Tensor.from(bits, { dtype });
        const expected = Tensor.zeros(bits.length, { dtype }).set(tensor.toArray());
        expectSameBits(Tensor.fromJSON(JSON.parse(JSON.stringify(tensor))).data, expected.data, dtype);
      });
    }

    it('should give back any bits of float32 and float64 that are no NaN', () => {
      const random = randomFrom(65);
      const words = Uint32Array.from({ length: 2000 }, () => 2 ** 32 * random());
      for (const dtype of ['float32', 'float64'] as const) {
        const tensor = Tensor.from(words.slice().buffer, { dtype });
        tensor.data.forEach((value, i, data) => {
          if (Number.isNaN(value)) data[i] = 0;
        });
        expectSameBits(Tensor.fromJSON(JSON.parse(JSON.stringify(tensor))).data, tensor.data, dtype);
      }
    });

    it('should say what is documented', () => {
      const tensor = Tensor.zeros([2, 3], { dtype: 'float16' }).set([1, -2.5, NaN, Infinity, -Infinity, -0]);
      expect(tensor.toJSON()).to.deep.equal({
        dtype: 'float16',
        shape: [2, 3],
        data: [1, -2.5, 'NaN', 'Infinity', '-Infinity', '-0'],
      });
    });

    it('should keep shapes of no dimension, and of no elements', () => {
      for (const shape of [[], [0], [3, 0, 2], [1, 1]]) {
        const again = Tensor.fromJSON(JSON.parse(JSON.stringify(Tensor.zeros(shape))));
        expect(again.shape).to.deep.equal(shape);
      }
    });

    it('should be a copy, which can be cloned', () => {
      const tensor = Tensor.zeros(2).set([1, 2]);
      const json = structuredClone(tensor.toJSON());
      tensor.set([3, 4]);
      expect([...Tensor.fromJSON(json)]).to.deep.equal([1, 2]);
      expect(Tensor.fromJSON(json).shape).not.to.equal(json.shape);
    });

    it('should keep the dtype in its type', () => {
      const json: TensorJSON<'float64'> = Tensor.zeros(1, { dtype: 'float64' }).set([0.1]).toJSON();
      const data: Float64Array = Tensor.fromJSON(json).data;
      expect(data[0]).to.equal(0.1);
    });

    it('should carry a state', () => {
      const weight = Tensor.zeros(2, { dtype: 'bfloat16' }).set([1, 2]);
      const grad = Tensor.zeros(2, { dtype: 'bfloat16' }).set([0.5, -1]);
      const optimizer = new AdamW({ multiPrecision: true });
      const state = optimizer.createState(0, weight);
      optimizer.fusedStep(0, weight, grad, state);
      const saved: Record<string, unknown> = JSON.parse(JSON.stringify(state));
      expect(Object.keys(saved)).to.deep.equal(['mean', 'variance', 'master']);
      for (const [name, json] of Object.entries(saved)) {
        const tensor = Reflect.get(state, name) as Tensor;
        expectSameBits(Tensor.fromJSON(json).data, tensor.data, name);
      }
    });

    it('should need no cast for the arrays of a state', () => {
      const state = new AdamW().createState(0, Tensor.zeros(2).set([1, 2]));
      const values: Float32Array | Float64Array = state.mean.toArray();
      const json: TensorJSON = state.variance.toJSON();
      expect([...values, ...json.data]).to.deep.equal([0, 0, 0, 0]);
      expect(state.master?.toArray()).to.equal(undefined);
    });

    itUnless(noCuda, 'should carry a tensor on a GPU, to any device', () => {
      const tensor = Tensor.zeros(15, { dtype: 'float64', device: 'cuda' }).set(HARD);
      const again = Tensor.fromJSON(JSON.parse(JSON.stringify(tensor)), { device: 'cuda' });
      expect(again.device).to.equal('cuda:0');
      expectSameBits(again.toArray(), Float64Array.from(HARD), 'float64');
    });

    const json = (changes: object): unknown => ({ dtype: 'float32', shape: [2], data: [1, 2], ...changes });
    const NUMBER = "Expected a number or 'NaN' or 'Infinity' or '-Infinity' or '-0' for json.data[1]";
    itRefuses([
      [
        'JSON as text',
        () => Tensor.fromJSON(JSON.stringify(json({}))),
        TypeError,
        'Expected an object, as JSON.parse() returns, for json but received a string',
      ],
      ['null', () => Tensor.fromJSON(null), TypeError, 'Expected an object for json but received null'],
      [
        'what JSON makes of NaN',
        () => Tensor.fromJSON(json({ data: [1, null] })),
        TypeError,
        `${NUMBER} but received null`,
      ],
      ['a word', () => Tensor.fromJSON(json({ data: [1, '2'] })), TypeError, `${NUMBER} but received "2"`],
      [
        'a hole',
        // biome-ignore lint/suspicious/noSparseArray: it is what is tested
        () => Tensor.fromJSON(json({ data: [1, ,] })),
        TypeError,
        `${NUMBER} but received undefined`,
      ],
      [
        'too few values',
        () => Tensor.fromJSON(json({ shape: [2, 2] })),
        RangeError,
        'Expected 4 values for json.data but received 2',
      ],
      [
        'no values',
        () => Tensor.fromJSON(json({ data: undefined })),
        TypeError,
        'Expected a list of numbers for json.data but received undefined',
      ],
      [
        'no dtype',
        () => Tensor.fromJSON(json({ dtype: 'int8' })),
        RangeError,
        "Expected 'float16' or 'bfloat16' or 'float32' or 'float64' for json.dtype but received \"int8\"",
      ],
      [
        'no shape',
        () => Tensor.fromJSON(json({ shape: null })),
        TypeError,
        'Expected a length or a list of sizes for json.shape but received null',
      ],
      [
        'more than it knows',
        () => Tensor.fromJSON(json({ device: 'cuda' })),
        TypeError,
        'Expected a known option for json but received "device"; known are dtype, shape, data',
      ],
      [
        'an unknown option',
        () => Tensor.fromJSON(json({}), { devise: 'cpu' } as never),
        TypeError,
        'Expected a known option for options but received "devise"; did you mean device?',
      ],
      [
        'JSON of a tensor that was disposed of',
        () => JSON.stringify(disposed(Tensor.zeros(2))),
        RangeError,
        'Expected a live Tensor for this but received one that was disposed of',
      ],
    ]);
  });

  describe('clones', () => {
    const MESSAGE =
      'Symbol(a Tensor, which cannot be cloned: send its toJSON(), or its data and shape,) could not be cloned.';

    const ways: Record<string, (value: unknown) => unknown> = {
      'structuredClone()': (value) => structuredClone(value),
      'v8.serialize()': (value) => v8.serialize(value),
      'MessagePort.postMessage()': (value) => {
        const { port1 } = new MessageChannel();
        try {
          port1.postMessage(value);
        } finally {
          port1.close();
        }
      },
      'BroadcastChannel.postMessage()': (value) => {
        const channel = new BroadcastChannel('serialising');
        try {
          channel.postMessage(value);
        } finally {
          channel.close();
        }
      },
      workerData: (value) => new Worker('', { eval: true, workerData: value }),
    };
    for (const [name, clone] of Object.entries(ways)) {
      it(`should be refused with what to use instead: ${name}`, () => {
        const tensor = Tensor.zeros(3).set([1, 2, 3]);
        const state = new AdamW().createState(0, tensor);
        for (const value of [
          tensor,
          [tensor],
          state,
          { layers: new Map([['dense', state]]) },
          { ...tensor },
          disposed(Tensor.zeros(1)),
        ]) {
          expect(() => clone(value)).to.throw(MESSAGE);
        }
      });
    }

    for (const [name, clone] of Object.entries(ways)) {
      it(`should be refused of what holds counts, too: ${name}`, () => {
        const optimizer = new AdamW();
        const weight = Tensor.zeros(1);
        const bound = optimizer.bind(0, weight, Tensor.zeros(1), optimizer.createState(0, weight));
        const expected = 'Symbol(an optimizer, which cannot be cloned: send its stateDict()) could not be cloned.';
        expect(() => clone({ optimizer })).to.throw(expected);
        expect(() => clone(bound)).to.throw(/a BoundStep, which cannot be cloned/);
        expect(() => clone([new LossScaler()])).to.throw(/a LossScaler, which cannot be cloned: send its stateDict/);
        expect(structuredClone(optimizer.stateDict())).to.deep.equal(optimizer.stateDict());
      });
    }

    it('should be refused before anything is transferred', () => {
      const memory = Float32Array.of(1, 2);
      const tensor = Tensor.from(memory);
      expect(() => structuredClone(tensor, { transfer: [memory.buffer] })).to.throw(MESSAGE);
      expect([...tensor]).to.deep.equal([1, 2]);
    });

    it('should be what the message says: data and shape', () => {
      const tensor = Tensor.zeros([1, 2]).set([1, 2]);
      const { data, shape } = structuredClone({ data: tensor.data, shape: tensor.shape });
      const again = Tensor.from(data, { shape });
      expect([...again]).to.deep.equal([1, 2]);
      expect(again.shape).to.deep.equal([1, 2]);
    });

    it('should leave spreads, keys and comparisons as they are', () => {
      const tensor = Tensor.zeros([2, 3], { dtype: 'float64' });
      expect({ ...tensor }).to.include({ dtype: 'float64', shape: tensor.shape, length: 6, device: 'cpu' });
      expect(Object.keys(tensor)).to.include.members(['dtype', 'shape', 'length', 'device']);
      expect(Object.entries(tensor)).to.have.length(Object.keys(tensor).length);
      expect(tensor).to.deep.equal(tensor);
      expect(tensor).to.deep.equal(Tensor.zeros([2, 3], { dtype: 'float64' }));
      expect(tensor).not.to.deep.equal(Tensor.zeros([3, 2], { dtype: 'float64' }));
    });
  });

  describe('copies that are no Tensors', () => {
    const received = 'a Tensor without memory, as a copy of its properties is';
    const makes: Record<string, (tensor: Tensor) => Tensor> = {
      'the prototype and the properties': (tensor) =>
        Object.assign(Object.create(Object.getPrototypeOf(tensor)), { ...tensor }),
      'the prototype alone': () => Object.create(Tensor.prototype),
    };
    for (const [what, make] of Object.entries(makes)) {
      it(`should be told from Tensors: ${what}`, () => {
        const weight = Tensor.zeros(2);
        const copy = make(weight);
        expect(copy instanceof Tensor).to.equal(false);
        const optimizer = new AdamW();
        expectError(
          () => optimizer.fusedStep(0, weight, copy, optimizer.createState(0, weight)),
          TypeError,
          `Expected a Tensor, Float32Array, Float64Array or Float16Array for grads[0] but received ${received}`,
        );
        expectError(() => weight.copyFrom(copy), TypeError, `Expected a Tensor for source but received ${received}`);
      });
    }

    it('should be told from Tensors: a Proxy', () => {
      const weight = Tensor.zeros(2);
      expectError(
        () => weight.copyFrom(new Proxy(weight, {})),
        TypeError,
        'Expected a Tensor for source but received a Proxy',
      );
    });
  });

  describe('a Tensor of another copy of the package', () => {
    const folder = temporaryFolder();

    it('should be told from ours', async () => {
      const url = pathToFileURL(join(copyPackage(folder.path), 'dist/lib/index.js')).href;
      const { Tensor: Other }: { Tensor: typeof Tensor } = await import(url);
      const theirs = Other.zeros(2);
      const ours = Tensor.zeros(2);
      expect(theirs instanceof Tensor).to.equal(false);
      const received = `a Tensor of another copy of fused-adamw, ${new URL('errors.js', url)} (npm ls fused-adamw lists them, npm dedupe keeps one)`;
      const optimizer = new AdamW();
      const state = optimizer.createState(0, ours);
      const tensor = 'Expected a Tensor, Float32Array, Float64Array or Float16Array';
      expectError(() => ours.copyFrom(theirs), TypeError, `Expected a Tensor for source but received ${received}`);
      for (const [name, call] of [
        ['weights[0]', () => optimizer.fusedStep(0, theirs, ours, state)],
        ['grads[0]', () => optimizer.fusedStep(0, ours, theirs, state)],
        ['states[0].mean', () => optimizer.fusedStep(0, ours, ours, { ...state, mean: theirs })],
        ['weight', () => optimizer.createState(0, theirs)],
      ] as const) {
        expectError(call, TypeError, `${tensor} for ${name} but received ${received}`);
      }
      // Where no Tensor is wanted, of whatever copy, the message says no more than that.
      expect(() => Tensor.from(ours as never)).to.throw(TypeError, /received a Tensor$/);
    });
  });

  describe('lists', () => {
    for (const dtype of DTYPES) {
      it(`should be made of the values of ${dtype}`, () => {
        const tensor = Tensor.zeros([1, 3], { dtype }).set([1, -2, 0.5]);
        expect([...tensor]).to.deep.equal([1, -2, 0.5]);
        expect(Array.from(tensor)).to.deep.equal([1, -2, 0.5]);
        expect(Array.from(tensor, (value) => 2 * value)).to.deep.equal([2, -4, 1]);
        expect(new Float32Array(tensor)).to.deep.equal(Float32Array.of(1, -2, 0.5));
        expect(Float64Array.from(tensor)).to.deep.equal(Float64Array.of(1, -2, 0.5));
        expect(new Set(tensor).has(-2)).to.equal(true);
        expect([...Tensor.zeros(0, { dtype })]).to.deep.equal([]);
      });
    }

    // Without it they would read undefined, and make NaN or 0 of it.
    for (const [what, call] of [
      ['array.set()', (tensor: Tensor) => new Float32Array(2).set(tensor as never)],
      ['Buffer.from()', (tensor: Tensor) => Buffer.from(tensor as never)],
      ['an index', (tensor: Tensor) => tensor[0]],
      ['Array.prototype.slice', (tensor: Tensor) => Array.prototype.slice.call(tensor)],
      [
        'an assignment to an element',
        (tensor: Tensor) => {
          tensor[0] = 1 as never;
        },
      ],
    ] as const) {
      it(`should not be made by index: ${what}`, () => {
        expectError(
          () => call(Tensor.zeros(2)),
          TypeError,
          'Expected tensor.data or tensor.toArray() for an element by its index but received the Tensor itself',
        );
      });
    }

    it('should be of the values as they were', () => {
      const tensor = Tensor.zeros(2).set([1, 2]);
      const values = [];
      for (const value of tensor) {
        values.push(value);
        tensor.set([3, 4]);
      }
      expect(values).to.deep.equal([1, 2]);
    });

    itUnless(noCuda, 'should be made of the values on a GPU', () => {
      expect([...Tensor.zeros(2, { device: 'cuda' }).set([1, 2])]).to.deep.equal([1, 2]);
    });
  });

  describe('inspect', () => {
    it('should show dtype, shape and values', () => {
      expect(inspect(Tensor.zeros([2, 2], { dtype: 'bfloat16' }).set([1, -2, NaN, -0]))).to.equal(
        'Tensor bfloat16 [2, 2] [ 1, -2, NaN, -0 ]',
      );
      expect(inspect(Tensor.zeros([], { dtype: 'float64' }).set([0.1]))).to.equal('Tensor float64 [] [ 0.1 ]');
      expect(inspect(Tensor.zeros(0))).to.equal('Tensor float32 [0] []');
    });

    it('should show the first values of many', () => {
      const tensor = Tensor.from(Float32Array.from({ length: 1000 }, (_, i) => i));
      const text = inspect(tensor);
      expect(text)
        .to.match(/^Tensor float32 \[1000\] \[\s+0, /)
        .and.to.match(/ 99\s+\] and 900 more$/);
      expect(inspect(tensor, { maxArrayLength: 2 })).to.equal('Tensor float32 [1000] [ 0, 1 ] and 998 more');
      expect(inspect(tensor, { maxArrayLength: 0 })).to.equal('Tensor float32 [1000] [] and 1000 more');
      expect(inspect(tensor, { maxArrayLength: null })).to.match(/ 999\s+\]$/);
      expect(inspect(tensor, { maxArrayLength: Infinity })).to.match(/ 999\s+\]$/);
    });

    it('should show where there are no values', () => {
      expect(inspect(disposed(Tensor.zeros([2, 3])))).to.equal('Tensor float32 [2, 3] (disposed)');
      const memory = new Float64Array(2);
      const tensor = Tensor.from(memory);
      detached(memory);
      expect(inspect(tensor)).to.equal('Tensor float64 [2] (its memory is detached)');
    });

    it('should show what is no Tensor, too', () => {
      expect(inspect(Tensor.prototype)).to.be.a('string');
      expect(inspect(Object.create(Tensor.prototype))).to.equal('Tensor without memory');
    });

    it('should show a state, and deep inside of others', () => {
      const state = { mean: Tensor.zeros(1), variance: Tensor.zeros(1) };
      expect(inspect(state)).to.equal('{ mean: Tensor float32 [1] [ 0 ], variance: Tensor float32 [1] [ 0 ] }');
      expect(inspect({ a: { b: { c: state.mean } } })).to.include('Tensor float32 [1]');
      expect(inspect(state.mean, { colors: true })).to.include('\u001b[33m0\u001b[39m');
    });

    it('should show the values in messages of chai', () => {
      expect(() => expect(Tensor.zeros(1)).to.equal(0)).to.throw(/Tensor float32 \[1\] \[ 0 \]/);
    });

    itUnless(noCuda, 'should leave values on a GPU there', () => {
      expect(inspect(Tensor.zeros(2, { device: 'cuda' }))).to.equal('Tensor float32 [2] on cuda:0');
    });
  });
});
