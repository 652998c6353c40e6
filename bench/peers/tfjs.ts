/**
 * tf.js with its own tf.train.adam (without weight decay: it has no AdamW) and with this package's optimizer, in a
 * process that answers the same requests as peers.py.
 *
 *     node dist/bench/peers/tfjs.js cpu|wasm
 */
import { createRequire } from 'node:module';
import { dirname } from 'node:path';
import { createInterface } from 'node:readline';
import { setTimeout as sleep } from 'node:timers/promises';
import '@tensorflow/tfjs-backend-cpu';
import { setWasmPaths } from '@tensorflow/tfjs-backend-wasm';
import * as tf from '@tensorflow/tfjs-core';
import { adamw } from '../../adapters/tfjs.js';
import { OPTIONS } from '../arrays.js';

const backend = process.argv[2];
const answer = (value: object): boolean => process.stdout.write(`${JSON.stringify(value)}\n`);
console.log = console.error; // standard output is for answers

async function load(): Promise<void> {
  setWasmPaths(`${dirname(createRequire(import.meta.url).resolve('@tensorflow/tfjs-backend-wasm'))}/`);
  await tf.setBackend(backend);
  await tf.ready();
}

const OPTIMIZERS: Readonly<Record<string, () => tf.Optimizer>> = {
  adam: () => tf.train.adam(OPTIONS.learningRate, OPTIONS.beta1, OPTIONS.beta2, OPTIONS.epsilon),
  adamw: () => adamw(OPTIONS),
};

/** An optimizer with its variables and their gradients. */
class Step {
  readonly #weights: tf.Variable[];
  readonly #gradients: Record<string, tf.Tensor> = {};
  readonly #optimizer: tf.Optimizer;

  constructor(contender: string, lengths: readonly number[]) {
    this.#optimizer = OPTIMIZERS[contender]();
    this.#weights = lengths.map((length) => tf.tidy(() => tf.variable(tf.fill([length], 0.25))));
    this.#weights.forEach((weight, i) => {
      this.#gradients[weight.name] = tf.fill([lengths[i]], 0.125);
    });
  }

  /** Nanoseconds of a step. */
  run(): number {
    const start = process.hrtime.bigint();
    this.#optimizer.applyGradients(this.#gradients as tf.NamedTensorMap);
    return Number(process.hrtime.bigint() - start);
  }

  dispose(): void {
    this.#optimizer.dispose();
    tf.dispose([...this.#weights, ...Object.values(this.#gradients)]);
  }
}

interface Request {
  readonly do: string;
  readonly contender: string;
  readonly lengths: readonly number[];
  readonly dtype: string;
  readonly steps: number;
}

let lengths: readonly number[] = [];
const steps = new Map<string, Step>();

function stepOf(contender: string): Step {
  const step = steps.get(contender) ?? new Step(contender, lengths);
  steps.set(contender, step);
  return step;
}

async function handle(request: Request): Promise<object> {
  switch (request.do) {
    case 'hello':
      await load();
      return { versions: { 'tf.js': tf.version_core }, contenders: Object.keys(OPTIMIZERS) };
    case 'setup':
      if (request.dtype !== 'float32') {
        return { absent: Object.fromEntries(Object.keys(OPTIMIZERS).map((name) => [name, 'tf.js has float32 alone'])) };
      }
      lengths = request.lengths;
      return {};
    case 'run': {
      const step = stepOf(request.contender);
      const ns = Array.from({ length: request.steps }, () => step.run());
      await sleep(5); // the threads of wasm come to rest
      return { ns };
    }
    case 'release':
      for (const step of steps.values()) step.dispose();
      steps.clear();
      return {};
    default:
      return { error: `Expected a request but received ${request.do}` };
  }
}

for await (const line of createInterface(process.stdin)) {
  try {
    answer(await handle(JSON.parse(line)));
  } catch (error) {
    answer({ error: String(error) });
  }
}
