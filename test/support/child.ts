/** Child processes, for what a test must not do in its own. */
import { type SpawnSyncReturns, spawnSync } from 'node:child_process';
import { chmodSync, cpSync, mkdirSync, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { fileURLToPath, pathToFileURL } from 'node:url';
import { expect } from 'chai';
import * as library from '../../lib/index.js';
import { inEnvironment, TYPESCRIPT } from './environments.js';
import { type ExampleOptions, exampleDigest } from './example-step.js';

// This file is dist/test/support/child.js.
export const repository = fileURLToPath(new URL('../../../', import.meta.url));

export interface ChildOptions {
  /**
   * In place of all FUSED_ADAMW_*, OMP_* and GOMP_* of this process but
   * FUSED_ADAMW_BACKEND, FUSED_ADAMW_THREADS and, for this package, FUSED_ADAMW_BINARY.
   */
  readonly env?: Readonly<Record<string, string>>;
  /** Options of node itself. */
  readonly flags?: readonly string[];
  /** Root of the package; by default this one. */
  readonly root?: string;
  /** A command before node's, such as one that sets limits. */
  readonly prefix?: readonly string[];
  /** User and group that it runs as. */
  readonly user?: number;
  /** Seconds after which it is killed. Default 60. */
  readonly timeout?: number;
}

export type Child = SpawnSyncReturns<string>;

/**
 * Runs an ES module in a new process. In scope are `libraryUrl` to import the
 * package from, the exports of example-step.ts (and `exampleUrl` for workers),
 * and `report(value)` for results.
 */
export function runChild(source: string, options: ChildOptions = {}): Child {
  const { flags = [], root = repository, prefix = [], user, timeout = 60 } = options;
  const url = (path: string): string => JSON.stringify(pathToFileURL(join(root, 'dist', path)).href);
  const module = `
    import { digestOf, exampleDigest, exampleStep, makeExample } from ${url('test/support/example-step.js')};
    const libraryUrl = ${url('lib/index.js')};
    const exampleUrl = ${url('test/support/example-step.js')};
    const report = (value) => console.log('report: ' + JSON.stringify(value));
    ${source}`;
  const command = [...prefix, process.execPath, ...flags, '--input-type=module', '--eval', module];
  const kept = Object.entries(process.env).filter(
    ([name]) => !/^(FUSED_ADAMW_(?!BACKEND|THREADS)|OMP_|GOMP_)/.test(name),
  );
  const binary = root === repository ? process.env.FUSED_ADAMW_BINARY : undefined;
  // A sanitizer's runtime comes first, and in every process that loads its addon.
  const preloaded = [process.env.LD_PRELOAD, options.env?.LD_PRELOAD].filter((each) => each).join(':');
  return spawnSync(command[0], command.slice(1), {
    cwd: root,
    encoding: 'utf8',
    env: {
      ...Object.fromEntries(kept),
      FUSED_ADAMW_BINARY: binary,
      ...options.env,
      LD_PRELOAD: preloaded || undefined,
    },
    timeout: timeout * 1000,
    uid: user,
    gid: user,
  });
}

/** The values that a child reported, in order. It must have exited with status 0. */
export function reportsOf(child: Child): unknown[] {
  expectExit(child, 0);
  return child.stdout
    .split('\n')
    .filter((line) => line.startsWith('report: '))
    .map((line) => JSON.parse(line.slice('report: '.length)));
}

/** Runs a module that must exit with status 0, and returns the last value that it reported. */
export function reportOf(source: string, options: ChildOptions = {}): unknown {
  return reportsOf(runChild(source, options)).at(-1);
}

/** Asserts the exit status of a child, and that no signal ended it. */
export function expectExit(child: Child, status: number): void {
  const { signal, stdout, stderr } = child;
  expect({ signal, status: child.status }, `${child.error ?? ''}\n${stdout}\n${stderr}`).to.deep.equal({
    signal: null,
    status,
  });
}

const expectedDigests = new Map<string, string>();

/** The digest that exampleDigest() must have everywhere: that of the TypeScript backend here. */
export function expectedDigest(options: ExampleOptions): string {
  const key = JSON.stringify(options);
  const known = expectedDigests.get(key);
  if (known !== undefined) return known;
  const digest = inEnvironment(TYPESCRIPT, () => exampleDigest(library, options));
  expectedDigests.set(key, digest);
  return digest;
}

/** A folder that exists while the tests of a suite run. */
export function temporaryFolder(): { readonly path: string } {
  const folder = { path: '' };
  before(() => {
    folder.path = mkdtempSync(join(tmpdir(), 'fused-adamw-'));
    chmodSync(folder.path, 0o755); // some children run as another user
  });
  after(() => rmSync(folder.path, { recursive: true, force: true }));
  return folder;
}

/**
 * A copy of what the package needs at run time, readable by every user.
 *
 * @param binary taken as its addon, if there is one
 * @param place where the addon goes
 */
export function copyPackage(folder: string, binary?: string, place = 'build/Release/fused_adamw.node'): string {
  const copied = [
    'package.json',
    'dist/bin',
    'dist/lib',
    'dist/test/support/example-step.js',
    'node_modules/@petamoriken/float16/package.json',
    'node_modules/@petamoriken/float16/lib',
  ];
  for (const path of copied) cpSync(join(repository, path), join(folder, path), { recursive: true });
  if (binary !== undefined) {
    const target = join(folder, place);
    mkdirSync(dirname(target), { recursive: true });
    cpSync(binary, target);
  }
  return folder;
}
