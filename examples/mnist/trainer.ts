/** Trainer: AdamW over the parameters of a network. */
import { AdamW, type BoundStep, CosineScheduler, type Device, Tensor } from 'fused-adamw';
import type { Parameter } from './network.js';

export interface TrainerOptions {
  /** Steps of the whole training; the learning rate is zero at its end. */
  readonly steps: number;
  /** Highest learning rate, reached after 5% of the steps. */
  readonly learningRate: number;
  readonly device: Device | 'auto';
}

const WEIGHT_DECAY = 0.05;
const WARMUP = 1 / 20;

export class Trainer {
  readonly #optimizer: AdamW;
  readonly #bound: BoundStep;
  readonly #weights: readonly Mirror[];
  readonly #gradients: readonly Mirror[];
  #steps = 0;
  #milliseconds = 0;

  constructor(parameters: readonly Parameter[], options: TrainerOptions) {
    this.#optimizer = new AdamW({
      wd: WEIGHT_DECAY,
      lrScheduler: new CosineScheduler({
        baseLr: options.learningRate,
        warmupSteps: Math.floor(options.steps * WARMUP),
        maxUpdate: options.steps,
      }),
    });
    const names = parameters.map(({ name }) => name);
    const biases = names.filter((name) => name.endsWith('.bias'));
    this.#optimizer.setWdMult(Object.fromEntries(biases.map((name) => [name, 0]))); // biases do not decay

    this.#weights = parameters.map(({ weight, shape }) => mirror(weight, shape, options.device));
    this.#gradients = parameters.map(({ gradient, shape }) => mirror(gradient, shape, options.device));
    const weights = this.#weights.map(({ used }) => used);
    const gradients = this.#gradients.map(({ used }) => used);
    const states = weights.map((weight, i) => this.#optimizer.createState(names[i], weight));
    this.#bound = this.#optimizer.bind(names, weights, gradients, states);
  }

  /**
   * Updates the weights by the summed gradients of a batch.
   *
   * @param batchSize examples in the batch, to divide the sums by
   */
  step(batchSize: number): void {
    const start = performance.now();
    this.#optimizer.rescaleGrad = 1 / batchSize;
    for (const { network, used } of this.#gradients) if (used !== network) used.copyFrom(network);
    this.#bound.step();
    for (const { network, used } of this.#weights) if (used !== network) network.copyFrom(used);
    this.#milliseconds += performance.now() - start;
    this.#steps++;
  }

  /** Where the weights are updated. */
  get device(): string {
    return this.#weights[0].used.device;
  }

  get steps(): number {
    return this.#steps;
  }

  /** Total time of all steps. */
  get milliseconds(): number {
    return this.#milliseconds;
  }
}

/** An array of the network, and where the optimizer uses it: the same memory, or a copy on a GPU. */
interface Mirror {
  readonly network: Tensor;
  readonly used: Tensor;
}

function mirror(data: Float32Array, shape: readonly number[], device: Device | 'auto'): Mirror {
  const network = Tensor.from(data, { shape });
  return { network, used: network.to(device) };
}
