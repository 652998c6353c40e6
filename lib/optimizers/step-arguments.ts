/** The arguments of a step: one index with one tensor, or lists of the same length. */
import { outOfRangeIn, wrongKind } from '../errors.js';
import { checkIndex, type Index } from '../step/indices.js';
import type { TensorLike } from '../tensor/tensor-like.js';

/** One, or a list of as many as there are indices. */
export type OneOrMany<T> = T | readonly T[];

/** Lists of the same length. */
export interface StepArguments<State> {
  readonly indices: readonly Index[];
  readonly weights: readonly TensorLike[];
  readonly grads: readonly TensorLike[];
  readonly states: readonly State[];
}

const SINGULAR: Readonly<Record<string, string>> = { weights: 'Tensor', grads: 'Tensor', states: 'state' };

/** One index with one tensor, or lists, as lists. */
export function toLists<State>(
  indices: OneOrMany<Index>,
  weights: OneOrMany<TensorLike>,
  grads: OneOrMany<TensorLike>,
  states: OneOrMany<State>,
): StepArguments<State> {
  if (!Array.isArray(indices)) {
    checkIndex(indices, 'indices');
    for (const [name, value] of Object.entries({ weights, grads, states })) {
      if (Array.isArray(value)) throw wrongKind(`one ${SINGULAR[name]}, since indices is one index,`, name, value);
    }
    return {
      indices: [indices as Index],
      weights: [weights as TensorLike],
      grads: [grads as TensorLike],
      states: [states as State],
    };
  }
  for (const [name, value] of Object.entries({ weights, grads, states })) {
    if (!Array.isArray(value)) throw wrongKind('a list, since indices is one,', name, value);
    if (value.length !== indices.length) {
      throw outOfRangeIn(`a list of length ${indices.length}`, name, `one of length ${value.length}`);
    }
  }
  return {
    indices,
    weights: weights as readonly TensorLike[],
    grads: grads as readonly TensorLike[],
    states: states as readonly State[],
  };
}
