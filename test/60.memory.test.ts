/** Whose memory a step may use, and how long it must stay. */
import { createRequire } from 'node:module';
import { join } from 'node:path';
import { setImmediate } from 'node:timers/promises';
import { Worker } from 'node:worker_threads';
import { expect } from 'chai';
import { AdamW, type BoundStep, type DType, Tensor } from '../lib/index.js';
import { describeOnEachBackend } from './support/backends.js';
import { expectSameBits } from './support/bits.js';
import { bytesOf } from './support/buffers.js';
import { type ChildOptions, reportOf, repository, runChild, temporaryFolder } from './support/child.js';
import { collectGarbage, compileLibrary, either, itUnless, noCompiler, noGc, noNative } from './support/conditions.js';
import { environments, inEnvironment, TYPESCRIPT } from './support/environments.js';
import { expectError } from './support/errors.js';
import { DTYPE_BYTES } from './support/memory.js';
import { DONE } from './support/steps.js';
import { withoutWarningOfHalf } from './support/warnings.js';

const GONE = 'Expected memory that is still there for weights[0] but received a detached ArrayBuffer';

/** The dtypes of a tensor's arrays. */
interface Kind {
  readonly weight: DType;
  readonly state: DType;
  readonly master: boolean;
}

const KINDS: readonly Kind[] = [
  { weight: 'float32', state: 'float32', master: false },
  { weight: 'float64', state: 'float64', master: false },
  { weight: 'float16', state: 'float16', master: false },
  { weight: 'float16', state: 'float32', master: true },
  { weight: 'bfloat16', state: 'bfloat16', master: false },
  { weight: 'bfloat16', state: 'float32', master: true },
];

const ROLES = ['mean', 'variance', 'master', 'weight', 'grad'] as const;
type Role = (typeof ROLES)[number];
type Arrays = Partial<Record<Role, Tensor>>;

function dtypeOfRole({ weight, state, master }: Kind, role: Role): DType | null {
  if (role === 'master') return master ? 'float32' : null;
  return role === 'weight' || role === 'grad' ? weight : state;
}

type Place = (dtype: DType, bytes: number) => Tensor;

/** A tensor's arrays in memory that `place` gives, with values that depend on role and place alone. */
function makeArrays(kind: Kind, length: number, place: Place): Arrays {
  const arrays: Arrays = {};
  ROLES.forEach((role, r) => {
    const dtype = dtypeOfRole(kind, role);
    if (dtype === null) return;
    const sign = role === 'variance' ? 1 : -1;
    const values = Float64Array.from({ length }, (_, k) => (k % 3 === 0 ? sign : 1) / (r + 2 + (k % 101)));
    arrays[role] = place(dtype, length * DTYPE_BYTES[dtype]).set(values);
  });
  return arrays;
}

/** The same arrays in other memory. */
function copyArrays(arrays: Arrays, place: Place): Arrays {
  const copied = Object.entries(arrays).map(([role, from]) => [
    role,
    place(from.dtype, from.length * DTYPE_BYTES[from.dtype]).copyFrom(from),
  ]);
  return Object.fromEntries(copied);
}

function ordinary(dtype: DType, bytes: number): Tensor {
  return Tensor.zeros(bytes / DTYPE_BYTES[dtype], { dtype });
}

function over(dtype: DType, buffer: ArrayBuffer | SharedArrayBuffer): Tensor {
  return Tensor.from(buffer as ArrayBuffer, { dtype });
}

const OPTIONS = { wd: 0.1, clipGradient: 0.25 };

function bindArrays({ weight, grad, mean, variance, master }: Arrays, optimizer = new AdamW(OPTIONS)): BoundStep {
  const state = { mean: mean as Tensor, variance: variance as Tensor, master };
  return optimizer.bind('weight', weight as Tensor, grad as Tensor, state);
}

function step(arrays: Arrays): Arrays {
  bindArrays(arrays).step();
  return arrays;
}

/** What a step over ordinary memory does in TypeScript. */
function expectedArrays(kind: Kind, length: number): Arrays {
  return inEnvironment(TYPESCRIPT, () => step(makeArrays(kind, length, ordinary)));
}

function expectSameArrays(actual: Arrays, expected: Arrays, what: string): void {
  for (const role of ROLES) {
    const [a, b] = [actual[role], expected[role]];
    if (a && b) expectSameBits(a.data, b.data, `${role} of ${what}`);
  }
}

function nameOf({ weight, master }: Kind): string {
  return master ? `${weight} with a master` : weight;
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
    for (const kind of KINDS) {
      itUnless(noCompiler, `should be updated in place (${nameOf(kind)})`, () => {
        run(() => {
          const buffers: ArrayBuffer[] = [];
          const length = 1001;
          const arrays = makeArrays(kind, length, (dtype, bytes) => {
            const buffer = foreign.external(bytes);
            buffers.push(buffer);
            return over(dtype, buffer);
          });
          const expected = expectedArrays(kind, length);
          expectSameArrays(step(arrays), expected, nameOf(kind));
          const seen = ROLES.flatMap((role) => {
            const like = arrays[role];
            return like ? [[role, over(like.dtype, foreign.copyOf(like.data.buffer as ArrayBuffer))] as const] : [];
          });
          expectSameArrays(Object.fromEntries(seen), expected, `${nameOf(kind)} as its owner sees it`);
          expect(buffers).to.have.length(kind.master ? 5 : 4);
        });
      });
    }

    itUnless(either(noCompiler, noGc), 'should stay while it is bound, and no longer', async () => {
      const kind = KINDS[0];
      const length = 10_000;
      await collect();
      const before = foreign.finalized();
      const seen: { copy?: () => ArrayBuffer } = {};
      let bound: BoundStep | null = run(() => {
        const arrays = makeArrays(kind, length, (dtype, bytes) => over(dtype, foreign.external(bytes)));
        const weight = new WeakRef(arrays.weight?.data.buffer as ArrayBuffer);
        seen.copy = () => foreign.copyOf(weight.deref() as ArrayBuffer);
        return bindArrays(arrays);
      });
      await collect();
      expect(foreign.finalized(), 'blocks freed while bound').to.equal(before);
      run(() => bound?.step());
      const copy = over('float32', seen.copy?.() as ArrayBuffer);
      expectSameBits(copy.data, expectedArrays(kind, length).weight?.data as Float32Array, 'weight after a collection');
      bound.dispose();
      bound = null;
      await collect();
      expect(foreign.finalized(), 'blocks freed after dispose').to.equal(before + 4);
    });

    itUnless(noCompiler, 'should be missed once its owner detached it', () => {
      run(() => {
        const weight = foreign.external(400);
        const bound = bindArrays({ ...makeArrays(KINDS[0], 100, ordinary), weight: over('float32', weight) });
        expect(bound.step()).to.deep.equal(DONE);
        foreign.detach(weight);
        expectError(() => bound.step(), RangeError, GONE);
      });
    });
  });

  itUnless(either(noNative, noCompiler), 'should be refused where two ArrayBuffers share it', () => {
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
    itUnless(noCompiler, `should be left alone beside the arrays, to the byte (${isa})`, () => {
      const source = `
        import { createRequire } from 'node:module';
        const { AdamW, Tensor, backendInfo } = await import(libraryUrl);
        const foreign = createRequire(libraryUrl)(${JSON.stringify(path)});
        const kinds = ${JSON.stringify(KINDS)};
        const sizes = ${JSON.stringify(DTYPE_BYTES)};
        const lengths = [...Array.from({ length: 70 }, (_, i) => i + 1), 255, 256, 257, 1023, 1025, 40001];
        process.removeAllListeners('warning');
        for (const { weight, state, master } of kinds)
          for (const length of lengths)
            for (const atEnd of [true, false]) {
              const make = (dtype) => Tensor.from(foreign.guarded(length * sizes[dtype], atEnd), { dtype });
              const optimizer = new AdamW({ stateDtype: state === weight && state !== 'float64' ? state : undefined });
              const states = { mean: make(state), variance: make(state), master: master ? make('float32') : undefined };
              optimizer.fusedStep(0, make(weight), make(weight), states);
            }
        report(backendInfo().native.isa);`;
      expect(reportOf(source, { env: { FUSED_ADAMW_ISA: isa } })).to.equal(isa);
    });
  }
  if (isas.length === 0) itUnless(noNative, 'should be left alone beside the arrays, to the byte', () => {});
});

describeOnEachBackend('shared memory', (run) => {
  for (const kind of KINDS) {
    it(`should be updated in place (${nameOf(kind)})`, () => {
      run(() => {
        const length = 1001;
        const arrays = makeArrays(kind, length, (dtype, bytes) => over(dtype, new SharedArrayBuffer(bytes)));
        const weight = arrays.weight as Tensor;
        const alias = over(kind.weight, structuredClone(weight.data.buffer as SharedArrayBuffer));
        expectSameArrays(step(arrays), expectedArrays(kind, length), nameOf(kind));
        expectSameBits(alias.data, weight.data, 'the weight through another SharedArrayBuffer');
      });
    });
  }

  it('should take a gradient that a worker wrote', async () => {
    const kind = KINDS[0];
    const length = 1001;
    const shared = new SharedArrayBuffer(4 * length);
    const expected = expectedArrays(kind, length);
    const worker = new Worker(
      `const { workerData: { to, from } } = require('node:worker_threads'); new Float32Array(to).set(from);`,
      { eval: true, workerData: { to: shared, from: expected.grad?.data } },
    );
    await new Promise((resolve) => worker.on('exit', resolve));
    run(() => {
      const arrays = makeArrays(kind, length, ordinary);
      expectSameArrays(step({ ...arrays, grad: over('float32', shared) }), expected, 'a worker');
    });
  });
});

describe('shared memory under two names', () => {
  // TypeScript sees no addresses.
  itUnless(noNative, 'should be refused where one is written', () => {
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

describeOnEachBackend('small arrays that begin their life in the heap', (run) => {
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
   * A step over arrays in one buffer, wide ones first: a guard of `shift`
   * elements, the arrays with `gap` elements between them, and a guard.
   */
  function stepBetweenGuards(
    start: Arrays,
    expected: Arrays,
    [shift, gap]: (typeof PLACES)[number],
    what: string,
  ): void {
    const length = (start.weight as Tensor).length;
    const guards: [from: number, to: number][] = [];
    const buffer = new ArrayBuffer(64 + 8 * (length + 8) * ROLES.length);
    const bytes = new Uint8Array(buffer).fill(GUARD);
    let end = 0;
    const arrays = copyArrays(start, (dtype, size) => {
      const elements = Math.ceil(end / DTYPE_BYTES[dtype]) + (end === 0 ? shift : gap);
      const byteOffset = elements * DTYPE_BYTES[dtype];
      guards.push([end, byteOffset]);
      end = byteOffset + size;
      return Tensor.from(buffer, { dtype, byteOffset, length });
    });
    guards.push([end, bytes.length]);
    step(arrays);
    expectSameArrays(arrays, expected, what);
    for (const [from, to] of guards) {
      expect(
        bytes.subarray(from, to).every((byte) => byte === GUARD),
        `guard of ${what}`,
      ).to.equal(true);
    }
  }

  withoutWarningOfHalf();
  for (const kind of KINDS) {
    it(`should be all that a step changes (${nameOf(kind)})`, () => {
      for (const length of LENGTHS) {
        const start = makeArrays(kind, length, ordinary);
        const expected = expectedArrays(kind, length);
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
  function lone(bind: (arrays: Arrays) => unknown): { refs: WeakRef<object>[]; weight: WeakRef<Float32Array> } {
    const place = (dtype: DType, bytes: number): Tensor => over(dtype, new ArrayBuffer(bytes));
    const arrays = makeArrays(KINDS[0], LENGTH, place);
    bind(arrays);
    const datas = Object.values(arrays).map(({ data }) => data);
    return {
      refs: datas.map(({ buffer }) => new WeakRef(buffer)),
      weight: new WeakRef(arrays.weight?.data as Float32Array),
    };
  }

  itUnless(noGc, 'should spare what is bound, in many rounds, and nothing after dispose', async () => {
    const expected = expectedArrays(KINDS[0], LENGTH).weight?.data as Float32Array;
    const bounds: BoundStep[] = [];
    const all: ReturnType<typeof lone>[] = [];
    for (let round = 0; round < 40; round++) {
      run(() => all.push(lone((arrays) => bounds.push(bindArrays(arrays)))));
      if (round % 10 === 9) await collect();
    }
    await collect();
    // Memory that was freed by mistake would be used again here.
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

  itUnless(noGc, 'should spare what the last fusedStep used, until dispose or another step', async () => {
    const optimizer = new AdamW();
    const stepLone = (): ReturnType<typeof lone> =>
      run(() =>
        lone(({ weight, grad, mean, variance }) => {
          const lists = [[0], [weight], [grad], [{ mean, variance }]];
          optimizer.fusedStep(...(lists as unknown as Parameters<AdamW['fusedStep']>));
        }),
      );
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

  itUnless(noGc, 'should free what steps leave behind', async () => {
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
    expect((await held()) - before, 'bytes more in ArrayBuffers').to.be.below(1e6);
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
    itUnless(either(noNative, noGc), `should not gather memory (${title})`, () => {
      const source = `${prelude}
        const loop = (rounds) => {
          for (let round = 0; round < rounds; round++) { ${body} }
          gc();
          return process.memoryUsage().rss;
        };
        const before = loop(50);
        report((loop(250) - before) / 2 ** 20);`;
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

describeOnEachBackend('memory of WebAssembly', (run) => {
  it('should be updated in place, and missed once it has grown', () => {
    run(() => {
      const memory = new Memory({ initial: 1, maximum: 100 });
      const length = 1001;
      let byteOffset = 0;
      const place = (dtype: DType, bytes: number): Tensor => {
        const tensor = Tensor.from(memory.buffer, { dtype, byteOffset, length });
        byteOffset += bytes;
        return tensor;
      };
      const arrays = makeArrays(KINDS[0], length, place);
      const optimizer = new AdamW(OPTIONS);
      const bound = bindArrays(arrays, optimizer);
      bound.step();
      const expected = expectedArrays(KINDS[0], length);
      expectSameArrays(arrays, expected, 'WebAssembly');

      memory.grow(1);
      const held = bytesOf(memory.buffer);
      expectError(() => bound.step(), RangeError, GONE);
      expectError(() => bound.step(), RangeError, GONE);
      expect(bytesOf(memory.buffer)).to.equal(held);
      expect(optimizer.numUpdate).to.equal(1);

      byteOffset = 0;
      const again = bindArrays(
        Object.fromEntries(
          ROLES.filter((role) => role !== 'master').map((role) => [role, place('float32', 4 * length)]),
        ),
        optimizer,
      );
      expect(again.step()).to.deep.equal(DONE);
      expect(bytesOf(memory.buffer)).not.to.equal(held);
    });
  });

  it('should be missed where it grows while the step asks the scheduler', () => {
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

  it('should be usable where it is shared', () => {
    run(() => {
      const memory = new Memory({ initial: 1, maximum: 2, shared: true });
      const place = (dtype: DType): Tensor => {
        const tensor = Tensor.from(memory.buffer, { dtype, byteOffset, length: 1001 });
        byteOffset += 4 * 1001;
        return tensor;
      };
      let byteOffset = 0;
      const arrays = makeArrays(KINDS[0], 1001, place);
      const bound = bindArrays(arrays);
      memory.grow(1); // shared memory stays where it is
      bound.step();
      expectSameArrays(arrays, expectedArrays(KINDS[0], 1001), 'shared WebAssembly memory');
    });
  });
});

describe('memory that moves away', () => {
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
    itUnless(how === 'resize' ? null : noTransfer, `should not be that of Tensor.zeros, by ${how}`, () => {
      const { moved, there, step: result } = testMove(how, true);
      expect(moved).to.equal(`TypeError: Expected memory that may move for ${how} but received that of a Tensor`);
      expect(there).to.equal(true);
      expect(result).to.deep.equal(DONE);
    });
  }

  for (const how of ['structuredClone', 'postMessage']) {
    it(`should not be that of Tensor.zeros, by ${how}`, () => {
      const { there, step: result } = testMove(how, true);
      expect(there).to.equal(true);
      expect(result).to.deep.equal(DONE);
    });
  }

  for (const how of ['transfer of the prototype', 'transferToFixedLength of the prototype']) {
    itUnless(noTransfer, `should be missed or refused where it is that of Tensor.zeros, by ${how}`, () => {
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
      `should be missed where it is the caller's, by ${how}`,
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
