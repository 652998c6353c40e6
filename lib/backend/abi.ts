/** The dtypes of a tensor's arrays: which kernel runs. The order is that of `Layout` in native/core/dtypes.h. */
import type { DType } from '../numerics/dtype.js';

export const LAYOUTS = [
  'float32',
  'float64',
  'float16',
  'float16+float32 states',
  'float16+master',
  'bfloat16',
  'bfloat16+float32 states',
  'bfloat16+master',
] as const;

export type Layout = (typeof LAYOUTS)[number];

/** The number of a layout, or -1 where there is none of these dtypes. */
export function layoutIndex(weight: DType, state: DType, hasMaster: boolean): number {
  const name = hasMaster ? `${weight}+master` : state === weight ? weight : `${weight}+${state} states`;
  if (hasMaster && state !== 'float32') return -1;
  return (LAYOUTS as readonly string[]).indexOf(name);
}

/** The update rules, in the order of `Rule` in native/core/adamw.h. */
export const RULES = ['mxnet', 'coupled', 'pytorch'] as const;
export type Rule = (typeof RULES)[number];

/** The scalars of a step: these four, then those of each group. */
export const COMMON_SCALARS = ['rescale', 'clip', 'beta1', 'beta2'] as const;
/** The scalars of a group, in the order of `Group` in native/core/dtypes.h. */
export const GROUP_SCALARS = ['eta', 'lr', 'wd', 'epsilon', 'root', 'count'] as const;
