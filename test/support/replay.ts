/** Runs the golden cases of test/fixtures. */

import { AdamW, type AdamWOptions, type AdamWState, type DType, type TensorLike } from '../../lib/index.js';
import { viewOf } from '../../lib/numerics/dtype.js';
import type { Values } from './bits.js';
import { decode, type FixtureCase, type FixtureStep } from './fixtures.js';
import { fillWith, ownMemory, type Place, tensorOf } from './memory.js';
import type { Model } from './model.js';

/** The ways to make a step. */
export const CALLS = ['fusedStep()', 'step()', 'bind()'] as const;
export type Call = (typeof CALLS)[number];

/** Runs the steps of a model through one of the ways; the function that is returned makes one by other gradients. */
export function stepper(optimizer: AdamW, { indices, weights, states }: Model, call: Call) {
  const bind = (grads: readonly TensorLike[]) => {
    const bound = optimizer.bind(indices, weights, grads, states);
    return (others: readonly TensorLike[]) => {
      bound.setGrads(others);
      return bound.step();
    };
  };
  let boundStep: ReturnType<typeof bind> | undefined;
  return (grads: readonly TensorLike[]) => {
    if (call === 'fusedStep()') return optimizer.fusedStep(indices, weights, grads, states);
    if (call === 'step()') return optimizer.step(indices, weights, grads, states);
    boundStep ??= bind(grads);
    return boundStep(grads);
  };
}

/** Golden values so many times, one after the other: each element is updated on its own. */
export function repeated(text: string, dtype: DType, times: number): Values {
  const values = decode(text, dtype);
  const all = viewOf(dtype, new ArrayBuffer(times * values.byteLength), 0, times * values.length);
  for (let i = 0; i < times; i++) all.set(values, i * values.length);
  return all;
}

function placed(text: string, dtype: DType, place: Place, times: number): TensorLike {
  const values = repeated(text, dtype, times);
  const tensor = place(dtype, values.length);
  fillWith(tensor, values);
  return tensor;
}

export interface ReplayOptions {
  /** Options beside those of the case. */
  readonly options?: AdamWOptions;
  readonly call?: Call;
  readonly place?: Place;
  /** How often each array holds the values of the case. Default 1. */
  readonly times?: number;
}

/** Runs a case; `after` sees the model after each step. */
export function replay(
  test: FixtureCase,
  { options, call = 'fusedStep()', place = ownMemory, times = 1 }: ReplayOptions,
  after: (model: Model, step: FixtureStep, t: number) => void,
): void {
  const optimizer = new AdamW({ ...test.options, ...options });
  optimizer.setLrMult(test.lrMult ?? {});
  optimizer.setWdMult(test.wdMult ?? {});
  const hasMaster = optimizer.multiPrecision && test.dtype === 'float16';
  const stateDType = hasMaster ? 'float32' : test.dtype;
  const weights = test.initial.map((text) => placed(text, test.dtype, place, times));
  const states = weights.map((weight): AdamWState => {
    const { length } = tensorOf(weight);
    const state = { mean: place(stateDType, length), variance: place(stateDType, length) };
    if (!hasMaster) return state;
    const master = place('float32', length);
    tensorOf(master).set(tensorOf(weight).toArray());
    return { ...state, master };
  });
  const model: Model = { indices: weights.map((_, i) => i), weights, states };
  const step = stepper(optimizer, model, call);
  test.steps.forEach((golden, i) => {
    if (golden.rescaleGrad !== undefined) optimizer.rescaleGrad = golden.rescaleGrad;
    const { skipped } = step(golden.grads.map((text) => placed(text, test.dtype, place, times)));
    if (skipped) throw new Error('the step was skipped');
    after(model, golden, i + 1);
  });
}
