/** A multilayer perceptron: fully connected layers with ReLU between them, softmax and cross-entropy at the end. */
import { addGradients, backward, createLayer, forward, type Layer } from './layer.js';
import type { Random } from './random.js';

export interface Parameter {
  /** 'layer1.weight', 'layer1.bias', 'layer2.weight' ... */
  readonly name: string;
  readonly shape: readonly number[];
  readonly weight: Float32Array;
  readonly gradient: Float32Array;
}

export class Network {
  readonly sizes: readonly number[];
  readonly parameters: readonly Parameter[];
  readonly #layers: readonly Layer[];
  /** The output of each layer for one example, after ReLU; that of the last layer is the scores of the classes. */
  readonly #outputs: readonly Float32Array[];
  /** The gradient of the loss with respect to each of them. */
  readonly #gradients: readonly Float32Array[];

  /** @param sizes of the input, the hidden layers and the output, such as [784, 128, 10] */
  constructor(sizes: readonly number[], random: Random) {
    this.sizes = sizes;
    this.#layers = sizes.slice(1).map((outputs, i) => createLayer(sizes[i], outputs, random));
    this.#outputs = this.#layers.map((layer) => new Float32Array(layer.outputs));
    this.#gradients = this.#layers.map((layer) => new Float32Array(layer.outputs));
    this.parameters = this.#layers.flatMap((layer, i) => parametersOf(layer, `layer${i + 1}`));
  }

  /**
   * The probability of each class.
   *
   * @param image [sizes[0]]
   * @returns [classes]; overwritten by the next call
   */
  predict(image: Float32Array): Float32Array {
    const scores = this.#forward(image);
    softmax(scores);
    return scores;
  }

  /**
   * Adds the gradients of one example to those of the batch.
   *
   * @param image [sizes[0]]
   * @returns the loss: minus the logarithm of the probability of the right class
   */
  learn(image: Float32Array, label: number): number {
    const scores = this.#forward(image);
    const loss = softmax(scores, label);
    const last = this.#layers.length - 1;
    // The gradient of cross-entropy after softmax: the predicted probabilities minus the true ones.
    this.#gradients[last].set(scores);
    this.#gradients[last][label] -= 1;
    for (let i = last; i > 0; i--) {
      addGradients(this.#layers[i], this.#outputs[i - 1], this.#gradients[i]);
      backward(this.#layers[i], this.#outputs[i - 1], this.#gradients[i], this.#gradients[i - 1]);
    }
    addGradients(this.#layers[0], image, this.#gradients[0]);
    return loss;
  }

  clearGradients(): void {
    for (const { gradient } of this.parameters) gradient.fill(0);
  }

  #forward(image: Float32Array): Float32Array {
    let input = image;
    this.#layers.forEach((layer, i) => {
      const output = this.#outputs[i];
      forward(layer, input, output);
      if (i < this.#layers.length - 1) relu(output);
      input = output;
    });
    return input;
  }
}

function parametersOf(layer: Layer, name: string): Parameter[] {
  const { inputs, outputs, weight, bias, weightGradient, biasGradient } = layer;
  return [
    { name: `${name}.weight`, shape: [inputs, outputs], weight, gradient: weightGradient },
    { name: `${name}.bias`, shape: [outputs], weight: bias, gradient: biasGradient },
  ];
}

function relu(values: Float32Array): void {
  for (let i = 0; i < values.length; i++) if (values[i] < 0) values[i] = 0;
}

/** Turns scores into probabilities, in place. Returns minus the logarithm of the probability of `label`. */
function softmax(scores: Float32Array, label = 0): number {
  const highest = scores.reduce((a, b) => Math.max(a, b));
  const score = scores[label] - highest;
  let sum = 0;
  for (let i = 0; i < scores.length; i++) {
    scores[i] = Math.exp(scores[i] - highest);
    sum += scores[i];
  }
  for (let i = 0; i < scores.length; i++) scores[i] /= sum;
  return Math.log(sum) - score;
}
