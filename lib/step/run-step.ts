/** The order of a step, once its scalars are computed. */
import { setImmediate as nextTask } from 'node:timers/promises';
import { warnOfFallback } from '../backend/index.js';
import type { Measured, Measurement } from './measurement.js';
import type { TensorList } from './tensor-list.js';

/**
 * What a step did. Of a step with `maxGradNorm` or a LossScaler on a GPU, that decides whether it takes place; whoever
 * looks at a property waits for it.
 */
export type StepResult =
  | {
      /** Whether nothing was updated. */
      readonly skipped: false;
      /** There is none. */
      readonly reason?: undefined;
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

/** How tensors whose scalars are written are to be stepped. */
export interface StepPlan {
  /** Whether nothing is to be updated. */
  readonly skips: boolean;
  /** Tensors of one native call. */
  readonly aggregateNum: number;
  /** Whether to clear the gradients. Default false. */
  readonly zeroGrads?: boolean;
  /** Looks at the gradients before the step. */
  readonly measurement?: Measurement;
  /** In place of the measurement: has a GPU decide about the step, and begins it. */
  readonly decide?: () => StepResult;
  /** Called when nothing can fail any more but a device, before the first tensor is updated. */
  readonly begin?: () => void;
}

/**
 * Runs a step.
 *
 * @throws RangeError where memory is gone, and what a device reports; before `begin` nothing has changed
 */
export function runStep(tensors: TensorList, plan: StepPlan): StepResult {
  const { skips, aggregateNum, zeroGrads = false, measurement, decide, begin } = plan;
  if (zeroGrads) tensors.checkDistinctGrads();
  tensors.prepareCheck();
  tensors.checkIdle(zeroGrads);
  warnOfFallback();
  // Code of the caller's (schedulers, parameters) may detach memory: none of it runs between this and the kernels.
  tensors.checkMemory();
  if (skips) {
    if (zeroGrads) tensors.zeroGrads();
    return { skipped: true, reason: 'rescaleGrad' };
  }
  if (decide) {
    const result = decide();
    tensors.step(aggregateNum);
    return result;
  }
  const measured = measurement?.take();
  if (measured?.skips) return skippedBy(measured, tensors, zeroGrads);
  tensors.begin();
  begin?.();
  tensors.step(aggregateNum);
  return resultOf(measured);
}

/**
 * Runs a step on the CPU beside JavaScript or, where nothing can do that, in a later task.
 *
 * @throws as runStep(), TypeError for memory that JavaScript could free meanwhile
 */
export async function runStepAsync(tensors: TensorList, plan: StepPlan): Promise<StepResult> {
  const { skips, zeroGrads = false, measurement, begin } = plan;
  tensors.checkStays();
  if (zeroGrads) tensors.checkDistinctGrads();
  tensors.prepareCheck();
  tensors.checkIdle(zeroGrads);
  warnOfFallback();
  tensors.checkMemory();
  const giveBack = tensors.take(zeroGrads);
  try {
    if (skips || !tensors.canRunBeside) {
      await nextTask();
    } else {
      const measured = await measurement?.start();
      if (measured?.skips) return skippedBy(measured, tensors, zeroGrads);
      await tensors.startStep();
      begin?.();
      tensors.noteStarted();
      return resultOf(measured);
    }
  } finally {
    giveBack();
  }
  return runStep(tensors, plan);
}

function skippedBy({ norm }: Measured, tensors: TensorList, zeroGrads: boolean): StepResult {
  if (zeroGrads) tensors.zeroGrads();
  return { skipped: true, reason: 'gradNorm', gradNorm: norm };
}

function resultOf(measured: Measured | undefined): StepResult {
  return measured === undefined ? { skipped: false } : { skipped: false, gradNorm: measured.norm };
}
