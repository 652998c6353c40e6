/** The ways to make a step, and what it returns. */
import type { AdamW, StepResult, TensorLike } from '../../lib/index.js';
import type { Model } from './model.js';

export const DONE: StepResult = { skipped: false };
export const SKIPPED: StepResult = { skipped: true, reason: 'rescaleGrad' };

/** What a result says, which a step on a GPU finds out when somebody asks. */
export function said({ skipped, reason, gradNorm }: StepResult): object {
  return { skipped, ...(reason && { reason }), ...(gradNorm !== undefined && { gradNorm }) };
}

/** The ways to make a step. */
export const CALLS = ['fusedStep()', 'step()', 'bind()'] as const;
export type Call = (typeof CALLS)[number];

/** Returns a function that makes a step of a model with the gradients it is given, in one of the ways. */
export function stepper(optimizer: AdamW, { indices, weights, states }: Model, call: Call) {
  const bind = (grads: readonly TensorLike[]) => {
    const bound = optimizer.bind(indices, weights, grads, states);
    return (others: readonly TensorLike[]) => {
      bound.setGrads(others);
      return bound.step();
    };
  };
  let boundStep: ReturnType<typeof bind> | undefined;
  return (grads: readonly TensorLike[]) => {
    if (call === 'fusedStep()') return optimizer.fusedStep(indices, weights, grads, states);
    if (call === 'step()') return optimizer.step(indices, weights, grads, states);
    boundStep ??= bind(grads);
    return boundStep(grads);
  };
}
