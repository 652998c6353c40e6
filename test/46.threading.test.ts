/** What runs the threads of a step: OpenMP, or the addon's own team. */
import { spawnSync } from 'node:child_process';
import { existsSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { availableParallelism } from 'node:os';
import { join } from 'node:path';
import { expect } from 'chai';
import { loadBackend } from '../lib/backend/index.js';
import * as library from '../lib/index.js';
import { backendInfo, setNumThreads, setThreading, type Threading } from '../lib/index.js';

import {
  type ChildOptions,
  copyPackage,
  expectExit,
  expectedDigest,
  reportOf,
  reportsOf,
  runChild,
  temporaryFolder,
} from './support/child.js';
import { either, itUnless, noNative, notLinux } from './support/conditions.js';
import { inEnvironment } from './support/environments.js';
import { type ExampleOptions, exampleDigest } from './support/example-step.js';
import { WRONG_KINDS } from './support/messages.js';
import { withoutWarningOfHalf } from './support/warnings.js';

/** More than a step on one thread takes. */
const LARGE: ExampleOptions = { length: 100_003, steps: 2 };

const RUNTIMES = ['openmp', 'team'] as const;
const info = backendInfo().threading;
const { available, reason } = info;

/** Why a runtime cannot be used here, or null. */
const unusable = (runtime: Threading): string | null => (available.includes(runtime) ? null : (reason ?? ''));
const noOpenMP = either(noNative, unusable('openmp'));

/** The environment of a child that runs on a runtime, or on the default one. */
const on = (runtime: Threading | ''): Record<string, string> => ({
  FUSED_ADAMW_BACKEND: 'native',
  FUSED_ADAMW_THREADS: runtime,
});

const INFO = `report((await import(libraryUrl)).backendInfo().threading);`;

describe('the runtime of threads', () => {
  const { FUSED_ADAMW_THREADS: wanted } = process.env;
  const byDefault = (wanted || available[0]) as Threading;

  afterEach(() => {
    if (noNative === null) setThreading(null);
  });

  itUnless(noOpenMP, 'should be OpenMP by default, with its library', () => {
    const found = reportOf(INFO, { env: on('') }) as { library: string };
    expect(found).to.deep.equal({ runtime: 'openmp', available: ['openmp', 'team'], library: found.library });
    expect(found.library).to.match(/lib(g|i?)omp/);
  });

  for (const runtime of RUNTIMES) {
    itUnless(either(noNative, unusable(runtime)), `should be what FUSED_ADAMW_THREADS says: ${runtime}`, () => {
      expect(reportOf(INFO, { env: on(runtime) })).to.include({ runtime });
    });

    itUnless(either(noNative, unusable(runtime)), `should be what setThreading() was given: ${runtime}`, () => {
      setThreading(runtime);
      expect(backendInfo().threading.runtime).to.equal(runtime);
      setThreading(null);
      expect(backendInfo().threading.runtime).to.equal(byDefault);
    });
  }

  itUnless(noNative, 'should be one for the whole process', () => {
    const source = `
      import { Worker } from 'node:worker_threads';
      const library = await import(libraryUrl);
      library.setThreading('team');
      const body = \`(async () => {
        const library = await import(\${JSON.stringify(libraryUrl)});
        require('node:worker_threads').parentPort.postMessage(library.backendInfo().threading.runtime);
      })()\`;
      report(await new Promise((resolve) => new Worker(body, { eval: true, execArgv: [] }).on('message', resolve)));`;
    expect(reportOf(source, { env: on(noOpenMP === null ? 'openmp' : '') })).to.equal('team');
  });

  itUnless(noNative, 'should not be one that FUSED_ADAMW_THREADS makes up', () => {
    for (const FUSED_ADAMW_BACKEND of ['native', '']) {
      const child = runChild(INFO, { env: { FUSED_ADAMW_BACKEND, FUSED_ADAMW_THREADS: 'tbb' } });
      expectExit(child, 1);
      expect(child.stderr).to.include(
        `RangeError: Expected 'openmp' or 'team' for FUSED_ADAMW_THREADS but received "tbb"`,
      );
    }
  });

  const wrong: readonly (readonly [value: unknown, received: string])[] = [
    ...WRONG_KINDS.filter(([value]) => value !== null),
    ['OpenMP', '"OpenMP"'],
    ['', '""'],
  ];
  for (const backend of ['native', 'javascript'] as const) {
    itUnless(backend === 'native' ? noNative : null, `should not be anything else (${backend})`, () => {
      inEnvironment({ name: backend, backend }, () => {
        for (const [value, received] of wrong) {
          const error = typeof value === 'string' ? RangeError : TypeError;
          const message = `Expected 'openmp' or 'team' for runtime but received ${received}`;
          expect(() => setThreading(value as never)).to.throw(error, message);
        }
      });
    });
  }

  it('should be none in TypeScript, which has one thread', () => {
    inEnvironment({ name: 'TypeScript', backend: 'javascript' }, () => {
      const none = 'the TypeScript backend has one thread';
      expect(backendInfo().threading).to.deep.equal({ runtime: 'none', available: [], reason: none });
      for (const runtime of RUNTIMES) {
        const message = `Expected a usable runtime for runtime but received '${runtime}' (${none})`;
        expect(() => setThreading(runtime)).to.throw(RangeError, message);
      }
      setThreading(null);
    });
  });
});

describe('a step on either runtime', () => {
  withoutWarningOfHalf();

  const examples: readonly ExampleOptions[] = (['float32', 'float64', 'float16', 'bfloat16'] as const).map((dtype) => ({
    ...LARGE,
    dtype,
  }));
  for (const runtime of RUNTIMES) {
    itUnless(either(noNative, unusable(runtime)), `should have the same bits: ${runtime}`, () => {
      setThreading(runtime);
      try {
        for (const threads of [1, 2, 3, 7, 64]) {
          setNumThreads(threads);
          expect(backendInfo()).to.include({ threads });
          for (const example of examples) expect(exampleDigest(library, example)).to.equal(expectedDigest(example));
        }
      } finally {
        setNumThreads(null);
        setThreading(null);
      }
    });
  }

  itUnless(noOpenMP, 'should have the same bits while the runtime changes', () => {
    try {
      for (let i = 0; i < 20; i++) {
        setThreading(RUNTIMES[i % 2]);
        setNumThreads(2 + (i % 3));
        expect(exampleDigest(library, LARGE)).to.equal(expectedDigest(LARGE));
      }
    } finally {
      setNumThreads(null);
      setThreading(null);
    }
  });
});

describe('memory of the package', () => {
  itUnless(either(noNative, notLinux), 'should be written first by the threads of a step over it', () => {
    // Tensor.zeros() touches its pages; states are left to the first step.
    const source = `
      const library = await import(libraryUrl);
      const MiB = 2 ** 20;
      const resident = () => process.memoryUsage.rss() / MiB;
      const grown = [];
      const measure = (run) => { const before = resident(); const result = run(); grown.push(resident() - before); return result; };
      const optimizer = new library.AdamW();
      const [weight, grad] = measure(() => [0, 1].map(() => library.Tensor.zeros(16 * MiB)));
      const state = measure(() => optimizer.createState(0, weight));
      measure(() => optimizer.update(0, weight, grad, state));
      report({ grown, zeros: [weight, state.mean].every(({ data }) => data.every((value) => value === 0)) });`;
    const { grown, zeros } = reportOf(source, { env: on('') }) as { grown: number[]; zeros: boolean };
    const [tensors, state, step] = grown;
    expect(tensors).to.be.within(120, 160);
    expect(state).to.be.below(20);
    expect(step).to.be.within(110, 160);
    expect(zeros).to.equal(true);
  });
});

describe('the variables of OpenMP', () => {
  /** A step on some threads: its digest, the threads it made, and the processors that each of those may use. */
  const step = (threads: number): string => `
    import { readdirSync, readFileSync } from 'node:fs';
    const library = await import(libraryUrl);
    library.setNumThreads(${threads});
    const tasks = () => readdirSync('/proc/self/task');
    const before = tasks();
    const digest = exampleDigest(library, ${JSON.stringify(LARGE)});
    const made = tasks().filter((task) => !before.includes(task));
    const processors = made.map((task) =>
      /Cpus_allowed_list:\\s*(.*)/.exec(readFileSync('/proc/self/task/' + task + '/status', 'utf8'))[1]);
    report({ digest, made: made.length, processors, threads: library.backendInfo().threads });`;

  const run = (threads: number, env: Record<string, string>) =>
    reportOf(step(threads), { env: { ...on('openmp'), ...env } }) as {
      digest: string;
      made: number;
      processors: string[];
      threads: number;
    };
  const digest = (): string => expectedDigest(LARGE);

  itUnless(either(noOpenMP, notLinux), 'should be followed: OMP_THREAD_LIMIT', () => {
    expect(run(7, { OMP_THREAD_LIMIT: '3' })).to.deep.include({ digest: digest(), made: 2, threads: 3 });
    expect(run(7, { OMP_THREAD_LIMIT: '1' })).to.deep.include({ digest: digest(), made: 0, threads: 1 });
  });

  const fewProcessors = availableParallelism() > 1 ? null : 'there is one processor';
  itUnless(either(noOpenMP, notLinux, fewProcessors), 'should be followed: OMP_PROC_BIND and OMP_PLACES', () => {
    for (const env of [{ OMP_PROC_BIND: 'true' }, { OMP_PROC_BIND: 'close', OMP_PLACES: 'threads' }]) {
      const { processors, ...rest } = run(2, env as Record<string, string>);
      expect(rest).to.deep.equal({ digest: digest(), made: 1, threads: 2 });
      expect(processors[0]).to.match(/^\d+$/);
    }
    // The thread that binds itself must not be taken for a process of one processor.
    const env = { ...on('openmp'), OMP_PROC_BIND: 'true' };
    const source = `
      const library = await import(libraryUrl);
      const before = library.backendInfo().threads;
      exampleDigest(library, ${JSON.stringify(LARGE)});
      report([before, library.backendInfo().threads]);`;
    const processors = loadBackend().addon?.availableProcessors;
    expect(reportOf(source, { env })).to.deep.equal([processors, processors]);
  });

  for (const env of [
    { OMP_WAIT_POLICY: 'active' },
    { OMP_WAIT_POLICY: 'passive' },
    { GOMP_SPINCOUNT: '0' },
    { OMP_DYNAMIC: 'true' },
    { OMP_STACKSIZE: '256k' },
    { OMP_NUM_THREADS: '3,2', OMP_MAX_ACTIVE_LEVELS: '2' },
  ] as Record<string, string>[]) {
    itUnless(either(noOpenMP, notLinux), `should change no bit: ${JSON.stringify(env)}`, () => {
      expect(run(4, env)).to.deep.include({ digest: digest(), made: 3, threads: 4 });
    });
  }

  const noLibgomp = /gomp/.test(info.library ?? '') ? null : 'the library is not libgomp';
  itUnless(either(noOpenMP, notLinux, noLibgomp), 'should say how long threads spin, or the package does', () => {
    const spinsOf = (env: Record<string, string>): number => {
      const child = runChild(INFO, { env: { ...on('openmp'), ...env, OMP_DISPLAY_ENV: 'verbose' } });
      expectExit(child, 0);
      return Number(/GOMP_SPINCOUNT = '(\d+)'/.exec(child.stderr)?.[1]);
    };
    expect(spinsOf({})).to.be.within(1, 100_000);
    expect(spinsOf({ GOMP_SPINCOUNT: '77' })).to.equal(77);
    expect(spinsOf({ OMP_WAIT_POLICY: 'passive' })).to.equal(0);
    expect(spinsOf({ OMP_WAIT_POLICY: 'active' })).to.be.above(1e9);
  });

  itUnless(either(noOpenMP, notLinux), 'should be what children of the process get, unchanged', () => {
    const source = `
      import { spawnSync } from 'node:child_process';
      const library = await import(libraryUrl);
      exampleDigest(library, ${JSON.stringify(LARGE)});
      const { stdout } = spawnSync('env', { encoding: 'utf8' });
      report([stdout, Object.keys(process.env).join('\\n')].map((text) => text.match(/^(OMP|GOMP|KMP)_.*$/gm)));`;
    expect(reportOf(source, { env: on('openmp') })).to.deep.equal([null, null]);
  });
});

describe('a machine without an OpenMP library', () => {
  const folder = temporaryFolder();

  /** The environment of a child where what the loader finds first under these names is no library. */
  const without = (env: Record<string, string>): Record<string, string> => {
    const hidden = join(folder.path, 'hidden');
    mkdirSync(hidden, { recursive: true });
    for (const name of ['libgomp.so.1', 'libomp.so.5', 'libomp.so', 'libiomp5.so']) {
      writeFileSync(join(hidden, name), 'not a library');
    }
    return { ...env, LD_LIBRARY_PATH: hidden };
  };

  itUnless(either(noNative, notLinux), 'should run the team, and say why', () => {
    const source = `
      const library = await import(libraryUrl);
      library.setNumThreads(2);
      const attempt = () => { try { library.setThreading('openmp'); } catch (e) { return e.name + ': ' + e.message; } };
      const { threading } = library.backendInfo();
      report({ threading, attempt: attempt(), digest: exampleDigest(library, ${JSON.stringify(LARGE)}) });`;
    const found = reportOf(source, { env: without(on('')) }) as {
      threading: { reason: string };
      attempt: string;
      digest: string;
    };
    const { reason: why } = found.threading;
    expect(why).to.match(/^.*libgomp\.so\.1: .+/);
    expect(found).to.deep.equal({
      threading: { runtime: 'team', available: ['team'], reason: why },
      attempt: `RangeError: Expected a usable runtime for runtime but received 'openmp' (${why})`,
      digest: expectedDigest(LARGE),
    });
  });

  itUnless(either(noNative, notLinux), 'should not be given what FUSED_ADAMW_THREADS asks for', () => {
    const child = runChild(INFO, { env: without(on('openmp')) });
    expectExit(child, 1);
    expect(child.stderr).to.match(
      /RangeError: Expected a usable runtime for FUSED_ADAMW_THREADS but received 'openmp' \(.*libgomp\.so\.1: .+\)/,
    );
    expect(reportOf(INFO, { env: without(on('team')) })).to.include({ runtime: 'team' });
  });
});

for (const runtime of RUNTIMES) {
  describe(`threads that come and go (${runtime})`, () => {
    const folder = temporaryFolder();
    const noRuntime = either(noNative, unusable(runtime));

    /** Makes workers of a process whose main thread never loads the package, each with a step on two threads. */
    const workers = `
      import { Worker } from 'node:worker_threads';
      const start = () => new Worker(\`(async () => {
        const { exampleDigest } = await import(\${JSON.stringify(exampleUrl)});
        const library = await import(\${JSON.stringify(libraryUrl)});
        library.setNumThreads(2);
        const digest = exampleDigest(library, ${JSON.stringify(LARGE)});
        require('node:worker_threads').parentPort.postMessage([digest, library.backendInfo().threading.runtime]);
      })()\`, { eval: true, execArgv: [] });
      const ended = (worker) => new Promise((resolve, reject) => {
        let message;
        worker.on('message', (value) => { message = value; });
        worker.on('error', reject);
        worker.on('exit', () => resolve(message));
      });`;
    const expectEach = (source: string, count: number): void => {
      const reports = reportsOf(runChild(workers + source, { env: on(runtime), timeout: 120 }));
      expect(reports).to.deep.equal(Array.from({ length: count }, () => [expectedDigest(LARGE), runtime]));
    };

    itUnless(noRuntime, 'should serve 30 workers in turn', () => {
      expectEach(`for (let i = 0; i < 30; i++) report(await ended(start()));`, 30);
    });

    itUnless(noRuntime, 'should serve workers at the same time', () => {
      expectEach(`for (const worker of Array.from({ length: 4 }, start).map(ended)) report(await worker);`, 4);
    });

    itUnless(noRuntime, 'should let the process end in the middle of steps', () => {
      for (let i = 0; i < 4; i++) {
        const source = `${workers}
          for (let i = 0; i < 3; i++) start();
          setTimeout(() => process.exit(3), ${100 + 20 * i});`;
        expectExit(runChild(source, { env: on(runtime) }), 3);
      }
    });

    // Root is above all limits, so it becomes somebody of whom there are no other processes.
    const user = process.getuid?.() === 0 ? 54_322 : undefined;
    const noLimits =
      spawnSync('prlimit', ['--version']).status !== 0
        ? 'there is no prlimit'
        : spawnSync(process.execPath, ['--version'], { uid: user, gid: user }).status !== 0
          ? 'no other user can run node'
          : null;
    const alone = (): ChildOptions => {
      const root = join(folder.path, 'package');
      if (!existsSync(root)) copyPackage(root, loadBackend().path ?? undefined);
      return { root, user, env: on(runtime) };
    };

    itUnless(either(noRuntime, notLinux, noLimits), 'should be asked for again after the system refused them', () => {
      const hard = /Max processes\s+\S+\s+(\S+)/.exec(readFileSync('/proc/self/limits', 'utf8'))?.[1];
      // A shell, started before there is a limit, takes it away again.
      const source = `
        import { spawn, spawnSync } from 'node:child_process';
        import { readdirSync } from 'node:fs';
        const library = await import(libraryUrl);
        library.setNumThreads(7);
        const tasks = () => readdirSync('/proc/self/task').length;
        const step = () => {
          const before = tasks();
          const digest = exampleDigest(library, ${JSON.stringify(LARGE)});
          return [digest, tasks() - before, library.backendInfo().threads];
        };
        const shell = spawn('sh', [], { stdio: ['pipe', 'pipe', 'inherit'] });
        const limit = (soft) => new Promise((resolve) => {
          shell.stdout.once('data', resolve);
          shell.stdin.write('prlimit --pid ' + process.pid + ' --nproc=' + soft + ':; echo done\\n');
        });
        await limit(1);
        report(step());
        report(step());
        await limit('${hard}');
        await new Promise((resolve) => setTimeout(resolve, 100));
        report(step());
        report(step());
        shell.stdin.end();`;
      const digest = expectedDigest(LARGE);
      const reports = reportsOf(runChild(source, alone()));
      expect(reports).to.deep.equal([
        [digest, 0, 1],
        [digest, 0, 1],
        [digest, 6, 7],
        [digest, 0, 7],
      ]);
    });
  });
}
