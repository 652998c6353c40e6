/** Steps on a GPU, and what they are compared with: a copy of as many bytes, PyTorch. */
import { AdamW, synchronize, Tensor } from '../../lib/index.js';
import { OPTIONS } from '../arrays.js';
import { bytesPerElement, elementsOf } from '../cases.js';
import { type CaseContext, type Contender, type Runner, timed } from './contender.js';
import { TORCH_ON_CUDA } from './peer.js';
import { BOUND_STEP, BOUND_STEP_AROUND, withEverythingAround } from './this.js';

/** Launches the steps one after another, and counts the time until all have finished. */
function onDevice(step: () => void, close?: () => void): Runner {
  return {
    run(steps) {
      synchronize();
      return (
        timed(1, () => {
          for (let i = 0; i < steps; i++) step();
          synchronize();
        }) / steps
      );
    },
    close,
  };
}

function ours(name: string, open: (context: CaseContext) => Runner): Contender {
  return { name, kind: 'this', byDefault: true, open: async (context) => open(context) };
}

/** A copy within the device that reads and writes as many bytes as the step. */
const deviceCopy: Contender = {
  name: 'copy on the device',
  kind: 'roof',
  byDefault: true,
  async open({ case: of }) {
    const elements = Math.ceil((elementsOf(of) * bytesPerElement(of.config)) / 2 / Float32Array.BYTES_PER_ELEMENT);
    const [from, to] = [0, 1].map(() => Tensor.zeros(elements, { device: 'cuda' }));
    return onDevice(
      () => to.copyFrom(from),
      () => [from, to].forEach((tensor) => void tensor.dispose()),
    );
  },
};

export const CUDA_CONTENDERS: readonly Contender[] = [
  ours(BOUND_STEP, (context) => {
    const { weights, grads, states } = context.tensors();
    const bound = new AdamW(OPTIONS).bind(indicesOf(weights), weights, grads, states);
    return onDevice(
      () => bound.step(),
      () => bound.dispose(),
    );
  }),
  ours(BOUND_STEP_AROUND, (context) => {
    const { step, close } = withEverythingAround(context.tensors());
    return onDevice(step, close);
  }),
  ours('fusedStep(lists)', (context) => {
    const { weights, grads, states } = context.tensors();
    const optimizer = new AdamW(OPTIONS);
    const indices = indicesOf(weights);
    return onDevice(
      () => optimizer.fusedStep(indices, weights, grads, states),
      () => optimizer.dispose(),
    );
  }),
  deviceCopy,
  ...TORCH_ON_CUDA,
];

function indicesOf(list: readonly unknown[]): number[] {
  return list.map((_, i) => i);
}
