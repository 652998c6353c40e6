/** Other libraries, each in its own process, which answers requests in JSON lines (peers/peers.py, peers/tfjs.ts). */
import { type ChildProcessWithoutNullStreams, spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync } from 'node:fs';
import { delimiter, dirname, join } from 'node:path';
import { createInterface, type Interface } from 'node:readline';
import { fileURLToPath } from 'node:url';
import { elementsOf, LARGE, ONLY_LARGE } from '../cases.js';
import { type CaseContext, type Contender, HASHED_STEPS, type Runner } from './contender.js';

interface Answer {
  readonly error?: string;
  readonly absent?: Readonly<Record<string, string>>;
  readonly versions?: Readonly<Record<string, string>>;
  readonly ns?: readonly number[];
  readonly sha256?: string;
}

/** A process that holds the arrays of one case at a time. */
class Peer {
  readonly #command: readonly string[];
  readonly #requirement: { readonly file: string; readonly remedy: string };
  readonly #device: string;
  #child: ChildProcessWithoutNullStreams | null = null;
  #lines: Interface | null = null;
  /** The answer to every request once the process has ended. */
  #ended: Promise<Answer> = new Promise(() => {});
  /** The last line of its standard error. */
  #said = '';
  #versions: Readonly<Record<string, string>> = {};
  /** Names of the contenders that use the arrays. */
  readonly #users = new Set<string>();
  #absent: Readonly<Record<string, string>> = {};

  constructor(command: readonly string[], requirement: { file: string; remedy: string }, device = 'cpu') {
    this.#command = command;
    this.#requirement = requirement;
    this.#device = device;
  }

  get versions(): Readonly<Record<string, string>> {
    return this.#versions;
  }

  /** @returns the reason as a string if the contender cannot run this case here */
  async open(name: string, context: CaseContext): Promise<Runner | string> {
    const { file, remedy } = this.#requirement;
    if (!existsSync(file)) return remedy;
    if (this.#users.size === 0) {
      const { lengths, config } = context.case;
      this.#start(context.threads);
      const hello = await this.#request({ do: 'hello' });
      if (hello.error) return hello.error;
      this.#versions = hello.versions ?? {};
      const device = this.#device;
      const request = { do: 'setup', lengths, dtype: config, device, threads: context.threads, contenders: [name] };
      const setup = await this.#request(request);
      if (setup.error) return setup.error;
      this.#absent = setup.absent ?? {};
    }
    if (this.#absent[name]) return this.#absent[name];
    this.#users.add(name);
    return {
      run: async (steps) => {
        const { ns, error } = await this.#request({ do: 'run', contender: name, steps });
        if (!ns) throw new Error(error);
        return ns.reduce((sum, time) => sum + time, 0) / ns.length;
      },
      close: () => this.#close(name),
    };
  }

  async hashAfter(name: string, steps: number): Promise<string | undefined> {
    await this.#request({ do: 'run', contender: name, steps });
    return (await this.#request({ do: 'hash' })).sha256;
  }

  async end(): Promise<void> {
    if (!this.#child) return;
    this.#child.stdin.end();
    await this.#ended;
    this.#child = null;
  }

  #start(threads: number): void {
    if (this.#child) return;
    const [file, ...rest] = this.#command;
    // DeepSpeed compiles itself with the ninja in its environment.
    const PATH = [dirname(file), process.env.PATH].join(delimiter);
    const env = { ...process.env, PATH, OMP_NUM_THREADS: String(threads) };
    this.#child = spawn(file, rest, { env });
    this.#child.stdin.on('error', () => {}); // the process ended, as the answer says
    this.#child.stderr.on('data', (data) => {
      this.#said = String(data).trim().split('\n').at(-1) ?? '';
    });
    this.#lines = createInterface(this.#child.stdout);
    this.#ended = once(this.#child, 'close').then(() => ({ error: `its process ended: ${this.#said}` }));
  }

  async #request(request: object): Promise<Answer> {
    const { stdin } = this.#child as ChildProcessWithoutNullStreams;
    const line = once(this.#lines as Interface, 'line').then(([text]): Answer => JSON.parse(text));
    stdin.write(`${JSON.stringify(request)}\n`);
    return Promise.race([line, this.#ended]);
  }

  async #close(name: string): Promise<void> {
    this.#users.delete(name);
    if (this.#users.size === 0) await this.#request({ do: 'release' });
  }
}

interface PeerContender {
  readonly name: string;
  readonly peer: Peer;
  /** The peer's name for it. */
  readonly contender: string;
  readonly byDefault?: boolean;
  /** Whether its weights must equal those of this package bit for bit. */
  readonly hasSameBits?: boolean;
  readonly mostElements?: number;
  readonly leastElements?: number;
}

function contender({
  name,
  peer,
  contender,
  byDefault,
  hasSameBits,
  mostElements,
  leastElements = 0,
}: PeerContender): Contender {
  return {
    name,
    kind: 'peer',
    byDefault: byDefault ?? true,
    async open(context) {
      if (mostElements !== undefined && elementsOf(context.case) > mostElements) return 'a step takes minutes';
      if (elementsOf(context.case) < leastElements) return ONLY_LARGE;
      const runner = await peer.open(contender, context);
      if (typeof runner === 'string' || !hasSameBits) return runner;
      return { ...runner, hash: await peer.hashAfter(contender, HASHED_STEPS) };
    },
    end: () => peer.end(),
  };
}

// This file is dist/bench/contenders/peer.js.
const root = fileURLToPath(new URL('../../../', import.meta.url));

function pythonOf(environment: string): string {
  return join(root, `.peers/${environment}/bin/python`);
}

function python(environment: string, library: string): Peer {
  const file = pythonOf(environment);
  const remedy = 'its Python environment is not made: npm run bench:peers';
  return new Peer([file, join(root, 'bench/peers/peers.py'), library], { file, remedy });
}

function tfjs(backend: 'cpu' | 'wasm'): Peer {
  const file = join(root, 'node_modules/@tensorflow/tfjs-core/package.json');
  const script = join(root, 'dist/bench/peers/tfjs.js');
  return new Peer([process.execPath, script, backend], { file, remedy: 'tf.js is not installed: npm ci' });
}

const torch = python('torch', 'torch');
const deepspeed = python('torch', 'deepspeed');
const mxnet = python('mxnet', 'mxnet');
const tfjsCpu = tfjs('cpu');
const tfjsWasm = tfjs('wasm');
const ALL_PEERS = [torch, deepspeed, mxnet, tfjsCpu, tfjsWasm];

export const PYTORCH_FUSED = 'PyTorch fused';
const PYTORCH_AROUND = 'PyTorch fused, clipped, cleared';

export const PEERS: readonly Contender[] = [
  contender({ name: PYTORCH_FUSED, peer: torch, contender: 'fused' }),
  contender({ name: PYTORCH_AROUND, peer: torch, contender: 'around', leastElements: LARGE }),
  contender({ name: 'PyTorch foreach', peer: torch, contender: 'foreach' }),
  contender({ name: 'DeepSpeed CPUAdam', peer: deepspeed, contender: 'CPUAdam' }),
  contender({ name: 'MXNet fused', peer: mxnet, contender: 'fused', hasSameBits: true }),
  contender({ name: 'tf.js cpu', peer: tfjsCpu, contender: 'adam', mostElements: 4 * 2 ** 20 }),
  contender({ name: 'tf.js wasm', peer: tfjsWasm, contender: 'adam', mostElements: 16 * 2 ** 20 }),
  contender({ name: 'tf.js cpu, adamw', peer: tfjsCpu, contender: 'adamw' }),
  contender({ name: 'tf.js wasm, adamw', peer: tfjsWasm, contender: 'adamw' }),
];

/** PyTorch on a GPU: from the environment that bench:peers made, or else the machine's python3. */
const torchOnCuda = (() => {
  const script = join(root, 'bench/peers/peers.py');
  const made = pythonOf('torch');
  const python = existsSync(made) ? made : 'python3';
  return new Peer([python, script, 'torch'], { file: script, remedy: '' }, 'cuda');
})();

export const TORCH_ON_CUDA: readonly Contender[] = [
  contender({ name: PYTORCH_FUSED, peer: torchOnCuda, contender: 'fused' }),
  contender({ name: PYTORCH_AROUND, peer: torchOnCuda, contender: 'around' }),
  contender({ name: 'PyTorch foreach', peer: torchOnCuda, contender: 'foreach' }),
];

/** Versions of the libraries that ran. */
export function peerVersions(): Readonly<Record<string, string>> {
  return Object.assign({}, ...[...ALL_PEERS, torchOnCuda].map((peer) => peer.versions));
}
