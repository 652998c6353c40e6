/** The order of a step, once its scalars are computed. */
import { warnOfFallback } from '../backend/index.js';
import type { TensorList } from './tensor-list.js';

/** What a step did. */
export type StepResult =
  | {
      /** Whether nothing was updated. */
      readonly skipped: false;
      /** Norm of the rescaled gradients before clipping, where `maxGradNorm` or a LossScaler had it measured. */
      readonly gradNorm?: number;
    }
  | {
      /** Whether nothing was updated: weights, states and counts are as they were. */
      readonly skipped: true;
      /**
       * 'rescaleGrad': it was NaN, infinite or 0 in the arithmetic type. 'gradNorm': a gradient or, for `maxGradNorm`,
       * the norm of all gradients was not finite.
       */
      readonly reason: 'rescaleGrad' | 'gradNorm';
      /** As of a step that was not skipped. */
      readonly gradNorm?: number;
    };

/** What was found in the gradients of a step. */
export interface Measured {
  readonly norm: number;
  readonly skips: boolean;
}

/** How tensors whose scalars are written are to be stepped. */
export interface StepPlan {
  /** Whether nothing is to be updated. */
  readonly skips: boolean;
  /** Tensors of one native call. */
  readonly aggregateNum: number;
  /** Whether to clear the gradients. Default false. */
  readonly zeroGrads?: boolean;
  /** Looks at the gradients before the step; it calls nothing that other code may have replaced. */
  readonly measure?: () => Measured;
  /** Called when nothing can fail any more but a device, before the first tensor is updated. */
  readonly begin?: () => void;
}

/**
 * Runs a step.
 *
 * @throws RangeError where memory is gone, and what a device reports; before `begin` nothing has changed
 */
export function runStep(tensors: TensorList, plan: StepPlan): StepResult {
  const { skips, aggregateNum, zeroGrads = false, measure, begin } = plan;
  if (zeroGrads) tensors.checkDistinctGrads();
  tensors.prepareCheck();
  warnOfFallback();
  // Code of the caller's (schedulers, parameters) may detach memory: none of it runs between this and the kernels.
  tensors.checkMemory();
  if (skips) {
    if (zeroGrads) tensors.zeroGrads();
    return { skipped: true, reason: 'rescaleGrad' };
  }
  const measured = measure?.();
  if (measured?.skips) {
    if (zeroGrads) tensors.zeroGrads();
    return { skipped: true, reason: 'gradNorm', gradNorm: measured.norm };
  }
  tensors.begin();
  begin?.();
  tensors.step(aggregateNum);
  return measured === undefined ? { skipped: false } : { skipped: false, gradNorm: measured.norm };
}
