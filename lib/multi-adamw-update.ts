/** MXNet's operators multi_adamw_update and multi_mp_adamw_update: one update of many tensors, no optimizer. */
import { loadBackend, warnOfFallback } from './backend/index.js';
import { COMMON_SCALARS, GROUP_SCALARS } from './backend/layout.js';
import { Binding } from './binding.js';
import type { StepResult } from './bound-step.js';
import { checkInteger, checkNumber, outOfRange, outOfRangeIn, wrongKind } from './errors.js';
import { type ArithmeticTypes, checkBeta, checkClip, checkHolds, isSkipped } from './scalars.js';
import { tensorKey } from './stochastic.js';
import type { TensorLike } from './tensor.js';

export interface MultiAdamWUpdateOptions {
  /** Learning rate schedule multipliers, one for each tensor. */
  readonly etas: readonly number[];
  /** Learning rates, one for each tensor. */
  readonly lrs: readonly number[];
  /** Weight decays, one for each tensor. */
  readonly wds: readonly number[];
  /** In [0, 1). Default 0.9. */
  readonly beta1?: number;
  /** In [0, 1). Default 0.999. */
  readonly beta2?: number;
  /** Default 1e-8, the operator's. */
  readonly epsilon?: number;
  /** Default 1. NaN, an infinity or 0 skips the update. */
  readonly rescaleGrad?: number;
  /** Default: off. */
  readonly clipGradient?: number | null;
  /** float32 masters of half-precision weights, one for each tensor. */
  readonly masters?: readonly TensorLike[];
  /** Of the stochastic rounding of bfloat16 variances. Default 0. */
  readonly seed?: number;
  /** Number of this update, for the same. Default 1. */
  readonly updateCount?: number;
}

/**
 * Updates weights, means, variances and masters in place:
 *
 *     m = beta1 * m + (1 - beta1) * g
 *     v = beta2 * v + (1 - beta2) * g ** 2
 *     w = w - eta * (lr * m / (sqrt(v) + epsilon) + wd * w)
 *
 * with g rescaled and clipped. Nothing is kept from call to call.
 *
 * @throws TypeError and RangeError as AdamW.fusedStep(); then nothing has changed
 */
export function multiAdamwUpdate(
  weights: readonly TensorLike[],
  grads: readonly TensorLike[],
  means: readonly TensorLike[],
  variances: readonly TensorLike[],
  options: MultiAdamWUpdateOptions,
): StepResult {
  if (!Array.isArray(weights)) throw wrongKind('a list', 'weights', weights);
  if (typeof options !== 'object' || options === null) throw wrongKind('an object', 'options', options);
  const size = weights.length;
  const { etas, lrs, wds } = options;
  const masters = options.masters ?? new Array<undefined>(size).fill(undefined);
  checkLists({ grads, means, variances, etas, lrs, wds, masters }, size);
  const beta1 = checkNumber(options.beta1 ?? 0.9, 'beta1');
  const beta2 = checkNumber(options.beta2 ?? 0.999, 'beta2');
  const epsilon = checkNumber(options.epsilon ?? 1e-8, 'epsilon');
  const rescaleGrad = options.rescaleGrad ?? 1;
  if (typeof rescaleGrad !== 'number') throw wrongKind('a number', 'rescaleGrad', rescaleGrad);
  const clipGradient = options.clipGradient ?? null;
  if (clipGradient !== null && checkNumber(clipGradient, 'clipGradient') === 0) {
    throw outOfRange('a positive number, or null for none,', 'clipGradient', 0);
  }
  const seed = checkInteger(options.seed ?? 0, 'seed');
  const updateCount = checkInteger(options.updateCount ?? 1, 'updateCount');

  const indices = new Uint32Array(size).map((_, i) => i);
  const keys = indices.map((i) => tensorKey(seed, i));
  const binding = new Binding(
    loadBackend().backend,
    'mxnet',
    {
      weights: { name: 'weights', values: [...weights] },
      means: { name: 'means', values: [...means] },
      variances: { name: 'variances', values: [...variances] },
      masters: { name: 'masters', values: [...masters] },
    },
    keys,
  );
  binding.setGrads({ name: 'grads', values: [...grads] });
  checkBeta(beta1, 'beta1', binding);
  checkBeta(beta2, 'beta2', binding);
  checkHolds(epsilon, 'epsilon', binding);
  checkClip(clipGradient, binding);

  const scalars = new Float64Array(COMMON_SCALARS.length + size * GROUP_SCALARS.length);
  scalars.set([rescaleGrad, clipGradient ?? Infinity, beta1, beta2]);
  writeEach(scalars, GROUP_SCALARS.indexOf('eta'), etas, 'etas', binding);
  writeEach(scalars, GROUP_SCALARS.indexOf('lr'), lrs, 'lrs', binding);
  writeEach(scalars, GROUP_SCALARS.indexOf('wd'), wds, 'wds', binding);
  for (let at = COMMON_SCALARS.length; at < scalars.length; at += GROUP_SCALARS.length) {
    scalars[at + 3] = epsilon;
    scalars[at + 4] = 1;
    scalars[at + 5] = updateCount;
  }
  if (isSkipped(rescaleGrad, binding)) return { skipped: true, reason: 'rescaleGrad' };
  binding.setGroups(indices, scalars);
  warnOfFallback();
  binding.step(0, size);
  return { skipped: false };
}

/** Writes one scalar of every tensor, `offset` into its group. */
function writeEach(
  scalars: Float64Array,
  offset: number,
  values: readonly number[],
  name: string,
  types: ArithmeticTypes,
): void {
  for (let i = 0; i < values.length; i++) {
    const value = values[i];
    if (!(value >= 0) || !Number.isFinite(types.usesFloat32 ? Math.fround(value) : value)) {
      checkHolds(checkNumber(value, `${name}[${i}]`), `${name}[${i}]`, types);
    }
    scalars[COMMON_SCALARS.length + i * GROUP_SCALARS.length + offset] = value;
  }
}

function checkLists(lists: Record<string, readonly unknown[]>, size: number): void {
  for (const [name, list] of Object.entries(lists)) {
    if (!Array.isArray(list)) throw wrongKind('a list, as of weights,', name, list);
    if (list.length !== size) throw outOfRangeIn(`a list of length ${size}`, name, `one of length ${list.length}`);
  }
}
