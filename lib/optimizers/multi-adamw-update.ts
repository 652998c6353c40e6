/** MXNet's operators multi_adamw_update and multi_mp_adamw_update: one update of many tensors, no optimizer. */

import { COMMON_SCALARS, GROUP_SCALARS } from '../backend/abi.js';
import { loadBackend, warnOfFallback } from '../backend/index.js';
import { checkInteger, checkNumber, checkObject, checkPointer, outOfRangeIn, wrongKind } from '../errors.js';
import { tensorKey } from '../numerics/stochastic-rounding.js';
import type { StepResult } from '../step/bound-step.js';
import {
  type ArithmeticTypes,
  checkBeta,
  checkClip,
  checkClipGradient,
  checkDecayRate,
  checkHolds,
  checkRescaleGrad,
  checkSeed,
  isSkipped,
} from '../step/scalar-checks.js';
import { Binding } from '../step/tensor-list.js';
import type { TensorLike } from '../tensor/tensor.js';

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
  /** CUstream or cudaStream_t for tensors on a GPU. Default: the legacy default stream. */
  readonly stream?: bigint | number | null;
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
  // Everything of the caller's is read once, here: an option's getter may do anything.
  checkObject(options, 'options');
  const { etas, lrs, wds, masters, beta1, beta2, epsilon, rescaleGrad, clipGradient, seed, updateCount, stream } =
    options;
  const lists = copyLists({ weights, grads, means, variances, etas, lrs, wds }, masters);
  const size = lists.weights.length;
  const common = {
    rescale: checkRescaleGrad(rescaleGrad ?? 1),
    clip: checkClipGradient(clipGradient),
    beta1: checkDecayRate(beta1 ?? 0.9, 'beta1'),
    beta2: checkDecayRate(beta2 ?? 0.999, 'beta2'),
  };
  const checkedEpsilon = checkNumber(epsilon ?? 1e-8, 'epsilon');
  const checkedSeed = checkSeed(seed ?? 0);
  const count = checkInteger(updateCount ?? 1, 'updateCount');
  const checkedStream = checkPointer(stream ?? 0, 'stream');

  const indices = new Uint32Array(size).map((_, i) => i);
  const binding = new Binding(
    loadBackend().backend,
    'mxnet',
    {
      weights: { name: 'weights', values: lists.weights },
      means: { name: 'means', values: lists.means },
      variances: { name: 'variances', values: lists.variances },
      masters: { name: 'masters', values: lists.masters },
    },
    indices.map((i) => tensorKey(checkedSeed, i)),
    checkedStream,
  );
  try {
    binding.setGrads({ name: 'grads', values: lists.grads });
    checkBeta(common.beta1, 'beta1', binding);
    checkBeta(common.beta2, 'beta2', binding);
    checkHolds(checkedEpsilon, 'epsilon', binding);
    checkClip(common.clip, binding);
    const scalars = new Float64Array(COMMON_SCALARS.length + size * GROUP_SCALARS.length);
    scalars.set([common.rescale, common.clip ?? Infinity, common.beta1, common.beta2]);
    writeEach(scalars, GROUP_SCALARS.indexOf('eta'), lists.etas, 'etas', binding);
    writeEach(scalars, GROUP_SCALARS.indexOf('lr'), lists.lrs, 'lrs', binding);
    writeEach(scalars, GROUP_SCALARS.indexOf('wd'), lists.wds, 'wds', binding);
    for (let at = COMMON_SCALARS.length; at < scalars.length; at += GROUP_SCALARS.length) {
      scalars[at + 3] = checkedEpsilon;
      scalars[at + 4] = 1;
      scalars[at + 5] = count;
    }
    warnOfFallback();
    binding.checkMemory();
    if (isSkipped(common.rescale, binding)) return { skipped: true, reason: 'rescaleGrad' };
    binding.setGroups(indices, scalars);
    binding.begin();
    binding.step(Infinity);
    return { skipped: false };
  } finally {
    binding.dispose();
  }
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
    if (
      typeof value !== 'number' ||
      !(value >= 0) ||
      !Number.isFinite(types.usesFloat32 ? Math.fround(value) : value)
    ) {
      checkHolds(checkNumber(value, `${name}[${i}]`), `${name}[${i}]`, types);
    }
    scalars[COMMON_SCALARS.length + i * GROUP_SCALARS.length + offset] = value;
  }
}

type Lists = {
  readonly weights: readonly TensorLike[];
  readonly grads: readonly TensorLike[];
  readonly means: readonly TensorLike[];
  readonly variances: readonly TensorLike[];
  readonly etas: readonly number[];
  readonly lrs: readonly number[];
  readonly wds: readonly number[];
};

/** Copies of the lists, which are all as long as `weights`; a list that is a Proxy may say another length each time. */
function copyLists(
  lists: Lists,
  masters: readonly TensorLike[] | undefined,
): Lists & { readonly masters: readonly (TensorLike | undefined)[] } {
  if (!Array.isArray(lists.weights)) throw wrongKind('a list', 'weights', lists.weights);
  for (const [name, list] of Object.entries({ ...lists, masters: masters ?? [] })) {
    if (!Array.isArray(list)) throw wrongKind('a list, as of weights,', name, list);
  }
  const weights = [...lists.weights];
  const copies = {
    weights,
    grads: [...lists.grads],
    means: [...lists.means],
    variances: [...lists.variances],
    etas: [...lists.etas],
    lrs: [...lists.lrs],
    wds: [...lists.wds],
    masters: masters ? [...masters] : new Array<undefined>(weights.length).fill(undefined),
  };
  for (const [name, { length }] of Object.entries(copies)) {
    if (length !== weights.length)
      throw outOfRangeIn(`a list of length ${weights.length}`, name, `one of length ${length}`);
  }
  return copies;
}
