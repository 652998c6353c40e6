/** MXNet's operators multi_adamw_update and multi_mp_adamw_update: one update of many tensors, no optimizer. */

import { loadBackend } from '../backend/index.js';
import { ScalarTable } from '../backend/scalar-table.js';
import { checkInteger, checkNumber, checkPointer, outOfRangeIn, wrongKind } from '../errors.js';
import { copyList } from '../lists.js';
import { tensorKey } from '../numerics/stochastic-rounding.js';
import { readOptions } from '../options.js';
import { runStep, type StepResult } from '../step/run-step.js';
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
import { TensorList } from '../step/tensor-list.js';
import type { TensorLike } from '../tensor/tensor-like.js';

/** The scalars of multiAdamwUpdate(), and its masters. */
export interface MultiAdamwUpdateOptions {
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
 * with g rescaled and clipped (MXNet 2.0.0b1, `multi_adamw_update` and `multi_mp_adamw_update`). Nothing is kept from
 * call to call.
 *
 * @param weights of any dtype and length, written
 * @param grads one for each weight, of its length and a dtype as of AdamW.fusedStep(), only read
 * @param means first moments, of the weights' lengths, written
 * @param variances second moments, as the means, written
 * @throws TypeError and RangeError as AdamW.fusedStep(); then nothing has changed
 */
export function multiAdamwUpdate(
  weights: readonly TensorLike[],
  grads: readonly TensorLike[],
  means: readonly TensorLike[],
  variances: readonly TensorLike[],
  options: MultiAdamwUpdateOptions,
): StepResult {
  // Everything of the caller's is read once, here: an option's getter may do anything.
  const { etas, lrs, wds, masters, beta1, beta2, epsilon, rescaleGrad, clipGradient, seed, updateCount, stream } =
    readOptions(options, 'options', OPTIONS, SYNONYMS);
  const lists = copyLists({ weights, grads, means, variances, etas, lrs, wds }, masters);
  const size = lists.weights.length;
  const rescale = checkRescaleGrad(rescaleGrad ?? 1);
  const clip = checkClipGradient(clipGradient);
  const decayRate1 = checkDecayRate(beta1 ?? 0.9, 'beta1');
  const decayRate2 = checkDecayRate(beta2 ?? 0.999, 'beta2');
  const checkedEpsilon = checkNumber(epsilon ?? 1e-8, 'epsilon');
  const checkedSeed = checkSeed(seed ?? 0);
  const count = checkInteger(updateCount ?? 1, 'updateCount');
  const checkedStream = checkPointer(stream ?? 0, 'stream');

  const positions = new Uint32Array(size).map((_, i) => i);
  const tensors = new TensorList(
    loadBackend().backend,
    'mxnet',
    {
      weight: { name: 'weights', values: lists.weights },
      grad: { name: 'grads', values: lists.grads },
      mean: { name: 'means', values: lists.means },
      variance: { name: 'variances', values: lists.variances },
      master: lists.masters && { name: 'masters', values: lists.masters },
    },
    positions.map((i) => tensorKey(checkedSeed, i)),
    checkedStream,
  );
  try {
    checkBeta(decayRate1, 'beta1', tensors);
    checkBeta(decayRate2, 'beta2', tensors);
    checkHolds(checkedEpsilon, 'epsilon', tensors);
    checkClip(clip, tensors);
    checkEach(lists.etas, 'etas', tensors);
    checkEach(lists.lrs, 'lrs', tensors);
    checkEach(lists.wds, 'wds', tensors);
    const table = new ScalarTable(size);
    table.writeStep({
      rescale,
      clip: clip ?? Infinity,
      beta1: decayRate1,
      beta2: decayRate2,
      zeroGrads: false,
      stochasticWeights: false,
    });
    for (let i = 0; i < size; i++) {
      const [eta, lr, wd] = [lists.etas[i], lists.lrs[i], lists.wds[i]];
      table.writeGroup(i, { eta, lr, wd, epsilon: checkedEpsilon, root: 1, count });
    }
    tensors.setGroups(positions, table.values);
    return runStep(tensors, { skips: isSkipped(rescale, tensors), aggregateNum: Infinity });
  } finally {
    tensors.dispose();
  }
}

const OPTIONS = [
  'etas',
  'lrs',
  'wds',
  'beta1',
  'beta2',
  'epsilon',
  'rescaleGrad',
  'clipGradient',
  'masters',
  'seed',
  'updateCount',
  'stream',
] as const satisfies readonly (keyof MultiAdamwUpdateOptions)[];

const SYNONYMS = {
  eps: 'epsilon',
  betas: 'beta1 and beta2',
  eta: 'etas',
  lr: 'lrs',
  learningRate: 'lrs',
  wd: 'wds',
  weightDecay: 'wds',
};

/** Checks one scalar of every tensor. */
function checkEach(values: readonly number[], name: string, types: ArithmeticTypes): void {
  for (let i = 0; i < values.length; i++) {
    const value = values[i];
    const rounded = types.usesFloat32 ? Math.fround(value) : value;
    // The name of an element is put together only where something is wrong.
    if (typeof value !== 'number' || !(value >= 0) || !Number.isFinite(rounded)) {
      checkHolds(checkNumber(value, `${name}[${i}]`), `${name}[${i}]`, types);
    }
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
): Lists & { readonly masters?: readonly TensorLike[] } {
  if (!Array.isArray(lists.weights)) throw wrongKind('a list', 'weights', lists.weights);
  const copies: Record<string, unknown[]> = {};
  for (const [name, list] of Object.entries({ ...lists, masters })) {
    if (name === 'masters' && list === undefined) continue;
    if (!Array.isArray(list)) throw wrongKind('a list, as of weights,', name, list);
    copies[name] = copyList(list);
  }
  const { length } = copies.weights;
  for (const [name, list] of Object.entries(copies)) {
    if (list.length !== length) throw outOfRangeIn(`a list of length ${length}`, name, `one of length ${list.length}`);
  }
  return copies as unknown as Lists & { readonly masters?: readonly TensorLike[] };
}
