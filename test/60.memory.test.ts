/** The memory that a step may use, and how long it is kept alive. */
import { createRequire } from 'node:module';
import { join } from 'node:path';
import { setImmediate } from 'node:timers/promises';
import { Worker } from 'node:worker_threads';
import { expect } from 'chai';
import { AdamW, type BoundStep, Tensor } from '../lib/index.js';
import { describeOnEachBackend } from './support/backends.js';
import { expectSameBits, type Values } from './support/bits.js';
import { bytesOf } from './support/buffers.js';
import { type ChildOptions, reportOf, repository, runChild, temporaryFolder } from './support/child.js';
import { collectGarbage, compileLibrary, either, itUnless, noCompiler, noGc, noNative } from './support/conditions.js';
import { environments, inEnvironment, TYPESCRIPT } from './support/environments.js';
import { expectError } from './support/errors.js';
import { DTYPE_BYTES, type Place, tensorOf, valuesIn } from './support/memory.js';
import {
  arraysOf,
  cloneArguments,
  type DTypeConfig,
  dtypesOf,
  expectSameModel,
  makeArguments,
  type StepArguments,
} from './support/model.js';
import { randomFrom } from './support/random.js';
import { DONE } from './support/steps.js';
import { withoutWarningOfHalf } from './support/warnings.js';

const GONE = 'Expected memory that is still there for weights[0] but received a detached ArrayBuffer';

const CONFIGS: readonly DTypeConfig[] = [
  'float32',
  'float32, float16 gradients',
  'float32+bfloat16 states',
  'float64',
  'float16',
  'float16+master',
  'bfloat16',
  'bfloat16+master',
  'bfloat16+master, float32 gradients',
];

/** Memory that `allocate` gives. */
function over(allocate: (bytes: number) => ArrayBuffer | SharedArrayBuffer): Place {
  return (dtype, length) => Tensor.from(allocate(length * DTYPE_BYTES[dtype]) as ArrayBuffer, { dtype });
}

/** The arguments of a step over one tensor, with the same values wherever its arrays lie. */
function makeOne(config: DTypeConfig, length: number, place?: Place): StepArguments {
  return makeArguments([[config, length]], randomFrom(60), place);
}

const OPTIONS = { wd: 0.1, clipGradient: 0.25 };

function bind({ indices, weights, grads, states }: StepArguments, optimizer = new AdamW(OPTIONS)): BoundStep {
  return optimizer.bind(indices, weights, grads, states);
}

function step(args: StepArguments): StepArguments {
  bind(args).step();
  return args;
}

/** What a step over ordinary memory does in TypeScript. */
function expectedOne(config: DTypeConfig, length: number): StepArguments {
  return inEnvironment(TYPESCRIPT, () => step(makeOne(config, length)));
}

/** Collects garbage and lets finalizers run, which wait for the event loop. */
async function collect(): Promise<void> {
  for (let i = 0; i < 4; i++) {
    collectGarbage?.();
    await setImmediate();
  }
}

/** What test/native/foreign-addon/foreign.c exports. */
interface ForeignAddon {
  external(bytes: number): ArrayBuffer;
  overlapping(bytes: number, shift: number): [ArrayBuffer, ArrayBuffer];
  guarded(bytes: number, atEnd: boolean): ArrayBuffer;
  copyOf(buffer: ArrayBuffer): ArrayBuffer;
  detach(buffer: ArrayBuffer): void;
  finalized(): number;
}

describe('memory of another addon', () => {
  const folder = temporaryFolder();
  let path: string;
  let foreign: ForeignAddon;

  before(() => {
    if (noCompiler !== null) return;
    path = join(folder.path, 'foreign.node');
    compileLibrary(join(repository, 'test/native/foreign-addon/foreign.c'), path);
    foreign = createRequire(import.meta.url)(path);
  });

  describeOnEachBackend('through external ArrayBuffers', (run) => {
    for (const config of CONFIGS) {
      itUnless(noCompiler, `should be updated in place (${config})`, () => {
        run(() => {
          const length = 1001;
          const args = makeOne(config, length, over(foreign.external));
          const expected = expectedOne(config, length);
          expectSameModel(step(args), expected, config);
          const others = arraysOf(expected);
          arraysOf(args).forEach(([name, array], k) => {
            const buffer = foreign.copyOf(valuesIn(array).buffer as ArrayBuffer);
            const seen = Tensor.from(buffer, { dtype: tensorOf(array).dtype });
            expectSameBits(seen.data, valuesIn(others[k][1]), `${name} of ${config} as its owner sees it`);
          });
        });
      });
    }

    itUnless(either(noCompiler, noGc), 'should be kept alive while it is bound, and no longer', async () => {
      const length = 10_000;
      await collect();
      const before = foreign.finalized();
      const seen: { copy?: () => ArrayBuffer } = {};
      let bound: BoundStep | null = run(() => {
        const args = makeOne('float32', length, over(foreign.external));
        const weight = new WeakRef(valuesIn(args.weights[0]).buffer as ArrayBuffer);
        seen.copy = () => foreign.copyOf(weight.deref() as ArrayBuffer);
        return bind(args);
      });
      await collect();
      expect(foreign.finalized(), 'blocks freed while bound').to.equal(before);
      run(() => bound?.step());
      const copy = new Float32Array(seen.copy?.() as ArrayBuffer);
      expectSameBits(copy, valuesIn(expectedOne('float32', length).weights[0]), 'weight after a collection');
      bound.dispose();
      bound = null;
      await collect();
      expect(foreign.finalized(), 'blocks freed after dispose').to.equal(before + 4);
    });

    itUnless(noCompiler, 'should make a step throw after its owner detached it', () => {
      run(() => {
        const weight = foreign.external(400);
        const bound = bind({ ...makeOne('float32', 100), weights: [new Float32Array(weight)] });
        expect(bound.step()).to.deep.equal(DONE);
        foreign.detach(weight);
        expectError(() => bound.step(), RangeError, GONE);
      });
    });
  });

  itUnless(either(noNative, noCompiler), 'should be refused if two ArrayBuffers share it', () => {
    for (const [shift, shared] of [
      [0, true],
      [36, true],
      [40, false],
    ] as const) {
      const [first, second] = foreign.overlapping(40, shift).map((buffer) => new Float32Array(buffer));
      const optimizer = new AdamW();
      const state = optimizer.createState(0, first);
      const call = () => optimizer.fusedStep(0, first, second, state);
      if (shared) {
        const message = 'Expected memory of its own for weights[0] but received memory shared with grads[0]';
        expectError(call, RangeError, message, `shifted by ${shift} bytes`);
      } else {
        expect(call()).to.deep.equal(DONE);
      }
    }
  });

  const isas = environments().flatMap(({ isa }) => (isa === undefined ? [] : [isa]));
  for (const isa of isas) {
    itUnless(noCompiler, `should not be accessed outside the arrays, to the byte (${isa})`, () => {
      const source = `
        import { createRequire } from 'node:module';
        const { AdamW, Tensor, backendInfo } = await import(libraryUrl);
        const foreign = createRequire(libraryUrl)(${JSON.stringify(path)});
        const configs = ${JSON.stringify(CONFIGS.map(dtypesOf))};
        const sizes = ${JSON.stringify(DTYPE_BYTES)};
        const lengths = [...Array.from({ length: 70 }, (_, i) => i + 1), 255, 256, 257, 1023, 1025, 40001];
        process.removeAllListeners('warning');
        for (const { dtype, gradDType, stateDType, hasMaster } of configs)
          for (const length of lengths)
            for (const atEnd of [true, false]) {
              const make = (of) => Tensor.from(foreign.guarded(length * sizes[of], atEnd), { dtype: of });
              const master = hasMaster ? make('float32') : undefined;
              const state = { mean: make(stateDType), variance: make(stateDType), master };
              new AdamW().fusedStep(0, make(dtype), make(gradDType), state);
            }
        report(backendInfo().native.isa);`;
      expect(reportOf(source, { env: { FUSED_ADAMW_ISA: isa } })).to.equal(isa);
    });
  }
  if (isas.length === 0) itUnless(noNative, 'should not be accessed outside the arrays, to the byte', () => {});
});

describeOnEachBackend('shared memory', (run) => {
  for (const config of CONFIGS) {
    it(`should be updated in place (${config})`, () => {
      run(() => {
        const length = 1001;
        const args = makeOne(
          config,
          length,
          over((bytes) => new SharedArrayBuffer(bytes)),
        );
        const { data, dtype } = tensorOf(args.weights[0]);
        const alias = Tensor.from(structuredClone(data.buffer as SharedArrayBuffer), { dtype });
        expectSameModel(step(args), expectedOne(config, length), config);
        expectSameBits(alias.data, data, 'the weight through another SharedArrayBuffer');
      });
    });
  }

  it('should accept a gradient that a worker wrote', async () => {
    const length = 1001;
    const shared = new SharedArrayBuffer(4 * length);
    const expected = expectedOne('float32', length);
    const worker = new Worker(
      `const { workerData: { to, from } } = require('node:worker_threads'); new Float32Array(to).set(from);`,
      { eval: true, workerData: { to: shared, from: valuesIn(expected.grads[0]) } },
    );
    await new Promise((resolve) => worker.on('exit', resolve));
    run(() => {
      const args = makeOne('float32', length);
      expectSameModel(step({ ...args, grads: [new Float32Array(shared)] }), expected, 'a worker');
    });
  });
});

describe('shared memory behind two SharedArrayBuffers', () => {
  // TypeScript cannot see addresses.
  itUnless(noNative, 'should be refused if one of them is written', () => {
    const shared = new SharedArrayBuffer(40);
    const weight = new Float32Array(shared);
    const alias = new Float32Array(structuredClone(shared));
    const optimizer = new AdamW();
    const state = optimizer.createState(0, weight);
    expectError(
      () => optimizer.fusedStep(0, weight, alias, state),
      RangeError,
      'Expected memory of its own for weights[0] but received memory shared with grads[0]',
    );
  });
});

describeOnEachBackend('small arrays whose memory is still in the JavaScript heap', (run) => {
  itUnless(noGc, 'should be updated in place, before and after collections', async () => {
    const count = 500;
    const lengthOf = (i: number): number => 1 + (i % 16);
    const make = (i: number, start: number): Float32Array =>
      Float32Array.from({ length: lengthOf(i) }, (_, k) => 1 / (start + k));
    const places = Array.from({ length: count }, (_, i) => i);
    const sets = [0, 1].map(() => ({
      weights: places.map((i) => make(i, 2)),
      grads: places.map((i) => make(i, 3)),
      states: places.map((i) => ({ mean: make(i, 5), variance: make(i, 7) })),
    }));
    const [{ weights, grads, states }, twin] = sets;
    const bound = run(() => new AdamW().bind(places, weights, grads, states));
    for (let round = 0; round < 3; round++) {
      await collect();
      run(() => bound.step());
    }
    inEnvironment(TYPESCRIPT, () => {
      const expected = new AdamW().bind(places, twin.weights, twin.grads, twin.states);
      for (let round = 0; round < 3; round++) expected.step();
    });
    for (const i of places) {
      expectSameBits(weights[i], twin.weights[i], `weights[${i}]`);
      expectSameBits(states[i].mean, twin.states[i].mean, `states[${i}].mean`);
      expectSameBits(states[i].variance, twin.states[i].variance, `states[${i}].variance`);
    }
  });
});

describe('views at any offset', () => {
  const GUARD = 0xa5;
  const LENGTHS = [1, 2, 3, 7, 8, 15, 16, 17, 31, 33, 255, 256, 257, 1000, 40_001];

  const PLACES: readonly (readonly [shift: number, gap: number])[] = [
    [0, 0],
    [1, 0],
    [3, 1],
  ];

  /**
   * A step over arrays in one buffer: a guard of `shift` elements, the arrays
   * with at least `gap` elements between them, and a guard.
   */
  function stepBetweenGuards(
    start: StepArguments,
    expected: StepArguments,
    [shift, gap]: (typeof PLACES)[number],
    what: string,
  ): void {
    const { length } = start.weights[0];
    const guards: [from: number, to: number][] = [];
    const buffer = new ArrayBuffer(64 + 8 * (length + 8) * 5);
    const bytes = new Uint8Array(buffer).fill(GUARD);
    let end = 0;
    const args = cloneArguments(start, (dtype) => {
      const elements = Math.ceil(end / DTYPE_BYTES[dtype]) + (end === 0 ? shift : gap);
      const byteOffset = elements * DTYPE_BYTES[dtype];
      guards.push([end, byteOffset]);
      end = byteOffset + length * DTYPE_BYTES[dtype];
      return Tensor.from(buffer, { dtype, byteOffset, length });
    });
    guards.push([end, bytes.length]);
    step(args);
    expectSameModel(args, expected, what);
    for (const [from, to] of guards) {
      expect(
        bytes.subarray(from, to).every((byte) => byte === GUARD),
        `guard of ${what}`,
      ).to.equal(true);
    }
  }

  withoutWarningOfHalf();
  for (const config of CONFIGS) {
    it(`should be the only memory that a step changes (${config})`, () => {
      for (const length of LENGTHS) {
        const start = makeOne(config, length);
        const expected = expectedOne(config, length);
        for (const environment of environments({ threads: true })) {
          for (const place of length > 1000 ? PLACES.slice(-1) : PLACES) {
            const what = `${length} elements at offset ${place[0]} on ${environment.name}`;
            inEnvironment(environment, () => stepBetweenGuards(start, expected, place, what));
          }
        }
      }
    });
  }
});

describeOnEachBackend('garbage collection', (run) => {
  const LENGTH = 5000;

  /** A tensor whose arrays nobody but the step holds. */
  function lone(use: (args: StepArguments) => unknown): { refs: WeakRef<object>[]; weight: WeakRef<Values> } {
    const args = makeOne(
      'float32',
      LENGTH,
      over((bytes) => new ArrayBuffer(bytes)),
    );
    use(args);
    const datas = [...arraysOf(args).map(([, array]) => array), ...args.grads].map(valuesIn);
    return {
      refs: datas.map(({ buffer }) => new WeakRef(buffer)),
      weight: new WeakRef(valuesIn(args.weights[0])),
    };
  }

  itUnless(noGc, 'should not collect bound arrays in many rounds, and collect them after dispose', async () => {
    const expected = valuesIn(expectedOne('float32', LENGTH).weights[0]);
    const bounds: BoundStep[] = [];
    const all: ReturnType<typeof lone>[] = [];
    for (let round = 0; round < 40; round++) {
      run(() => all.push(lone((args) => bounds.push(bind(args)))));
      if (round % 10 === 9) await collect();
    }
    await collect();
    // Memory that was freed by mistake would be reused here.
    const garbage = Array.from({ length: 200 }, () => new Float32Array(LENGTH).fill(NaN));
    expect(garbage).to.have.length(200);
    run(() => {
      for (const bound of bounds) bound.step();
    });
    const check = ({ weight }: (typeof all)[number], i: number): void => {
      const data = weight.deref();
      if (!data) expect.fail(`the weight of round ${i} was collected while bound`);
      expectSameBits(data, expected, `weight of round ${i}`);
    };
    all.forEach(check);
    for (const bound of bounds.splice(0)) bound.dispose();
    await collect();
    expect(all.flatMap(({ refs }) => refs).filter((ref) => ref.deref())).to.have.length(0);
  });

  itUnless(noGc, 'should not collect the arrays of the last fusedStep until dispose or another step', async () => {
    const optimizer = new AdamW();
    const stepLone = (): ReturnType<typeof lone> =>
      run(() => lone(({ indices, weights, grads, states }) => optimizer.fusedStep(indices, weights, grads, states)));
    const alive = ({ refs }: ReturnType<typeof lone>): number => refs.filter((ref) => ref.deref()).length;
    const first = stepLone();
    await collect();
    expect(alive(first), 'arrays of the last step').to.equal(4);
    const second = stepLone();
    await collect();
    expect([alive(first), alive(second)], 'after another step').to.deep.equal([0, 4]);
    optimizer.dispose();
    await collect();
    expect(alive(second), 'after dispose').to.equal(0);
  });

  itUnless(noGc, 'should free the memory of past steps', async () => {
    const round = (): void =>
      run(() => {
        for (let i = 0; i < 8; i++) {
          const optimizer = new AdamW();
          const weight = Tensor.zeros(100_000);
          optimizer.fusedStep(0, weight, new Float32Array(100_000), optimizer.createState(0, weight));
        }
      });
    const held = async (): Promise<number> => {
      await collect();
      return process.memoryUsage().arrayBuffers;
    };
    round();
    const before = await held();
    for (let i = 0; i < 5; i++) round();
    // The stack may still point to the arrays of one step, of 1.6 MB; all of them are 64 MB.
    expect((await held()) - before, 'bytes more in ArrayBuffers').to.be.below(4e6);
  });
});

describe('a loop that never yields to the event loop', () => {
  const N = 1000;
  const prelude = `
    const { AdamW, multiAdamwUpdate } = await import(libraryUrl);
    const arrays = () => Array.from({ length: ${N} }, () => new Float32Array(4));
    const indices = arrays().map((_, i) => i);
    const [weights, grads, means, variances] = [arrays(), arrays(), arrays(), arrays()];
    const states = means.map((mean, i) => ({ mean, variance: variances[i] }));
    const optimizer = new AdamW();
    const ones = indices.map(() => 1);
    const others = weights.map((weight) => weight.slice());
    let i = 0;`;
  const loops: Record<string, string> = {
    'bind, step and dispose': `
      const bound = optimizer.bind(indices, weights, grads, states);
      bound.step();
      bound.dispose();`,
    'fusedStep of other weights each time': `
      optimizer.fusedStep(indices, i++ % 2 ? weights : others, grads, states);`,
    multiAdamwUpdate: `
      multiAdamwUpdate(weights, grads, means, variances, { etas: ones, lrs: ones, wds: ones });`,
  };
  for (const [title, body] of Object.entries(loops)) {
    itUnless(either(noNative, noGc), `should not leak memory (${title})`, () => {
      const source = `${prelude}
        const loop = (rounds) => {
          for (let round = 0; round < rounds; round++) { ${body} }
          gc();
          return process.memoryUsage().rss;
        };
        let before = loop(50);
        const grown = Array.from({ length: 3 }, () => {
          const after = loop(250);
          const more = after - before;
          before = after;
          return more;
        });
        report(Math.min(...grown) / 2 ** 20); // a leak is in each, growth of the engine's own heap is not`;
      const grown = reportOf(source, { flags: ['--expose-gc'] });
      expect(grown, `MiB more after 250 steps of ${N} tensors`).to.be.below(15);
    });
  }
});

interface WebAssemblyMemory {
  readonly buffer: ArrayBuffer;
  grow(pages: number): number;
}

const { Memory } = (globalThis as unknown as { WebAssembly: { Memory: new (options: object) => WebAssemblyMemory } })
  .WebAssembly;

describeOnEachBackend('WebAssembly memory', (run) => {
  it('should be updated in place, and make a step throw once it has grown', () => {
    run(() => {
      const memory = new Memory({ initial: 1, maximum: 100 });
      const length = 1001;
      let byteOffset = 0;
      const place: Place = (dtype) => {
        const tensor = Tensor.from(memory.buffer, { dtype, byteOffset, length });
        byteOffset += length * DTYPE_BYTES[dtype];
        return tensor;
      };
      const args = makeOne('float32', length, place);
      const optimizer = new AdamW(OPTIONS);
      const bound = bind(args, optimizer);
      bound.step();
      expectSameModel(args, expectedOne('float32', length), 'WebAssembly');

      memory.grow(1);
      const held = bytesOf(memory.buffer);
      expectError(() => bound.step(), RangeError, GONE);
      expectError(() => bound.step(), RangeError, GONE);
      expect(bytesOf(memory.buffer)).to.equal(held);
      expect(optimizer.numUpdate).to.equal(1);

      byteOffset = 0;
      const [weight, mean, variance, grad] = [0, 1, 2, 3].map(() => place('float32', length));
      const again = bind({ indices: [0], weights: [weight], grads: [grad], states: [{ mean, variance }] }, optimizer);
      expect(again.step()).to.deep.equal(DONE);
      expect(bytesOf(memory.buffer)).not.to.equal(held);
    });
  });

  it('should make the step throw if it grows while the step reads paramDict', () => {
    run(() => {
      const memory = new Memory({ initial: 1, maximum: 1000 });
      const weight = new Float32Array(memory.buffer);
      const paramDict = {
        0: {
          lrMult: 1,
          get wdMult() {
            if (armed) memory.grow(1);
            return 1;
          },
        },
      };
      let armed = false;
      const optimizer = new AdamW({ paramDict });
      const bound = optimizer.bind(0, weight, new Float32Array(weight.length), optimizer.createState(0, weight));
      bound.step();
      armed = true;
      expectError(() => bound.step(), RangeError, GONE);
    });
  });

  it('should be usable if it is shared', () => {
    run(() => {
      const memory = new Memory({ initial: 1, maximum: 2, shared: true });
      let byteOffset = 0;
      const place: Place = (dtype, length) => {
        const tensor = Tensor.from(memory.buffer, { dtype, byteOffset, length });
        byteOffset += length * DTYPE_BYTES[dtype];
        return tensor;
      };
      const args = makeOne('float32', 1001, place);
      const bound = bind(args);
      memory.grow(1); // shared memory stays where it is
      bound.step();
      expectSameModel(args, expectedOne('float32', 1001), 'shared WebAssembly memory');
    });
  });
});

describe('memory that is transferred', () => {
  // Node 20 has transfer() behind a flag.
  const flags = 'transfer' in ArrayBuffer.prototype ? [] : ['--harmony-rab-gsab-transfer'];
  const noTransfer =
    runChild(`report('transfer' in ArrayBuffer.prototype)`, { flags }).stdout.trim() === 'report: true'
      ? null
      : 'this engine has no ArrayBuffer.prototype.transfer';

  const prelude = `
    import { MessageChannel } from 'node:worker_threads';
    const { AdamW, Tensor } = await import(libraryUrl);
    const move = {
      transfer: (buffer) => buffer.transfer(),
      transferToFixedLength: (buffer) => buffer.transferToFixedLength(),
      resize: (buffer) => buffer.resize(8),
      'transfer of the prototype': (buffer) => ArrayBuffer.prototype.transfer.call(buffer),
      'transferToFixedLength of the prototype': (buffer) => ArrayBuffer.prototype.transferToFixedLength.call(buffer),
      structuredClone: (buffer) => structuredClone(buffer, { transfer: [buffer] }),
      postMessage: (buffer) => {
        const { port1 } = new MessageChannel();
        try { port1.postMessage(buffer, [buffer]); } finally { port1.close(); }
      },
    };
    const attempt = (call) => {
      try { return call(); } catch (error) { return error.name + ': ' + error.message; }
    };`;
  const testMove = (how: string, ours: boolean): { moved: unknown; there: boolean; step: unknown; weight: number[] } =>
    reportOf(
      `${prelude}
      const weight = ${ours} ? Tensor.zeros(1000) : Tensor.from(new Float32Array(1000));
      weight.data.fill(1);
      const data = weight.data;
      const optimizer = new AdamW({ learningRate: 0.5, correctBias: false, epsilon: 0 });
      const state = optimizer.createState(0, weight);
      state.variance.data.fill(1);
      const bound = optimizer.bind(0, weight, new Float32Array(1000), state);
      state.mean.data.fill(1);
      const moved = attempt(() => move[${JSON.stringify(how)}](data.buffer));
      const there = data.length === 1000;
      const step = attempt(() => bound.step());
      const seen = there ? data : moved instanceof ArrayBuffer ? new Float32Array(moved, data.byteOffset || 0) : [];
      report({ moved: moved instanceof ArrayBuffer ? 'an ArrayBuffer' : moved, there, step, weight: [seen[0], seen[999]] });`,
      { flags } satisfies ChildOptions,
    ) as ReturnType<typeof testMove>;

  for (const how of ['transfer', 'transferToFixedLength', 'resize']) {
    itUnless(how === 'resize' ? null : noTransfer, `should not be that of Tensor.zeros: ${how}`, () => {
      const { moved, there, step: result } = testMove(how, true);
      expect(moved).to.equal(`TypeError: Expected memory that may move for ${how} but received that of a Tensor`);
      expect(there).to.equal(true);
      expect(result).to.deep.equal(DONE);
    });
  }

  for (const how of ['structuredClone', 'postMessage']) {
    it(`should not be that of Tensor.zeros: ${how}`, () => {
      const { there, step: result } = testMove(how, true);
      expect(there).to.equal(true);
      expect(result).to.deep.equal(DONE);
    });
  }

  for (const how of ['transfer of the prototype', 'transferToFixedLength of the prototype']) {
    itUnless(noTransfer, `should stay, or make a step throw, if it is that of Tensor.zeros: ${how}`, () => {
      const { there, step: result, weight } = testMove(how, true);
      if (there) {
        expect(result).to.deep.equal(DONE);
      } else {
        expect(result).to.equal(`RangeError: ${GONE}`);
        expect(weight, 'the memory that moved').not.to.include(0.55);
      }
    });
  }

  for (const how of ['transfer', 'transferToFixedLength', 'structuredClone']) {
    itUnless(
      how === 'structuredClone' ? null : noTransfer,
      `should make a step throw if it is the caller's: ${how}`,
      () => {
        const { moved, there, step: result, weight } = testMove(how, false);
        expect({ moved, there, result, weight }).to.deep.equal({
          moved: 'an ArrayBuffer',
          there: false,
          result: `RangeError: ${GONE}`,
          weight: [1, 1],
        });
      },
    );
  }
});
