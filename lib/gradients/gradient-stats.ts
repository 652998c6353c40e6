/** The norm of gradients, and whether they are finite. */
import { configsOfGrads } from '../backend/abi.js';
import { cudaAddon } from '../backend/cuda.js';
import type { DeviceMemory } from '../backend/cuda-addon.js';
import { loadBackend } from '../backend/index.js';
import { outOfRange, wrongKind } from '../errors.js';
import type { Storage } from '../numerics/dtype.js';
import { readOptions } from '../options.js';
import { ordinalOf, type ResolvedDevice } from '../tensor/device.js';
import type { ResolvedTensor, TensorLike } from '../tensor/tensor-like.js';
import { resolveArrays } from './arrays.js';
import { sumOf } from './norm.js';

/** Options of gradientStats(). */
export interface GradientStatsOptions {
  /** The norm is that of the gradients multiplied by this number. Default 1. */
  readonly scale?: number;
}

/** What gradientStats() measures. */
export interface GradientStats {
  /**
   * The square root of the sum of the squares of all elements, times |scale|. Infinity where that sum overflows
   * float64, which only gradients of float64 can bring about; NaN or Infinity where an element is not finite.
   */
  readonly norm: number;
  /** Whether no element is infinite or NaN. */
  readonly finite: boolean;
}

/**
 * The norm of gradients, all taken as one vector, and whether they are finite: one read of their memory, in double
 * precision. The sum has a fixed order, so that its bits are the same on every backend, instruction set and number of
 * threads.
 *
 * @param grads Tensors or typed arrays of any dtype and length: one, or a list. For those on a GPU it waits for all work so
 *   far that this package has put there
 * @throws TypeError for anything else, RangeError for memory that is gone, and for a scale that is not finite
 */
export function gradientStats(
  grads: TensorLike | readonly TensorLike[],
  options: GradientStatsOptions = {},
): GradientStats {
  const { scale = 1 } = readOptions(options, 'options', ['scale']);
  if (typeof scale !== 'number') throw wrongKind('a number', 'scale', scale);
  if (!Number.isFinite(scale)) throw outOfRange('a finite number', 'scale', scale);
  const arrays = resolveArrays(grads, 'grads', 'read');
  const sums = new Float64Array(arrays.length);
  let finite = true;
  for (const device of new Set(arrays.map((array) => array.device))) {
    const positions = [...arrays.keys()].filter((i) => arrays[i].device === device);
    const ofDevice = new Float64Array(positions.length);
    if (
      !sumsOfSquares(
        device,
        positions.map((i) => arrays[i]),
        ofDevice,
      )
    )
      finite = false;
    positions.forEach((i, k) => {
      sums[i] = ofDevice[k];
    });
  }
  return { norm: Math.sqrt(sumOf(sums)) * Math.abs(scale), finite };
}

/** Those of arrays that are all on one device. */
function sumsOfSquares(device: ResolvedDevice, arrays: readonly ResolvedTensor[], sums: Float64Array): boolean {
  const memories = arrays.map(({ memory }) => memory);
  const dtypes = arrays.map(({ dtype }) => dtype);
  return device === 'cpu'
    ? loadBackend().backend.sumsOfSquares(memories as Storage[], dtypes, sums)
    : cudaAddon().sumsOfSquares(ordinalOf(device), memories as DeviceMemory[], configsOfGrads(dtypes), sums);
}
