/** The order of a step, once its scalars are computed. */
import { warnOfFallback } from '../backend/index.js';
import type { TensorList } from './tensor-list.js';

/** What a step did. */
export type StepResult =
  | {
      /** Whether nothing was updated. */
      readonly skipped: false;
    }
  | {
      /** Whether nothing was updated: weights, states and counts are as they were. */
      readonly skipped: true;
      /** `rescaleGrad` was NaN, infinite or 0 in the arithmetic type. */
      readonly reason: 'rescaleGrad';
    };

/**
 * Runs a step over tensors whose scalars are written.
 *
 * @param skips whether nothing is to be updated
 * @param aggregateNum tensors of one native call
 * @param begin called when nothing can fail any more but a device, before the first tensor is updated
 * @throws RangeError where memory is gone, and what a device reports; before `begin` nothing has changed
 */
export function runStep(
  tensors: TensorList,
  { skips, aggregateNum, begin }: { skips: boolean; aggregateNum: number; begin?: () => void },
): StepResult {
  tensors.prepareCheck();
  warnOfFallback();
  // Code of the caller's (schedulers, parameters) may detach memory: none of it runs between this and the kernels.
  tensors.checkMemory();
  if (skips) return { skipped: true, reason: 'rescaleGrad' };
  tensors.begin();
  begin?.();
  tensors.step(aggregateNum);
  return { skipped: false };
}
