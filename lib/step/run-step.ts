/** The order of a step, once its scalars are computed. */
import { warnOfFallback } from '../backend/index.js';
import type { TensorList } from './tensor-list.js';

/** What a step did. */
export type StepResult =
  | { readonly skipped: false }
  /** `rescaleGrad` was NaN, infinite or 0: weights, states and counts are as they were. */
  | { readonly skipped: true; readonly reason: 'rescaleGrad' };

/**
 * Runs a step over tensors whose scalars are written.
 *
 * @param skips whether nothing is to be updated
 * @param aggregateNum tensors of one native call
 * @param commit called when nothing can fail any more but a device, before the first tensor is updated
 * @throws RangeError where memory is gone, and what a device reports; before `commit` nothing has changed
 */
export function runStep(
  tensors: TensorList,
  { skips, aggregateNum, commit }: { skips: boolean; aggregateNum: number; commit?: () => void },
): StepResult {
  warnOfFallback();
  // Code of the caller's (schedulers, parameters) may detach memory: none of it runs between this and the kernels.
  tensors.checkMemory();
  if (skips) return { skipped: true, reason: 'rescaleGrad' };
  tensors.begin();
  commit?.();
  tensors.step(aggregateNum);
  return { skipped: false };
}
