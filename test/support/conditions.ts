/** What tests require of the machine. A test that cannot run here is pending, with the reason in its title. */
import { spawnSync } from 'node:child_process';
import { createRequire } from 'node:module';
import type { Func } from 'mocha';
import { backendInfo, type Float16ArrayLike } from '../../lib/index.js';

/** A test, or a pending one whose title gives the reason why it cannot run here. */
export function itUnless(reason: string | null, title: string, body: Func): void {
  if (reason === null) it(title, body);
  else it(`${title} (not here: ${reason})`);
}

/** The first reason that is not null. */
export function either(...reasons: (string | null)[]): string | null {
  return reasons.find((reason) => reason !== null) ?? null;
}

const { native, cuda } = backendInfo();

/** Why nothing native runs in this process, or null. */
export const noNative: string | null = native.available ? null : native.reason;

/** The addon's file; empty where nothing native runs. */
export const binary: string = native.available ? native.path : '';

/** Why no GPU can be used in this process, or null. */
export const noCuda: string | null = cuda.available ? null : cuda.reason;

export const Float16Array: (new (values: readonly number[]) => Float16ArrayLike & ArrayLike<number>) | undefined =
  Reflect.get(globalThis, 'Float16Array');
export const noFloat16Array: string | null = Float16Array ? null : 'this engine has no Float16Array';

/** Collects garbage; undefined if Node runs without --expose-gc. */
export const collectGarbage = (globalThis as { gc?: () => void }).gc;
export const noGc: string | null = collectGarbage ? null : 'node runs without --expose-gc';

const compiler = process.env.CC || 'cc';

/** Why no C can be compiled, or null. */
export const noCompiler: string | null =
  spawnSync(compiler, ['--version']).status === 0 ? null : `there is no C compiler ${compiler}`;

export const notLinux: string | null = process.platform === 'linux' ? null : `${process.platform} is not Linux`;

/** Compiles C to a shared library. */
export function compileLibrary(source: string, target: string, flags: readonly string[] = []): void {
  const { include_dir } = createRequire(import.meta.url)('node-api-headers') as { include_dir: string };
  const undefinedSymbols = process.platform === 'darwin' ? ['-undefined', 'dynamic_lookup'] : [];
  const args = [
    '-shared',
    '-fPIC',
    '-O1',
    '-Wall',
    ...flags,
    ...undefinedSymbols,
    `-I${include_dir}`,
    '-o',
    target,
    source,
  ];
  const { status, stderr } = spawnSync(compiler, args, { encoding: 'utf8' });
  if (status !== 0) throw new Error(`${compiler} ${args.join(' ')}: ${stderr}`);
}

/** Runs a function with GPUs turned off. */
export function withoutCuda<T>(run: () => T): T {
  const before = process.env.FUSED_ADAMW_DEVICE;
  process.env.FUSED_ADAMW_DEVICE = 'cpu';
  try {
    return run();
  } finally {
    if (before === undefined) delete process.env.FUSED_ADAMW_DEVICE;
    else process.env.FUSED_ADAMW_DEVICE = before;
  }
}
