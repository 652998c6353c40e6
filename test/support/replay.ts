/** Runs the golden cases of test/fixtures. */

import { AdamW, type AdamWOptions, type DType, Tensor, type TensorLike } from '../../lib/index.js';
import type { Values } from './bits.js';
import { decode, type FixtureCase, type FixtureStep } from './fixtures.js';
import { fillWith, ownMemory, type Place, tensorOf } from './memory.js';
import { configOf, type Model, makeState } from './model.js';
import { type Call, stepper } from './steps.js';

/** Golden values repeated `times` times, which is valid since elements are updated independently. */
export function repeated(text: string, dtype: DType, times: number): Values {
  const values = decode(text, dtype);
  const all: Values = Tensor.zeros(times * values.length, { dtype }).data;
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
  /** Options in addition to those of the case. */
  readonly options?: AdamWOptions;
  readonly call?: Call;
  readonly place?: Place;
  /** How often each array repeats the values of the case. Default 1. */
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
  const weights = test.initial.map((text) => placed(text, test.dtype, place, times));
  const states = weights.map((weight) => {
    const { dtype, length } = tensorOf(weight);
    const state = makeState(configOf(dtype, optimizer.multiPrecision), length, place);
    if (state.master) tensorOf(state.master).set(tensorOf(weight).toArray());
    return state;
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
