/**
 * The tables that this package and its addon must agree on: they pass numbers to
 * each other, which are positions in these lists. The addon exports its own
 * (generated from native/core/roles.def, dtype-configs.def and adamw.h), and one
 * that differs is not used.
 */
import type { DType } from '../numerics/dtype.js';

/** Version of everything else about the interface: the arguments of the addon's functions and what they do. */
const VERSION = 7;

/** The update rules (native/core/adamw.h). */
export const RULES = ['mxnet', 'coupled', 'pytorch'] as const;
export type Rule = (typeof RULES)[number];

/** The arrays of a tensor, and whether a step writes them (native/core/roles.def). */
export const ROLES = [
  { name: 'weight', access: 'written' },
  { name: 'grad', access: 'read' },
  { name: 'mean', access: 'written' },
  { name: 'variance', access: 'written' },
  { name: 'master', access: 'written' },
  { name: 'maximum', access: 'written' },
] as const;
export type Role = (typeof ROLES)[number]['name'];
/** The roles that every tensor has an array of. */
export type EveryRole = 'weight' | 'grad' | 'mean' | 'variance';

/** The dtype of each array of a tensor; undefined where there is no such array. */
export type DTypeConfig = { readonly name: string } & Readonly<Record<EveryRole, DType>> &
  Readonly<Partial<Record<Role, DType>>>;

/** The combinations of dtypes that a step takes (native/core/dtype-configs.def). */
export const DTYPE_CONFIGS = [
  { name: 'float32', weight: 'float32', grad: 'float32', mean: 'float32', variance: 'float32' },
  {
    name: 'float32, amsgrad',
    weight: 'float32',
    grad: 'float32',
    mean: 'float32',
    variance: 'float32',
    maximum: 'float32',
  },
  { name: 'float32, float16 gradients', weight: 'float32', grad: 'float16', mean: 'float32', variance: 'float32' },
  { name: 'float32, bfloat16 gradients', weight: 'float32', grad: 'bfloat16', mean: 'float32', variance: 'float32' },
  { name: 'float32+bfloat16 states', weight: 'float32', grad: 'float32', mean: 'bfloat16', variance: 'bfloat16' },
  { name: 'float64', weight: 'float64', grad: 'float64', mean: 'float64', variance: 'float64' },
  {
    name: 'float64, amsgrad',
    weight: 'float64',
    grad: 'float64',
    mean: 'float64',
    variance: 'float64',
    maximum: 'float64',
  },
  { name: 'float16', weight: 'float16', grad: 'float16', mean: 'float16', variance: 'float16' },
  { name: 'float16+float32 states', weight: 'float16', grad: 'float16', mean: 'float32', variance: 'float32' },
  {
    name: 'float16+float32 states, amsgrad',
    weight: 'float16',
    grad: 'float16',
    mean: 'float32',
    variance: 'float32',
    maximum: 'float32',
  },
  {
    name: 'float16+float32 states, float32 gradients',
    weight: 'float16',
    grad: 'float32',
    mean: 'float32',
    variance: 'float32',
  },
  {
    name: 'float16+master',
    weight: 'float16',
    grad: 'float16',
    mean: 'float32',
    variance: 'float32',
    master: 'float32',
  },
  {
    name: 'float16+master, amsgrad',
    weight: 'float16',
    grad: 'float16',
    mean: 'float32',
    variance: 'float32',
    master: 'float32',
    maximum: 'float32',
  },
  {
    name: 'float16+master, float32 gradients',
    weight: 'float16',
    grad: 'float32',
    mean: 'float32',
    variance: 'float32',
    master: 'float32',
  },
  { name: 'bfloat16', weight: 'bfloat16', grad: 'bfloat16', mean: 'bfloat16', variance: 'bfloat16' },
  { name: 'bfloat16+float32 states', weight: 'bfloat16', grad: 'bfloat16', mean: 'float32', variance: 'float32' },
  {
    name: 'bfloat16+float32 states, amsgrad',
    weight: 'bfloat16',
    grad: 'bfloat16',
    mean: 'float32',
    variance: 'float32',
    maximum: 'float32',
  },
  {
    name: 'bfloat16+float32 states, float32 gradients',
    weight: 'bfloat16',
    grad: 'float32',
    mean: 'float32',
    variance: 'float32',
  },
  {
    name: 'bfloat16+master',
    weight: 'bfloat16',
    grad: 'bfloat16',
    mean: 'float32',
    variance: 'float32',
    master: 'float32',
  },
  {
    name: 'bfloat16+master, amsgrad',
    weight: 'bfloat16',
    grad: 'bfloat16',
    mean: 'float32',
    variance: 'float32',
    master: 'float32',
    maximum: 'float32',
  },
  {
    name: 'bfloat16+master, float32 gradients',
    weight: 'bfloat16',
    grad: 'float32',
    mean: 'float32',
    variance: 'float32',
    master: 'float32',
  },
] as const satisfies readonly DTypeConfig[];
export type DTypeConfigName = (typeof DTYPE_CONFIGS)[number]['name'];

/** Configurations with gradients of these dtypes, as their positions. */
export function configsOfGrads(dtypes: readonly DType[]): Uint8Array {
  return Uint8Array.from(dtypes, (dtype) => DTYPE_CONFIGS.findIndex(({ grad }) => grad === dtype));
}

/** The dtypes that accumulate() takes (FUSED_ADAMW_ACCUMULATIONS in native/core/gradient-norm.h). */
export const ACCUMULATIONS = [
  { into: 'float32', grad: 'float32' },
  { into: 'float32', grad: 'float16' },
  { into: 'float32', grad: 'bfloat16' },
  { into: 'float64', grad: 'float64' },
  { into: 'float16', grad: 'float16' },
  { into: 'bfloat16', grad: 'bfloat16' },
] as const satisfies readonly { into: DType; grad: DType }[];

/** The position in ACCUMULATIONS of each pair. */
export function accumulationsOf(into: readonly DType[], grads: readonly DType[]): Uint8Array {
  return Uint8Array.from(into, (dtype, i) =>
    ACCUMULATIONS.findIndex((one) => one.into === dtype && one.grad === grads[i]),
  );
}

/** The scalars that all tensors of a step share (`StepScalars` in native/core/dtypes.h). */
export const STEP_SCALARS = [
  'rescale',
  'clip',
  'beta1',
  'beta2',
  'zero_grads',
  'stochastic_weights',
  'progress',
] as const;
/** The scalars of a group of tensors (`ScalarGroup` there). */
export const GROUP_SCALARS = ['eta', 'lr', 'wd', 'epsilon', 'root', 'count'] as const;
/** What a GPU decides about a step by (`DecisionScalars` there). */
export const DECISION_SCALARS = [
  'clips',
  'max_norm',
  'scales',
  'dynamic',
  'growth',
  'backoff',
  'interval',
  'restarts',
  'scale',
  'tracker',
  'skips',
] as const;
/** Why a GPU skips a step, by `Decision::Outcome` in native/cuda/work.h; null if it does not. */
export const DECISION_OUTCOMES = [null, 'rescaleGrad', 'gradNorm'] as const;

/** What the addon exports as `abi`. */
export interface Abi {
  readonly version: number;
  readonly rules: readonly string[];
  readonly roles: readonly string[];
  readonly dtypeConfigs: readonly string[];
  readonly accumulations: readonly string[];
  readonly stepScalars: readonly string[];
  readonly groupScalars: readonly string[];
  readonly decisionScalars: readonly string[];
}

export const ABI: Abi = {
  version: VERSION,
  rules: RULES,
  roles: ROLES.map(({ name, access }) => `${name} ${access}`),
  dtypeConfigs: DTYPE_CONFIGS.map(
    (config: DTypeConfig) => `${config.name}: ${ROLES.map(({ name }) => config[name] ?? 'none').join(' ')}`,
  ),
  accumulations: ACCUMULATIONS.map(({ into, grad }) => `${into} ${grad}`),
  stepScalars: STEP_SCALARS,
  groupScalars: GROUP_SCALARS,
  decisionScalars: DECISION_SCALARS,
};

/**
 * @param abi what an addon exports
 * @throws Error where it was built from other tables than these
 */
export function checkAbi(abi: Partial<Abi> | undefined): void {
  for (const key of Object.keys(ABI) as (keyof Abi)[]) {
    const difference = differenceOf(abi?.[key], ABI[key]);
    if (difference !== null) {
      throw new Error(`the binary belongs to another version of the package; build it again (${key}: ${difference})`);
    }
  }
}

/** How what the binary says differs from what is expected; null if it does not. */
function differenceOf(theirs: unknown, ours: number | readonly string[]): string | null {
  if (typeof ours === 'number') return theirs === ours ? null : `${JSON.stringify(theirs)} rather than ${ours}`;
  const list: readonly unknown[] = Array.isArray(theirs) ? theirs : [];
  for (let i = 0; i < Math.max(list.length, ours.length); i++) {
    if (list[i] !== ours[i]) return `${JSON.stringify(list[i])} rather than ${JSON.stringify(ours[i])}`;
  }
  return null;
}
