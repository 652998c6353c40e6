/**
 * tf.train.adam of tf.js, which Node users have without this package, in a process
 * that answers the same requests as peers.py.
 *
 *     node dist/bench/peers/tfjs.js cpu|wasm
 *
 * Adam without weight decay: tf.js has no AdamW.
 */
import { createRequire } from 'node:module';
import { dirname, join } from 'node:path';
import { createInterface } from 'node:readline';
import { setTimeout as sleep } from 'node:timers/promises';
import { OPTIONS } from '../arrays.js';

interface Variable {
  readonly name: string;
  dispose(): void;
}

/** The part of tf.js that is used here: its own declarations need those of a browser. */
interface TensorFlow {
  setBackend(name: string): Promise<boolean>;
  ready(): Promise<void>;
  env(): { set(flag: string, value: boolean): void };
  tensor1d(values: Float32Array): Variable & { dataSync(): Float32Array };
  variable(tensor: Variable, trainable: boolean, name: string): Variable & { dataSync(): Float32Array };
  train: {
    adam(
      learningRate: number,
      beta1: number,
      beta2: number,
      epsilon: number,
    ): {
      applyGradients(gradients: Record<string, Variable>): void;
      dispose(): void;
    };
  };
  readonly version_core: string;
}

const require = createRequire(import.meta.url);
const backend = process.argv[2];
const answer = (value: object): boolean => process.stdout.write(`${JSON.stringify(value)}\n`);
console.log = console.error; // standard output is for answers

async function load(): Promise<TensorFlow> {
  const tf: TensorFlow = require('@tensorflow/tfjs-core');
  const loaded = require(`@tensorflow/tfjs-backend-${backend}`);
  if (backend === 'wasm') {
    loaded.setWasmPaths(join(dirname(require.resolve('@tensorflow/tfjs-backend-wasm')), '/'));
  }
  await tf.setBackend(backend);
  await tf.ready();
  return tf;
}

class Step {
  readonly #weights: ReturnType<TensorFlow['variable']>[] = [];
  readonly #gradients: Record<string, Variable> = {};
  readonly #optimizer: ReturnType<TensorFlow['train']['adam']>;

  constructor(tf: TensorFlow, lengths: readonly number[]) {
    this.#optimizer = tf.train.adam(OPTIONS.learningRate, OPTIONS.beta1, OPTIONS.beta2, OPTIONS.epsilon);
    lengths.forEach((length, i) => {
      const weight = tf.variable(tf.tensor1d(new Float32Array(length).fill(0.25)), true, `weight${i}`);
      this.#weights.push(weight);
      this.#gradients[weight.name] = tf.tensor1d(new Float32Array(length).fill(0.125));
    });
  }

  run(): number {
    const start = process.hrtime.bigint();
    this.#optimizer.applyGradients(this.#gradients);
    this.#weights.at(-1)?.dataSync();
    return Number(process.hrtime.bigint() - start);
  }

  dispose(): void {
    this.#optimizer.dispose();
    for (const variable of [...this.#weights, ...Object.values(this.#gradients)]) variable.dispose();
  }
}

let tf: TensorFlow | undefined;
let step: Step | undefined;

async function handle(request: { do: string; lengths: number[]; dtype: string; steps: number }): Promise<object> {
  tf ??= await load();
  switch (request.do) {
    case 'hello':
      return { versions: { 'tf.js': tf.version_core }, contenders: ['adam'] };
    case 'setup':
      if (request.dtype !== 'float32') return { absent: { adam: 'tf.js has float32 alone' } };
      step = new Step(tf, request.lengths);
      return {};
    case 'run': {
      const ns: number[] = [];
      for (let i = 0; i < request.steps; i++) ns.push((step as Step).run());
      await sleep(5); // the threads of wasm come to rest
      return { ns };
    }
    case 'release':
      step?.dispose();
      step = undefined;
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
