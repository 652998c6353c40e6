/**
 * The scalars of a step as native code reads them: an array of doubles with those
 * of the step first, then those of each group. Every access to it is here.
 */
import { DECISION_SCALARS, GROUP_SCALARS, STEP_SCALARS } from './abi.js';

/** What all tensors of a step share. */
export interface StepScalars {
  /** Multiplies the gradient. */
  readonly rescale: number;
  /** Bound of the rescaled gradient; Infinity for no clipping. */
  readonly clip: number;
  readonly beta1: number;
  readonly beta2: number;
  /** Whether the gradients are cleared. */
  readonly zeroGrads: boolean;
  /** Whether bfloat16 weights without masters are rounded stochastically. */
  readonly stochasticWeights: boolean;
}

/** What the tensors of a group share; native/core/adamw.h says what each rule makes of it. */
export interface GroupScalars {
  readonly eta: number;
  readonly lr: number;
  readonly wd: number;
  readonly epsilon: number;
  readonly root: number;
  /** Number of this update, for stochastic rounding. */
  readonly count: number;
}

const [RESCALE, CLIP, BETA1, BETA2, ZERO_GRADS, STOCHASTIC_WEIGHTS, PROGRESS] = STEP_SCALARS.keys();
const [ETA, LR, WD, EPSILON, ROOT, COUNT] = GROUP_SCALARS.keys();

export class ScalarTable {
  readonly values: Float64Array;

  constructor(groups: number) {
    this.values = new Float64Array(STEP_SCALARS.length + groups * GROUP_SCALARS.length);
  }

  /**
   * How many tensors the step has updated, written by whatever updates them: 0
   * before the first, 0.5 more for one that has been begun.
   */
  get progress(): number {
    return this.values[PROGRESS];
  }

  /** Before a step that writes its scalars elsewhere. */
  clearProgress(): void {
    this.values[PROGRESS] = 0;
  }

  writeStep({ rescale, clip, beta1, beta2, zeroGrads, stochasticWeights }: StepScalars): void {
    const { values } = this;
    values[RESCALE] = rescale;
    values[CLIP] = clip;
    values[BETA1] = beta1;
    values[BETA2] = beta2;
    values[ZERO_GRADS] = zeroGrads ? 1 : 0;
    values[STOCHASTIC_WEIGHTS] = stochasticWeights ? 1 : 0;
    values[PROGRESS] = 0;
  }

  /** The factor of the gradients. */
  get rescale(): number {
    return this.values[RESCALE];
  }

  /** The scalars of the step, and those of so many groups. */
  first(groups: number): Float64Array {
    return this.values.subarray(0, STEP_SCALARS.length + groups * GROUP_SCALARS.length);
  }

  /** Replaces the factor of the gradients. */
  writeRescale(rescale: number): void {
    this.values[RESCALE] = rescale;
  }

  writeGroup(group: number, { eta, lr, wd, epsilon, root, count }: GroupScalars): void {
    const { values } = this;
    const at = STEP_SCALARS.length + group * GROUP_SCALARS.length;
    values[at + ETA] = eta;
    values[at + LR] = lr;
    values[at + WD] = wd;
    values[at + EPSILON] = epsilon;
    values[at + ROOT] = root;
    values[at + COUNT] = count;
  }
}

/** What a GPU decides about a step by; native/core/scalars.h says more. */
export type DecisionScalars = Readonly<Record<(typeof DECISION_SCALARS)[number], number>>;

export function decisionArray(scalars: DecisionScalars): Float64Array {
  return Float64Array.from(DECISION_SCALARS, (name) => scalars[name]);
}

/** The scalars that all tensors share, from the array of a table. */
export function readStep(values: Float64Array): StepScalars {
  return {
    rescale: values[RESCALE],
    clip: values[CLIP],
    beta1: values[BETA1],
    beta2: values[BETA2],
    zeroGrads: values[ZERO_GRADS] !== 0,
    stochasticWeights: values[STOCHASTIC_WEIGHTS] !== 0,
  };
}

/** The scalars of a group, from the array of a table. */
export function readGroup(values: Float64Array, group: number): GroupScalars {
  const at = STEP_SCALARS.length + group * GROUP_SCALARS.length;
  return {
    eta: values[at + ETA],
    lr: values[at + LR],
    wd: values[at + WD],
    epsilon: values[at + EPSILON],
    root: values[at + ROOT],
    count: values[at + COUNT],
  };
}

/** Notes in the array of a table that so many more tensors are updated. */
export function addProgress(values: Float64Array, tensors: number): void {
  values[PROGRESS] += tensors;
}
