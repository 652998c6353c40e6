/** A custom optimizer. */
import { type Index, type OneOrMany, Optimizer, type StepResult, type TensorLike } from '../../lib/index.js';
import { valuesIn } from './memory.js';
import { DONE } from './steps.js';

function listOf<T>(value: OneOrMany<T>): readonly T[] {
  return Array.isArray(value) ? value : [value as T];
}

/** Plain gradient descent, as a user would write it. */
export class SGD extends Optimizer<null> {
  override createState(): null {
    return null;
  }

  override step(
    indices: OneOrMany<Index>,
    weights: OneOrMany<TensorLike>,
    grads: OneOrMany<TensorLike>,
    _states: OneOrMany<null>,
  ): StepResult {
    const grad = listOf(grads);
    const weight = listOf(weights);
    this.advanceCounts(listOf(indices));
    listOf(indices).forEach((index, i) => {
      const w = valuesIn(weight[i]);
      const g = valuesIn(grad[i]);
      const lr = this.learningRateOf(index);
      const wd = this.weightDecayOf(index);
      for (let k = 0; k < w.length; k++) w[k] -= lr * (this.rescaleGrad * g[k] + wd * w[k]);
    });
    return DONE;
  }
}
