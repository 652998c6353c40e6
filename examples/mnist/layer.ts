/** A fully connected layer: output = input x weight + bias. */
import type { Random } from './random.js';

export interface Layer {
  readonly inputs: number;
  readonly outputs: number;
  /** Shape [inputs, outputs], row by row. */
  readonly weight: Float32Array;
  /** Shape [outputs]. */
  readonly bias: Float32Array;
  /** Gradients of the loss, summed over the examples of a batch; shapes as above. */
  readonly weightGradient: Float32Array;
  readonly biasGradient: Float32Array;
}

/** Random weights with variance 2 / inputs (He et al., "Delving Deep into Rectifiers", 2015), and a bias of zeros. */
export function createLayer(inputs: number, outputs: number, random: Random): Layer {
  const limit = Math.sqrt(6 / inputs);
  return {
    inputs,
    outputs,
    weight: Float32Array.from({ length: inputs * outputs }, () => random.within(limit)),
    bias: new Float32Array(outputs),
    weightGradient: new Float32Array(inputs * outputs),
    biasGradient: new Float32Array(outputs),
  };
}

// The inner loop of each function below runs along a row of the weight, which is
// contiguous in memory. Most inputs are zero (blank paper, and what ReLU set to
// zero), and rows that would be multiplied by zero are skipped.

/** @param input [inputs] @param output [outputs], written */
export function forward(layer: Layer, input: Float32Array, output: Float32Array): void {
  const { inputs, outputs, weight } = layer;
  output.set(layer.bias);
  for (let i = 0; i < inputs; i++) {
    const x = input[i];
    if (x === 0) continue;
    const row = i * outputs;
    for (let j = 0; j < outputs; j++) output[j] += x * weight[row + j];
  }
}

/**
 * Adds what one example contributes to the gradients of weight and bias.
 *
 * @param input [inputs] @param outputGradient [outputs]
 */
export function addGradients(layer: Layer, input: Float32Array, outputGradient: Float32Array): void {
  const { inputs, outputs, weightGradient, biasGradient } = layer;
  for (let j = 0; j < outputs; j++) biasGradient[j] += outputGradient[j];
  for (let i = 0; i < inputs; i++) {
    const x = input[i];
    if (x === 0) continue;
    const row = i * outputs;
    for (let j = 0; j < outputs; j++) weightGradient[row + j] += x * outputGradient[j];
  }
}

/**
 * Gradient of the loss with respect to the input, where the input is ReLU's
 * output: zero wherever that is zero.
 *
 * @param input [inputs] @param outputGradient [outputs] @param inputGradient [inputs], written
 */
export function backward(
  layer: Layer,
  input: Float32Array,
  outputGradient: Float32Array,
  inputGradient: Float32Array,
): void {
  const { inputs, outputs, weight } = layer;
  for (let i = 0; i < inputs; i++) {
    let sum = 0;
    if (input[i] > 0) {
      const row = i * outputs;
      for (let j = 0; j < outputs; j++) sum += weight[row + j] * outputGradient[j];
    }
    inputGradient[i] = sum;
  }
}
