/** Refreshes masters after weights were loaded from elsewhere. */

import { nameOf, outOfRangeIn, wrongKindIn } from '../errors.js';
import { setTypedArray } from '../numerics/typed-arrays.js';
import { checkIdle } from '../tensor/in-flight.js';
import { Tensor } from '../tensor/tensor.js';
import { type ResolvedTensor, resolve, type TensorLike } from '../tensor/tensor-like.js';
import { type AdamWState, checkState } from './adamw.js';
import type { OneOrMany } from './step-arguments.js';

/**
 * Sets the float32 master of each state to the value of its weight. States
 * without a master are left as they are.
 *
 * @throws TypeError where a master is not float32, RangeError where lengths
 *   differ or memory is gone; then nothing has changed
 */
export function syncMaster(weights: OneOrMany<TensorLike>, states: OneOrMany<AdamWState>): void {
  const allWeights = (Array.isArray(weights) ? weights : [weights]) as readonly TensorLike[];
  const allStates = (Array.isArray(states) ? states : [states]) as readonly AdamWState[];
  if (allStates.length !== allWeights.length) {
    throw outOfRangeIn(`a list of length ${allWeights.length}`, 'states', `one of length ${allStates.length}`);
  }
  const copies = allWeights.flatMap((weight, i) => {
    checkState(allStates[i], i);
    const master = allStates[i].master;
    if (!master) return [];
    const values = valuesOf(resolve(weight, WEIGHTS, i));
    const { dtype, length, memory } = resolve(master, MASTERS, i);
    if (dtype !== 'float32') throw wrongKindIn('float32', nameOf(MASTERS, i), dtype);
    if (length !== values.length) {
      throw outOfRangeIn(`length ${values.length}`, nameOf(MASTERS, i), `length ${length}`);
    }
    checkIdle(memory, 'written', () => nameOf(MASTERS, i));
    return [{ master: master instanceof Tensor ? master : (memory as Float32Array), values }];
  });
  for (const { master, values } of copies) {
    if (master instanceof Tensor) master.set(values);
    else setTypedArray(master, values);
  }
}

const WEIGHTS = { name: 'weights' };
const MASTERS = { name: 'states', field: '.master' };

/** A copy of the values of a weight. */
function valuesOf(weight: ResolvedTensor): Float32Array | Float64Array {
  if (weight instanceof Tensor) return weight.toArray();
  return Tensor.from(weight.memory as Uint16Array, { dtype: weight.dtype as 'float16' }).toArray();
}
