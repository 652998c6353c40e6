/** What a call of a step may ask for. */
import { checkBoolean, checkNumber, outOfRange, wrongKind } from '../errors.js';
import { readOptions } from '../options.js';
import { LossScaler } from './loss-scaler.js';

/** Options of one step. */
export interface StepOptions {
  /**
   * Clears the gradients in the pass that reads them, also if the step is skipped. Gradients then may not share
   * memory. Default false.
   */
  readonly zeroGrads?: boolean;
  /** In place of the optimizer's, for this step: null for none. */
  readonly maxGradNorm?: number | null;
  /**
   * The scaler by whose `scale` the loss was multiplied: the step divides the gradients by it, is skipped if one of
   * them is infinite or NaN, and adjusts the scale.
   */
  readonly lossScaler?: LossScaler | null;
}

declare global {
  // As the types of Node and of the DOM declare it: a program may have neither.
  interface AbortSignal {
    readonly aborted: boolean;
  }
}

/** Options of one asynchronous step. */
export interface AsyncStepOptions extends StepOptions {
  /** Cancels the step, if it is aborted before the step begins: the promise is rejected by its reason. */
  readonly signal?: AbortSignal | null;
}

/** The options of a step, read once. */
export interface ReadStepOptions {
  readonly zeroGrads: boolean;
  /** undefined for the optimizer's. */
  readonly maxGradNorm: number | null | undefined;
  readonly lossScaler: LossScaler | null;
}

const NONE: ReadStepOptions = { zeroGrads: false, maxGradNorm: undefined, lossScaler: null };

const OPTIONS = ['zeroGrads', 'maxGradNorm', 'lossScaler'] as const satisfies readonly (keyof StepOptions)[];

const SYNONYMS = { zeroGrad: 'zeroGrads', setToNone: 'zeroGrads', clipGradNorm: 'maxGradNorm', scaler: 'lossScaler' };

const ASYNC_OPTIONS = [...OPTIONS, 'signal'] as const satisfies readonly (keyof AsyncStepOptions)[];

/** @throws TypeError for options of the wrong kind or that are not known, RangeError for values out of range */
export function readStepOptions(options: StepOptions | undefined): ReadStepOptions {
  if (options === undefined) return NONE;
  return checkStepOptions(readOptions(options, 'options', OPTIONS, SYNONYMS));
}

/** @throws as readStepOptions() */
export function readAsyncStepOptions(options: AsyncStepOptions = {}): {
  readonly step: ReadStepOptions;
  readonly signal: AbortSignal | null;
} {
  const { signal, ...step } = readOptions(options, 'options', ASYNC_OPTIONS, SYNONYMS);
  if (signal !== undefined && signal !== null && !(signal instanceof AbortSignal)) {
    throw wrongKind('an AbortSignal', 'signal', signal);
  }
  return { step: checkStepOptions(step), signal: signal ?? null };
}

function checkStepOptions({ zeroGrads, maxGradNorm, lossScaler }: StepOptions): ReadStepOptions {
  if (lossScaler !== undefined && lossScaler !== null && !(lossScaler instanceof LossScaler)) {
    throw wrongKind('a LossScaler', 'lossScaler', lossScaler);
  }
  return {
    zeroGrads: checkBoolean(zeroGrads ?? false, 'zeroGrads'),
    maxGradNorm: maxGradNorm === undefined ? undefined : checkMaxGradNorm(maxGradNorm),
    lossScaler: lossScaler ?? null,
  };
}

/** The bound of the norm, or null for none. */
export function checkMaxGradNorm(value: unknown): number | null {
  if (value === undefined || value === null) return null;
  const expected = 'a positive number, or null for none,';
  if (typeof value !== 'number') throw wrongKind(expected, 'maxGradNorm', value);
  if (!(value > 0)) throw outOfRange(expected, 'maxGradNorm', value);
  return value;
}

/** The scale of a LossScaler, which a subclass may give otherwise; 1 without one. */
export function scaleOf(lossScaler: LossScaler | null): number {
  if (lossScaler === null) return 1;
  const scale = checkNumber(lossScaler.scale, 'lossScaler.scale');
  if (scale === 0) throw outOfRange('a positive number', 'lossScaler.scale', scale);
  return scale;
}
