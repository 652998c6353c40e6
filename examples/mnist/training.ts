/** Trains for some epochs of batches, with a test after each epoch. */
import { type DigitSets, type Digits, PIXELS } from './digits.js';
import { accuracyOf, readDigits } from './evaluation.js';
import type { Network } from './network.js';
import type { Progress } from './progress.js';
import type { Random } from './random.js';
import { shift } from './shift.js';
import type { Trainer } from './trainer.js';

export interface TrainOptions {
  readonly epochs: number;
  readonly batchSize: number;
  /** Draws the order of the digits and how far they are moved. */
  readonly random: Random;
  readonly progress: Progress;
}

export interface History {
  /** Mean loss of the examples of each step. */
  readonly losses: readonly number[];
  /** Share of the test digits that were read right after each epoch, 0 to 1. */
  readonly accuracies: readonly number[];
  /** Time spent on training, with the optimizer and without the tests. */
  readonly milliseconds: number;
}

/** Digits are moved at random by up to this many pixels each time they are used. */
const MOST_SHIFT = 1;

export function train(network: Network, trainer: Trainer, digits: DigitSets, options: TrainOptions): History {
  const { epochs, random, progress } = options;
  const order = Uint32Array.from(digits.training.images, (_, i) => i);
  const losses: number[] = [];
  const accuracies: number[] = [];
  let milliseconds = 0;
  for (let epoch = 1; epoch <= epochs; epoch++) {
    progress.startEpoch(epoch);
    const start = performance.now();
    random.shuffle(order);
    const ofEpoch = trainEpoch(network, trainer, digits.training, order, options);
    milliseconds += performance.now() - start;
    const accuracy = accuracyOf(readDigits(network, digits.test));
    progress.endEpoch(mean(ofEpoch), accuracy);
    losses.push(...ofEpoch);
    accuracies.push(accuracy);
  }
  return { losses, accuracies, milliseconds };
}

/** Trains on every digit once, in the given order. Returns the loss of each step. */
function trainEpoch(
  network: Network,
  trainer: Trainer,
  digits: Digits,
  order: Uint32Array,
  { batchSize, random, progress }: TrainOptions,
): number[] {
  const losses: number[] = [];
  let sum = 0;
  for (let first = 0; first < order.length; first += batchSize) {
    const batch = order.subarray(first, first + batchSize);
    const loss = addGradients(network, digits, batch, random) / batch.length;
    trainer.step(batch.length);
    losses.push(loss);
    sum += loss;
    progress.showStep(sum / losses.length);
  }
  return losses;
}

/** Sums the gradients of a batch in the network. Returns the sum of the losses. */
function addGradients(network: Network, digits: Digits, batch: Uint32Array, random: Random): number {
  const moved = new Float32Array(PIXELS);
  let loss = 0;
  network.clearGradients();
  for (const i of batch) {
    shift(digits.images[i], randomShift(random), randomShift(random), moved);
    loss += network.learn(moved, digits.labels[i]);
  }
  return loss;
}

function randomShift(random: Random): number {
  return random.below(2 * MOST_SHIFT + 1) - MOST_SHIFT;
}

function mean(values: readonly number[]): number {
  return values.reduce((a, b) => a + b, 0) / values.length;
}
