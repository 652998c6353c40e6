/** Refreshes masters after weights were loaded from elsewhere. */
import type { AdamWState } from './adamw.js';
import { outOfRangeIn, wrongKindIn } from './errors.js';
import type { OneOrMany } from './optimizer.js';
import { dtypeOf, storageOf, Tensor, type TensorLike } from './tensor.js';

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
    const master = allStates[i].master;
    if (!master) return [];
    const name = `states[${i}].master`;
    const values = valuesOf(weight, `weights[${i}]`);
    const dtype = dtypeOf(master, name);
    if (dtype !== 'float32') throw wrongKindIn('float32', name, dtype);
    const storage = storageOf(master, name);
    if (storage.length !== values.length) {
      throw outOfRangeIn(`length ${values.length}`, name, `length ${storage.length}`);
    }
    return [{ storage, values }];
  });
  for (const { storage, values } of copies) storage.set(values);
}

function valuesOf(weight: TensorLike, name: string): Float32Array | Float64Array {
  const dtype = dtypeOf(weight, name);
  const storage = storageOf(weight, name);
  if (weight instanceof Tensor) return weight.toArray();
  return dtype === 'float16' ? Tensor.from(storage as Uint16Array, { dtype }).toArray() : (storage as Float32Array);
}
