/** The environments that a step can run in here, for one suite over all of them. */
import { expect } from 'chai';
import { loadBackend, switchBackend } from '../../lib/backend/index.js';
import { backendInfo, setNumThreads } from '../../lib/index.js';

export interface Environment {
  readonly name: string;
  readonly backend: 'native' | 'javascript';
  readonly isa?: string;
  readonly threads?: number;
}

export const TYPESCRIPT: Environment = { name: 'TypeScript', backend: 'javascript' };

const THREADS = [1, 2, 7];

/** The addon of this process, unless it does not load or FUSED_ADAMW_BACKEND is javascript. */
const { addon } = loadBackend();

/** Every instruction set of this machine (with each number of threads, if asked for), then TypeScript. */
export function environments(options: { readonly threads?: boolean } = {}): Environment[] {
  const native = (addon?.isas ?? []).flatMap((isa) =>
    options.threads
      ? THREADS.map((threads) => ({ name: `${isa}, threads: ${threads}`, backend: 'native' as const, isa, threads }))
      : [{ name: isa, backend: 'native' as const, isa }],
  );
  return [...native, TYPESCRIPT];
}

/** Runs a function in an environment, asserts that it is active, and restores the previous one. */
export function inEnvironment<T>(environment: Environment, run: () => T): T {
  const leave = enter(environment);
  try {
    return run();
  } finally {
    leave();
  }
}

/** The same for what returns a promise: the environment is there until that is settled. */
export async function inEnvironmentAsync<T>(environment: Environment, run: () => Promise<T>): Promise<T> {
  const leave = enter(environment);
  try {
    return await run();
  } finally {
    leave();
  }
}

/** What is returned restores the previous environment. */
function enter(environment: Environment): () => void {
  const before = backendInfo();
  const leave = (): void => {
    switchBackend(before.backend);
    if (before.native.available) addon?.setIsa(before.native.isa);
    setNumThreads(null);
  };
  try {
    switchBackend(environment.backend);
    if (environment.isa !== undefined) expect(addon?.setIsa(environment.isa)).to.equal(true);
    if (environment.threads !== undefined) setNumThreads(environment.threads);
    const now = backendInfo();
    expect(now.backend).to.equal(environment.backend);
    if (environment.isa !== undefined) expect(now.native).to.include({ isa: environment.isa });
    if (environment.threads !== undefined) expect(now.threads).to.equal(environment.threads);
    return leave;
  } catch (error) {
    leave();
    throw error;
  }
}

/** Runs a function on the native backend, on the instruction set that it prefers. */
export function inNative<T>(run: () => T): T {
  const native = environments().find(({ backend }) => backend === 'native');
  if (!native) throw new Error('the native backend does not run');
  return inEnvironment(native, run);
}
