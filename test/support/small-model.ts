import type { Index } from '../../lib/index.js';
import { type Model, makeGrads, makeModel } from './model.js';
import { randomFrom } from './random.js';

/** Three small float32 tensors and a few gradients for each, the same for every test. */
export const start = makeModel(
  [
    ['float32', 5],
    ['float32', 8],
    ['float32', 3],
  ],
  randomFrom(30),
);
export const gradsOf = Array.from({ length: 5 }, (_, i) => makeGrads(start, randomFrom(300 + i)));

/** A model of tensor i alone. */
export function only({ weights, states }: Model, i: number, index: Index = i): Model {
  return { indices: [index], weights: [weights[i]], states: [states[i]] };
}
