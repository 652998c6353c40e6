/** The checks of a step's scalars: on their own, and against the type that the arithmetic is done in. */
import { checkInteger, checkNumber, outOfRange, wrongKind } from '../errors.js';

/** The decay rate of a moment. */
export function checkDecayRate(value: unknown, name: string): number {
  const rate = checkNumber(value, name);
  if (rate >= 1) throw outOfRange('a number in [0, 1)', name, rate);
  return rate;
}

/** Any number: NaN, infinities and 0 skip the step. */
export function checkRescaleGrad(value: unknown): number {
  if (typeof value !== 'number') throw wrongKind('a number', 'rescaleGrad', value);
  return value;
}

/** The clipping bound, or null for none. */
export function checkClipGradient(value: unknown): number | null {
  if (value === undefined || value === null) return null;
  const expected = 'a positive number, or null for none,';
  if (typeof value !== 'number') throw wrongKind(expected, 'clipGradient', value);
  if (!(value > 0) || value === Infinity) throw outOfRange(expected, 'clipGradient', value);
  return value;
}

/** The seed of stochastic rounding. */
export function checkSeed(value: unknown): number {
  const seed = checkInteger(value, 'seed');
  if (seed >= 2 ** 32) throw outOfRange('a whole number below 2**32', 'seed', seed);
  return seed;
}

/** The arithmetic types of a step: float32 of all weights but float64. */
export interface ArithmeticTypes {
  readonly usesFloat32: boolean;
  readonly usesFloat64: boolean;
}

/**
 * Whether a step with this factor is skipped: it is NaN, infinite or 0 in one
 * of the arithmetic types. Decided for all tensors of a call.
 */
export function isSkipped(rescaleGrad: number, types: ArithmeticTypes): boolean {
  if (!Number.isFinite(rescaleGrad) || rescaleGrad === 0) return true;
  return types.usesFloat32 && (!Number.isFinite(Math.fround(rescaleGrad)) || isZeroInFloat32(rescaleGrad));
}

/** Whether a number rounds to 0. Math.fround would say so of subnormals too, in a thread that flushes them. */
function isZeroInFloat32(value: number): boolean {
  return Math.abs(value) <= 2 ** -150;
}

/** @throws RangeError for a number that the arithmetic type cannot hold */
export function checkHolds(value: number, name: string, types: ArithmeticTypes): void {
  if (types.usesFloat32 && !Number.isFinite(Math.fround(value))) {
    throw outOfRange('a number that float32 can hold', name, value);
  }
  if (!Number.isFinite(value)) throw outOfRange('a number that float64 can hold', name, value);
}

/** @throws RangeError for a clipping bound that is 0 or infinite in the arithmetic type */
export function checkClip(clipGradient: number | null, types: ArithmeticTypes): void {
  if (clipGradient === null) return;
  checkHolds(clipGradient, 'clipGradient', types);
  if (types.usesFloat32 && isZeroInFloat32(clipGradient)) {
    throw outOfRange('a positive number in float32', 'clipGradient', clipGradient);
  }
}

/** @throws RangeError for a decay rate that is 1 in the arithmetic type */
export function checkBeta(beta: number, name: string, types: ArithmeticTypes): void {
  if (types.usesFloat32 && Math.fround(beta) >= 1) throw outOfRange('less than 1 in float32', name, beta);
}
