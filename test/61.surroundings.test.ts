/** Hostile surroundings: other libraries, workers, limits, broken binaries and arrays that misreport themselves. */
import { spawnSync } from 'node:child_process';
import { existsSync, mkdirSync, readFileSync, rmSync, truncateSync, writeFileSync } from 'node:fs';
import { join, resolve } from 'node:path';
import { expect } from 'chai';
import { platformName } from '../lib/backend/binary.js';
import {
  AdamW,
  type AdamWState,
  backendInfo,
  multiAdamwUpdate,
  syncMaster,
  Tensor,
  type TensorLike,
} from '../lib/index.js';
import { describeOnEachBackend } from './support/backends.js';
import { expectSameBits } from './support/bits.js';
import {
  type ChildOptions,
  copyPackage,
  expectExit,
  expectedDigest,
  reportOf,
  reportsOf,
  repository,
  runChild,
  temporaryFolder,
} from './support/child.js';
import { binary, compileLibrary, either, itUnless, noCompiler, noNative, notLinux } from './support/conditions.js';
import { expectError } from './support/errors.js';
import type { ExampleOptions } from './support/example-step.js';
import { expectedDigests, expectFallback, fallbackWarnings, STEPS } from './support/fallback.js';
import { withoutWarningOfHalf } from './support/warnings.js';

/** Large enough that a step uses several threads. */
const LARGE: ExampleOptions = { length: 100_003, steps: 2 };
const NATIVE = { FUSED_ADAMW_BACKEND: 'native' };

/** Why a command cannot be run, or null. */
function noCommand(command: string, ...args: string[]): string | null {
  return spawnSync(command, args).status === 0 ? null : `there is no ${command} that works`;
}

describe('a library linked with -ffast-math', () => {
  const folder = temporaryFolder();
  withoutWarningOfHalf();
  let fastMath: string;

  before(() => {
    if (noCompiler !== null) return;
    fastMath = join(folder.path, 'fast-math.so');
    compileLibrary(join(repository, 'test/native/fast-math/fast-math.c'), fastMath);
  });

  const EXAMPLES: readonly ExampleOptions[] = (['float32', 'float64', 'float16', 'bfloat16'] as const).flatMap(
    (dtype) =>
      [true, false].map((subnormal) => ({ ...LARGE, dtype, subnormal, options: { wd: 0.1, learningRate: 0.01 } })),
  );

  /** The digests of all examples for each number of threads, and whether this thread flushes subnormals. */
  const digests = (threads: readonly number[]): string => `
    process.removeAllListeners('warning'); // of half precision
    const library = await import(libraryUrl);
    const found = ${JSON.stringify(threads)}.map((count) => {
      library.setNumThreads(count);
      return ${JSON.stringify(EXAMPLES)}.map((example) => exampleDigest(library, example));
    });
    report({ found, ...library.backendInfo().javascript });`;

  // Loaded before Node, for all threads; or opened by the thread that then loads the package.
  const ways: readonly { name: string; env: () => Record<string, string>; source: () => string }[] = [
    { name: 'preloaded', env: () => ({ LD_PRELOAD: fastMath }), source: () => '' },
    {
      name: 'opened by the thread',
      env: () => ({}),
      source: () => `try { process.dlopen({ exports: {} }, ${JSON.stringify(fastMath)}); } catch {}`,
    },
  ];
  for (const { name, env, source } of ways) {
    itUnless(either(noNative, noCompiler, notLinux), `should change no bit of native code (${name})`, () => {
      const threads = [1, 2, 7];
      const found = reportOf(`${source()}${digests(threads)}`, { env: { ...env(), ...NATIVE } });
      const expected = EXAMPLES.map(expectedDigest);
      expect(found).to.deep.equal({ found: threads.map(() => expected), flushesSubnormals: true });
    });

    itUnless(either(noNative, noCompiler, notLinux), `should leave subnormal products of scalars (${name})`, () => {
      const found = reportOf(
        `${source()}
        const { AdamW } = await import(libraryUrl);
        const one = (value) => Float64Array.of(value);
        const plain = { beta1: 0, beta2: 0, epsilon: 0, correctBias: false };
        const weights = [one(0), one(1)];
        const states = weights.map(() => ({ mean: one(0), variance: one(0) }));
        const rated = new AdamW({ ...plain, learningRate: 1e-200 });
        rated.setLrMult({ 0: 1e-110 });
        rated.update(0, weights[0], one(1), states[0]);
        const decayed = new AdamW({ ...plain, coupledWeightDecay: true, learningRate: 0, epsilon: 1, wd: 1e-200 });
        decayed.setWdMult({ 1: 1e-110 });
        decayed.update(1, weights[1], one(0), states[1]);
        // As bits: this thread cannot convert subnormals to text.
        report([weights[0], states[1].mean].map(({ buffer }) => String(new BigUint64Array(buffer)[0])));`,
        { env: { ...env(), ...NATIVE } },
      );
      const bitsOf = (value: number): string => String(new BigUint64Array(Float64Array.of(value).buffer)[0]);
      expect(found).to.deep.equal([-1e-310, 1e-310].map(bitsOf));
    });

    itUnless(either(noCompiler, notLinux), `should be reported where TypeScript runs (${name})`, () => {
      const env_ = { ...env(), FUSED_ADAMW_BACKEND: 'javascript' };
      const { found, flushesSubnormals } = reportOf(`${source()}${digests([1])}`, { env: env_ }) as {
        found: string[][];
        flushesSubnormals: boolean;
      };
      expect(flushesSubnormals).to.equal(true);
      // TypeScript cannot change the settings of its thread: the bits are the same only where nothing is subnormal.
      EXAMPLES.forEach((example, i) => {
        if (!example.subnormal) expect(found[0][i], JSON.stringify(example)).to.equal(expectedDigest(example));
        else if (example.dtype === 'float32') expect(found[0][i]).not.to.equal(expectedDigest(example));
      });
    });
  }

  itUnless(
    either(noNative, noCompiler, notLinux),
    'should change no bit in the workers of a thread that flushes subnormals',
    () => {
      const source = `
      import { Worker } from 'node:worker_threads';
      const body = \`(async () => {
        const { exampleDigest } = await import(\${JSON.stringify(exampleUrl)});
        const library = await import(\${JSON.stringify(libraryUrl)});
        library.setNumThreads(2);
        require('node:worker_threads').parentPort.postMessage({
          digest: exampleDigest(library, ${JSON.stringify(EXAMPLES[0])}),
          ...library.backendInfo().javascript,
        });
      })()\`;
      report(await new Promise((resolve) => new Worker(body, { eval: true, execArgv: [] }).on('message', resolve)));`;
      expect(reportOf(source, { env: { LD_PRELOAD: fastMath, ...NATIVE } })).to.deep.equal({
        digest: expectedDigest(EXAMPLES[0]),
        flushesSubnormals: true,
      });
    },
  );
});

describe('workers', () => {
  /** Code of a process whose main thread never loads the package, and that runs bodies in workers. */
  const prelude = `
    import { Worker } from 'node:worker_threads';
    const start = (body) => new Worker(\`(async () => {
      const { parentPort } = require('node:worker_threads');
      const { exampleDigest, makeExample } = await import(\${JSON.stringify(exampleUrl)});
      const library = await import(\${JSON.stringify(libraryUrl)});
      \${body}
    })()\`, { eval: true, execArgv: [] });
    const ended = (worker) => new Promise((resolve, reject) => {
      const messages = [];
      worker.on('message', (message) => messages.push(message));
      worker.on('error', reject);
      worker.on('exit', (code) => resolve({ code, messages }));
    });
    const aLargeStep = \`
      library.setNumThreads(2);
      parentPort.postMessage(exampleDigest(library, ${JSON.stringify(LARGE)}));\`;`;

  const expectDigests = (source: string, count: number): void => {
    const expected = { code: 0, messages: [expectedDigest(LARGE)] };
    expect(reportsOf(runChild(`${prelude}${source}`, { env: NATIVE, timeout: 120 }))).to.deep.equal(
      Array.from({ length: count }, () => expected),
    );
  };

  itUnless(noNative, 'should make steps on two threads each, 30 workers in turn', () => {
    expectDigests(`for (let i = 0; i < 30; i++) report(await ended(start(aLargeStep)));`, 30);
  });

  itUnless(noNative, 'should make steps at the same time', () => {
    const source = `
      const workers = Array.from({ length: 4 }, () => ended(start(aLargeStep)));
      for (const worker of workers) report(await worker);`;
    expectDigests(source, 4);
  });

  itUnless(noNative, 'should terminate before their first step', () => {
    const source = `${prelude}
      for (let i = 0; i < 40; i++) {
        const worker = start(aLargeStep);
        await new Promise((resolve) => setTimeout(resolve, 2 * i));
        await worker.terminate();
      }
      report(await ended(start(aLargeStep)));`;
    expect(reportOf(source, { env: NATIVE })).to.deep.equal({ code: 0, messages: [expectedDigest(LARGE)] });
  });

  /** What a worker does until it is stopped. */
  const busy: Record<string, string> = {
    'large steps': `
      library.setNumThreads(2);
      const { weight, grad, state } = makeExample(library, { length: 300_003 });
      const optimizer = new library.AdamW();
      parentPort.postMessage('begun');
      for (;;) optimizer.fusedStep(0, weight, grad, state);`,
    'steps over other lists each time': `
      const lists = () => Array.from({ length: 20_000 }, () => new Float32Array(1));
      const [weights, grads, means, variances] = [lists(), lists(), lists(), lists()];
      const indices = weights.map((_, i) => i);
      const states = means.map((mean, i) => ({ mean, variance: variances[i] }));
      const optimizer = new library.AdamW();
      parentPort.postMessage('begun');
      for (;;) optimizer.bind(indices, weights, grads, states).step();`,
    'steps in TypeScript': `
      process.env.FUSED_ADAMW_BACKEND = 'javascript';
      const { weight, grad, state } = makeExample(library, { length: 300_003 });
      const optimizer = new library.AdamW();
      parentPort.postMessage('begun');
      for (;;) optimizer.fusedStep(0, weight, grad, state);`,
  };

  for (const [title, body] of Object.entries(busy)) {
    const reason = title.includes('TypeScript') ? null : noNative;
    const begun = `
      const begin = async () => {
        const worker = start(${JSON.stringify(body)});
        await new Promise((resolve, reject) => worker.on('message', resolve).on('error', reject));
        return worker;
      };`;

    itUnless(reason, `should terminate in the middle of ${title}`, () => {
      const source = `${prelude}${begun}
        for (let i = 0; i < 12; i++) {
          const worker = await begin();
          await new Promise((resolve) => setTimeout(resolve, (7 * i) % 19));
          await worker.terminate();
        }
        report(await ended(start(aLargeStep)));`;
      expect(reportOf(source)).to.deep.equal({ code: 0, messages: [expectedDigest(LARGE)] });
    });

    itUnless(reason, `should end with the process in the middle of ${title}`, () => {
      for (let i = 0; i < 4; i++) {
        const source = `${prelude}${begun}
          await Promise.all([begin(), begin()]);
          setTimeout(() => process.exit(${3 + i}), ${5 * i});`;
        expectExit(runChild(source), 3 + i);
      }
    });
  }
});

describe('a machine without libgomp', () => {
  const folder = temporaryFolder();

  itUnless(either(noNative, noCompiler, notLinux), 'should run native code, on threads', () => {
    // Files that are not libraries hide the real ones; a library that needs libgomp proves that they do.
    const hidden = join(folder.path, 'hidden');
    mkdirSync(hidden);
    const source = join(folder.path, 'empty.c');
    const stub = join(folder.path, 'libgomp.so.1');
    const needy = join(folder.path, 'needy.so');
    writeFileSync(source, 'int empty;\n');
    compileLibrary(source, stub, ['-Wl,-soname,libgomp.so.1']);
    compileLibrary(source, needy, ['-Wl,--no-as-needed', stub]);
    rmSync(stub);
    for (const name of ['libgomp.so.1', 'libomp.so', 'libomp.so.5', 'libiomp5.so'])
      writeFileSync(join(hidden, name), 'not a library');

    const child = `
      const attempt = () => { try { process.dlopen({ exports: {} }, ${JSON.stringify(needy)}); } catch (e) { return e.message; } };
      const library = await import(libraryUrl);
      library.setNumThreads(2);
      report({
        needy: attempt(),
        digest: exampleDigest(library, ${JSON.stringify(LARGE)}),
        loaded: process.report.getReport().sharedObjects.filter((name) => /gomp|iomp|libomp/.test(name)),
      });`;
    const env = { LD_LIBRARY_PATH: hidden, ...NATIVE, FUSED_ADAMW_THREADS: '' };
    const found = reportOf(child, { env }) as Record<string, unknown>;
    expect(found.needy).to.match(/libgomp\.so\.1/);
    expect(found).to.include({ digest: expectedDigest(LARGE) });
    expect(found.loaded).to.deep.equal([]);
  });
});

describe('limits of threads', () => {
  const folder = temporaryFolder();

  /** A step on seven threads, and how many threads it adds to the process. */
  const sevenThreads = `
    import { readdirSync } from 'node:fs';
    const library = await import(libraryUrl);
    library.setNumThreads(7);
    const threads = () => readdirSync('/proc/self/task').length;
    const step = () => {
      const before = threads();
      const digest = exampleDigest(library, ${JSON.stringify(LARGE)});
      return { digest, more: threads() - before };
    };`;

  // Limits do not apply to root, so the child runs as a user without other processes.
  const isRoot = process.getuid?.() === 0;
  const user = isRoot ? 54_321 : undefined;
  const noUser =
    spawnSync(process.execPath, ['--version'], { uid: user, gid: user }).status === 0
      ? null
      : 'no other user can run node';

  const alone = (options: ChildOptions = {}): ChildOptions => {
    const root = join(folder.path, 'package');
    if (!existsSync(root)) copyPackage(root, binary);
    return { root, user, env: NATIVE, ...options };
  };

  itUnless(either(noNative, notLinux, noUser), 'should allow seven threads by default', () => {
    expect(reportOf(`${sevenThreads} report(step());`, alone())).to.deep.equal({
      digest: expectedDigest(LARGE),
      more: 6,
    });
  });

  itUnless(
    either(noNative, notLinux, noUser, noCommand('prlimit', '--version')),
    'should leave a step on one thread if no thread can be created',
    () => {
      const source = `${sevenThreads}
        import { spawnSync } from 'node:child_process';
        spawnSync('prlimit', ['--pid', String(process.pid), '--nproc=1:1']);
        const first = step();
        report({ first, again: step(), child: spawnSync('true').error?.code });`;
      const digest = expectedDigest(LARGE);
      expect(reportOf(source, alone())).to.deep.equal({
        first: { digest, more: 0 },
        again: { digest, more: 0 },
        child: 'EAGAIN',
      });
    },
  );

  const processors = /^Cpus_allowed_list:\s*(\d+)/m;
  const status = existsSync('/proc/self/status') ? readFileSync('/proc/self/status', 'utf8') : '';
  const processor = processors.exec(status)?.[1] ?? '0';
  const threadsOf = (options: ChildOptions): unknown =>
    reportOf(`report((await import(libraryUrl)).backendInfo().threads);`, options);

  itUnless(
    either(noNative, notLinux, noCommand('taskset', '-c', processor, 'true')),
    'should follow the processors that the process may use',
    () => {
      expect(threadsOf({ env: NATIVE, prefix: ['taskset', '-c', processor] })).to.equal(1);
    },
  );

  itUnless(noNative, 'should follow OMP_NUM_THREADS if it is a positive number', () => {
    const available = threadsOf({ env: NATIVE });
    for (const [value, expected] of [
      ['3', 3],
      ['5,2', 5],
      ['100000000000000000000', 1024],
      ['', available],
      ['0', available],
      ['-2', available],
      ['many', available],
    ] as const) {
      expect(threadsOf({ env: { ...NATIVE, OMP_NUM_THREADS: value } }), `'${value}'`).to.equal(expected);
    }
  });

  itUnless(noNative, 'should ignore later changes of the environment', () => {
    const source = `
      const { backendInfo, setNumThreads } = await import(libraryUrl);
      const threads = [backendInfo().threads];
      process.env.OMP_NUM_THREADS = '4';
      threads.push(backendInfo().threads);
      setNumThreads(6);
      threads.push(backendInfo().threads);
      setNumThreads(null);
      report([...threads, backendInfo().threads]);`;
    expect(reportOf(source, { env: { ...NATIVE, OMP_NUM_THREADS: '3' } })).to.deep.equal([3, 3, 6, 3]);
  });
});

describe('a binary that does not fit', () => {
  const folder = temporaryFolder();
  const BUILT = 'build/Release/fused_adamw.node';
  const CARRIED = `prebuilds/${platformName()}/fused_adamw.node`;

  /** A copy of the package whose binary `spoil` has damaged. */
  const spoiled = (name: string, spoil: (path: string) => void): string => {
    const root = copyPackage(join(folder.path, name), binary);
    spoil(join(root, BUILT));
    return root;
  };

  it('should be reported as missing if there is none', () => {
    const root = copyPackage(join(folder.path, 'none'));
    expectFallback(root, new RegExp(`^there is no binary for ${platformName()}$`));
  });

  it('should be reported as missing if FUSED_ADAMW_BINARY names none', () => {
    const source = `report((await import(libraryUrl)).backendInfo().native);`;
    for (const [named, path] of [
      ['build/none.node', join(repository, 'build/none.node')],
      ['/nonexistent/none.node', resolve('/nonexistent/none.node')],
    ]) {
      const env = { FUSED_ADAMW_BACKEND: '', FUSED_ADAMW_BINARY: named };
      const reason = `there is no ${path}, which FUSED_ADAMW_BINARY names`;
      expect(reportOf(source, { env })).to.deep.equal({ available: false, reason });
    }
  });

  const cuts = [0, 10, 64, 1000, 4096, 100_000, -4096, -1] as const;
  for (const cut of cuts) {
    const what = cut < 0 ? `${-cut} bytes short` : `${cut} bytes long`;
    itUnless(either(noNative, notLinux), `should be reported as invalid if it is ${what}`, () => {
      const root = spoiled(`cut-${what}`, (path) => {
        truncateSync(path, cut < 0 ? readFileSync(path).length + cut : cut);
      });
      expectFallback(root, cut >= 0 && cut < 64 ? /./ : /^the binary was cut short: \d+ of \d+ bytes$/);
    });
  }

  itUnless(either(noNative, notLinux), 'should be reported as invalid if it is a text file', () => {
    const root = spoiled('text', (path) =>
      writeFileSync(path, 'version https://git-lfs.github.com/spec/v1\n'.repeat(50)),
    );
    expectFallback(root, /invalid ELF header|Exec format error/); // as glibc and musl say it
  });

  itUnless(either(noNative, noCompiler), 'should be reported as another version if it is another addon', () => {
    const root = spoiled('other', (path) => {
      compileLibrary(join(repository, 'test/native/foreign-addon/foreign.c'), path);
    });
    expectFallback(root, /^the binary belongs to another version of the package; build it again/);
  });

  itUnless(either(noNative, notLinux), 'should be passed over for the one that the package carries', () => {
    const root = copyPackage(join(folder.path, 'carried'), binary, CARRIED);
    mkdirSync(join(root, 'build/Release'), { recursive: true });
    writeFileSync(join(root, BUILT), '');
    const child = runChild(STEPS, { root, env: NATIVE });
    expect(reportsOf(child)).to.deep.equal([
      { backend: 'native', available: true, path: join(root, CARRIED), digests: expectedDigests() },
    ]);
    expect(fallbackWarnings(child)).to.deep.equal([]);
  });

  itUnless(noNative, 'should run the instruction set of FUSED_ADAMW_ISA, or throw', () => {
    const { native } = backendInfo();
    const isas = native.available ? native.isas : [];
    const source = `report((await import(libraryUrl)).backendInfo().native.isa);`;
    for (const isa of isas) {
      expect(reportOf(source, { env: { ...NATIVE, FUSED_ADAMW_ISA: isa } })).to.equal(isa);
    }
    for (const FUSED_ADAMW_BACKEND of ['native', '']) {
      const child = runChild(source, { env: { FUSED_ADAMW_BACKEND, FUSED_ADAMW_ISA: 'sse9' } });
      expectExit(child, 1);
      expect(child.stderr).to.include(
        `RangeError: Expected ${isas.join(' or ')} (what this machine runs) for FUSED_ADAMW_ISA but received sse9`,
      );
    }
  });

  it('should not be loaded for an unknown FUSED_ADAMW_BACKEND', () => {
    const child = runChild(STEPS, { env: { FUSED_ADAMW_BACKEND: 'fortran' } });
    expectExit(child, 1);
    expect(child.stderr).to.include(
      `RangeError: Expected 'native' or 'javascript' for FUSED_ADAMW_BACKEND but received "fortran"`,
    );
  });
});

describeOnEachBackend('arrays that misreport themselves', (run) => {
  const LENGTH = 37;
  const GUARD = 0xa5;

  /** Makes an array of a subclass, or a modified one, over part of a buffer. */
  type Make = (buffer: ArrayBuffer, byteOffset: number, length: number) => Float32Array;

  const lies: Record<string, Make> = {
    'a length that is too large': (...at) =>
      new (class extends Float32Array {
        override get length() {
          return 1e6;
        }
        override get byteLength() {
          return 4e6;
        }
      })(...at),
    'a length that is too small': (...at) =>
      new (class extends Float32Array {
        override get length() {
          return 1;
        }
        override get byteLength() {
          return 4;
        }
      })(...at),
    'another buffer and place': (...at) =>
      new (class extends Float32Array {
        override get buffer() {
          return new ArrayBuffer(4);
        }
        override get byteOffset() {
          return 1 << 20;
        }
      })(...at),
    'another type': (...at) =>
      new (class extends Float32Array {
        override get [Symbol.toStringTag]() {
          return 'Float64Array' as never;
        }
        override get BYTES_PER_ELEMENT() {
          return 8;
        }
      })(...at),
    'no type at all': (...at) => Object.setPrototypeOf(new Float32Array(...at), null),
    'the prototype of another type': (...at) => Object.setPrototypeOf(new Float32Array(...at), Float64Array.prototype),
    'properties of its own': (...at) =>
      Object.defineProperties(new Float32Array(...at), {
        length: { value: 1e9 },
        byteLength: { value: 4e9 },
        byteOffset: { value: 12 },
        buffer: { value: new ArrayBuffer(0) },
        constructor: { value: Float64Array },
        [Symbol.toStringTag]: { value: 'Float64Array' },
      }),
    'methods that throw': (...at) =>
      new (class extends Float32Array {
        static get [Symbol.species](): never {
          throw new Error('species');
        }
        override set(): never {
          throw new Error('set');
        }
        override subarray(): never {
          throw new Error('subarray');
        }
        override slice(): never {
          throw new Error('slice');
        }
        override [Symbol.iterator](): never {
          throw new Error('iterator');
        }
      })(...at),
    'a buffer that lies': (buffer, ...at) => {
      Object.defineProperties(buffer, {
        byteLength: { value: 1e9 },
        resizable: { value: false },
        constructor: { value: null },
      });
      return new Float32Array(buffer, ...at);
    },
  };

  const honest: Make = (...at) => new Float32Array(...at);

  /** Four arrays with guards around each: weight, gradient, mean, variance. */
  function makeFour(make: Make): { arrays: Float32Array[]; bytes: Uint8Array[] } {
    const bytes = [0, 1, 2, 3].map((role) => {
      const all = new Uint8Array(4 * (LENGTH + 32)).fill(GUARD);
      new Float32Array(all.buffer, 64, LENGTH).forEach((_, k, values) => {
        values[k] = (role === 3 || k % 2 === 0 ? 1 : -1) / (role + k + 2);
      });
      return all;
    });
    return { arrays: bytes.map(({ buffer }) => make(buffer as ArrayBuffer, 64, LENGTH)), bytes };
  }

  type Use = (arrays: readonly Float32Array[]) => void;
  const withState = ([weight, grad, mean, variance]: readonly Float32Array[]) =>
    [[0], [weight], [grad], [{ mean, variance }]] as const;
  const uses: Record<string, Use> = {
    'fusedStep()': (arrays) => new AdamW({ wd: 0.1 }).fusedStep(...withState(arrays)),
    'step()': (arrays) => new AdamW({ wd: 0.1 }).step(...withState(arrays)),
    'bind()': (arrays) => {
      const bound = new AdamW({ wd: 0.1 }).bind(...withState(arrays));
      bound.step();
      bound.setGrads([arrays[1]]);
      bound.step();
    },
    'multiAdamwUpdate()': ([weight, grad, mean, variance]) =>
      multiAdamwUpdate([weight], [grad], [mean], [variance], { etas: [1], lrs: [0.1], wds: [0.01] }),
    'createState()': ([weight, grad]) => {
      const optimizer = new AdamW();
      const state = optimizer.createState(0, weight);
      expect((state.mean as Tensor).shape).to.deep.equal([LENGTH]);
      optimizer.fusedStep(0, weight, grad, state);
    },
    'Tensor.from()': ([weight, grad, mean, variance]) => {
      const [w, g, m, v] = [weight, grad, mean, variance].map((array) => Tensor.from(array));
      expect([w.length, w.dtype, w.toArray().length]).to.deep.equal([LENGTH, 'float32', LENGTH]);
      new AdamW().fusedStep(0, w, g, { mean: m, variance: v });
      m.copyFrom(v);
    },
    'Tensor.set()': ([weight, grad, mean]) => {
      Tensor.from(weight).set(grad);
      const half = Tensor.zeros(LENGTH, { dtype: 'bfloat16' }).set(mean);
      Tensor.from(grad).set(half.toArray());
    },
    'syncMaster()': ([weight, , mean, variance]) => {
      const half = Tensor.zeros(LENGTH, { dtype: 'float16' }).set(Array.from({ length: LENGTH }, (_, k) => k));
      syncMaster(half, { mean, variance, master: weight });
    },
  };

  for (const [lie, make] of Object.entries(lies)) {
    it(`should be used as what they are: ${lie}`, () => {
      run(() => {
        for (const [name, use] of Object.entries(uses)) {
          const expected = makeFour(honest);
          const actual = makeFour(make);
          use(expected.arrays);
          use(actual.arrays);
          actual.bytes.forEach((bytes, role) => {
            expect([...bytes], `${name}, array ${role} and what lies around it`).to.deep.equal([
              ...expected.bytes[role],
            ]);
          });
        }
      });
    });
  }

  const refused: Record<string, TensorLike> = {
    'a Proxy of an array': new Proxy(new Float32Array(LENGTH), {}),
    'an object with the prototype of arrays': Object.create(Float32Array.prototype),
    'an Int32Array that says it is a Float32Array': Object.setPrototypeOf(
      new Int32Array(LENGTH),
      Float32Array.prototype,
    ),
    'an object that says it is one': { [Symbol.toStringTag]: 'Float32Array', length: LENGTH } as never,
  };
  for (const [what, array] of Object.entries(refused)) {
    it(`should be refused if they are not arrays: ${what}`, () => {
      run(() => {
        const { arrays } = makeFour(honest);
        const [weight, grad, mean, variance] = arrays;
        const before = arrays.map((each) => each.slice());
        const optimizer = new AdamW();
        const state: AdamWState = { mean, variance };
        for (const call of [
          () => optimizer.fusedStep(0, array, grad, state),
          () => optimizer.fusedStep(0, weight, array, state),
          () => optimizer.fusedStep(0, weight, grad, { ...state, mean: array }),
          () => optimizer.fusedStep(0, weight, grad, { ...state, variance: array }),
          () => optimizer.createState(0, array),
        ]) {
          expectError(call, TypeError, /^Expected .* but received /);
        }
        arrays.forEach((each, role) => {
          expectSameBits(each, before[role], `array ${role}`);
        });
        expect(optimizer.numUpdate).to.equal(0);
      });
    });
  }
});
