/** Makers of weights, states and gradients, and comparisons of them. */
import { expect } from 'chai';
import * as abi from '../../lib/backend/abi.js';
import type { AdamWState, DType, Index, TensorLike } from '../../lib/index.js';
import { expectSameBits } from './bits.js';
import { copyOf, fillWith, ownMemory, type Place, tensorOf, valuesIn } from './memory.js';
import { randomGrads, randomWeights } from './random.js';

/** The name of a combination of dtypes that a step takes. */
export type DTypeConfig = abi.DTypeConfigName;

export const DTYPE_CONFIGS: readonly DTypeConfig[] = abi.DTYPE_CONFIGS.map(({ name }) => name);

/** The dtypes of a tensor's arrays. */
export function dtypesOf(config: DTypeConfig): {
  dtype: DType;
  gradDType: DType;
  stateDType: DType;
  hasMaster: boolean;
  hasMaximum: boolean;
} {
  const { weight, grad, mean, master, maximum } = abi.DTYPE_CONFIGS.find(
    ({ name }) => name === config,
  ) as abi.DTypeConfig;
  return {
    dtype: weight,
    gradDType: grad,
    stateDType: mean,
    hasMaster: master !== undefined,
    hasMaximum: maximum !== undefined,
  };
}

/** The dtype configuration that createState() gives a weight. */
export function configOf(dtype: DType, multiPrecision: boolean): DTypeConfig {
  if (dtype === 'float32' || dtype === 'float64') return dtype;
  if (multiPrecision) return `${dtype}+master`;
  return dtype === 'bfloat16' ? 'bfloat16+float32 states' : dtype;
}

/** A new state of zeros, its master included. */
export function makeState(config: DTypeConfig, length: number, place: Place = ownMemory): AdamWState {
  const { stateDType, hasMaster, hasMaximum } = dtypesOf(config);
  return {
    mean: place(stateDType, length),
    variance: place(stateDType, length),
    ...(hasMaster && { master: place('float32', length) }),
    ...(hasMaximum && { maxVariance: place(stateDType, length) }),
  };
}

export interface Model {
  readonly indices: Index[];
  readonly weights: TensorLike[];
  readonly states: AdamWState[];
  /** Of the gradients; those of the weights if it is left out. */
  readonly gradDTypes?: readonly DType[];
}

/** Random weights with new states, one for each dtype configuration and length, with indices from 0. */
export function makeModel(
  specs: readonly (readonly [DTypeConfig, number])[],
  random: () => number,
  place: Place = ownMemory,
): Model {
  const gradDTypes = specs.map(([config]) => dtypesOf(config).gradDType);
  const model: Model = { indices: specs.map((_, i) => i), weights: [], states: [], gradDTypes };
  for (const [config, length] of specs) {
    const weight = place(dtypesOf(config).dtype, length);
    tensorOf(weight).set(randomWeights(random, length));
    const state = makeState(config, length, place);
    if (state.master) tensorOf(state.master).set(tensorOf(weight).toArray());
    model.weights.push(weight);
    model.states.push(state);
  }
  return model;
}

/** Random gradients for the weights of a model. */
export function makeGrads(model: Model, random: () => number, place: Place = ownMemory): TensorLike[] {
  return model.weights.map((weight, i) => {
    const { dtype, length } = tensorOf(weight);
    const grad = place(model.gradDTypes?.[i] ?? dtype, length);
    tensorOf(grad).set(randomGrads(random, length));
    return grad;
  });
}

/** The arguments of a step. */
export interface StepArguments {
  indices: Index[];
  weights: TensorLike[];
  grads: TensorLike[];
  states: AdamWState[];
}

/** Random arguments of a step as in the middle of training: states are not zero. */
export function makeArguments(
  specs: readonly (readonly [DTypeConfig, number])[],
  random: () => number,
  place: Place = ownMemory,
): StepArguments {
  const model = makeModel(specs, random, place);
  for (const { mean, variance, maxVariance } of model.states) {
    const { length } = tensorOf(mean);
    tensorOf(mean).set(Float64Array.from({ length }, () => random() - 0.5));
    tensorOf(variance).set(Float64Array.from({ length }, () => 0.01 + random()));
    if (maxVariance) tensorOf(maxVariance).set(Float64Array.from({ length }, () => 0.01 + random()));
  }
  return { ...model, grads: makeGrads(model, random, place) };
}

/** All arrays that a step writes, with their names. */
export function arraysOf({ weights, states }: Model): [string, TensorLike][] {
  return weights.flatMap((weight, i) => {
    const { mean, variance, master, maxVariance } = states[i];
    const arrays: [string, TensorLike][] = [
      [`weights[${i}]`, weight],
      [`states[${i}].mean`, mean],
      [`states[${i}].variance`, variance],
    ];
    if (master) arrays.push([`states[${i}].master`, master]);
    if (maxVariance) arrays.push([`states[${i}].maxVariance`, maxVariance]);
    return arrays;
  });
}

/** Copies of arrays in other memory. */
export function cloneArrays(arrays: readonly TensorLike[], place: Place = ownMemory): TensorLike[] {
  return arrays.map((array) => {
    const { dtype, length } = tensorOf(array);
    const copy = place(dtype, length);
    fillWith(copy, valuesIn(array));
    return copy;
  });
}

/** A copy of a model in other memory. */
export function cloneModel({ indices, weights, states, gradDTypes }: Model, place: Place = ownMemory): Model {
  return {
    gradDTypes,
    indices: [...indices],
    weights: cloneArrays(weights, place),
    states: states.map(({ mean, variance, master, maxVariance }) => {
      const clone = (array: TensorLike): TensorLike => cloneArrays([array], place)[0];
      return {
        mean: clone(mean),
        variance: clone(variance),
        ...(master && { master: clone(master) }),
        ...(maxVariance && { maxVariance: clone(maxVariance) }),
      };
    }),
  };
}

/** A copy of the arguments of a step in other memory. */
export function cloneArguments(args: StepArguments, place: Place = ownMemory): StepArguments {
  return { ...cloneModel(args, place), grads: cloneArrays(args.grads, place) };
}

function bytesIn(array: TensorLike): Uint8Array {
  const { buffer, byteOffset, byteLength } = valuesIn(array);
  return new Uint8Array(buffer, byteOffset, byteLength);
}

/** Asserts that two models hold the same bits. */
export function expectSameModel(actual: Model, expected: Model, what: string): void {
  const arrays = arraysOf(actual);
  const others = arraysOf(expected);
  expect(arrays.map(([name]) => name)).to.deep.equal(others.map(([name]) => name));
  arrays.forEach(([name, array], k) => {
    const other = others[k][1];
    if (Buffer.compare(bytesIn(array), bytesIn(other)) === 0) return; // many times faster, and true for most
    expectSameBits(valuesIn(array), valuesIn(other), `${what}: ${name}`);
  });
}

/** Remembers the values of a model; the returned function asserts that they are unchanged. */
export function remember(model: Model): (what: string) => void {
  const before = arraysOf(model).map(([name, array]) => ({ name, array, values: copyOf(array) }));
  return (what) => {
    for (const { name, array, values } of before) expectSameBits(valuesIn(array), values, `${what}: ${name}`);
  };
}
