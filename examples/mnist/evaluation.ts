/** A network's answers for digits that it was not trained on. */
import type { Digits } from './digits.js';
import type { Network } from './network.js';

export interface Reading {
  /** [PIXELS] */
  readonly image: Float32Array;
  /** The right answer. */
  readonly label: number;
  /** The network's answer. */
  readonly answer: number;
  /** The network's probability for its answer, 0 to 1. */
  readonly probability: number;
}

export function readDigits(network: Network, digits: Digits): Reading[] {
  return digits.images.map((image, i) => {
    const probabilities = network.predict(image);
    const probability = probabilities.reduce((a, b) => Math.max(a, b));
    return { image, label: digits.labels[i], answer: probabilities.indexOf(probability), probability };
  });
}

export function isRight(reading: Reading): boolean {
  return reading.answer === reading.label;
}

/** The share of right answers, 0 to 1. */
export function accuracyOf(readings: readonly Reading[]): number {
  return readings.filter(isRight).length / readings.length;
}
