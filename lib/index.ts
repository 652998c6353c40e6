/** fused-adamw: what is public, and only that. */
export { AdamW, type AdamWOptions, type AdamWState } from './adamw.js';
export { type BackendInfo, backendInfo, setNumThreads } from './backend-info.js';
export type { BoundStep, StepResult } from './bound-step.js';
export type { DataOf, Device, DType, Float16ArrayLike } from './dtype.js';
export {
  CosineScheduler,
  type DecaySchedulerOptions,
  FactorScheduler,
  type FactorSchedulerOptions,
  LRScheduler,
  type LRSchedulerOptions,
  MultiFactorScheduler,
  type MultiFactorSchedulerOptions,
  PolyScheduler,
  type PolySchedulerOptions,
} from './lr-scheduler.js';
export { type MultiAdamWUpdateOptions, multiAdamwUpdate } from './multi-adamw-update.js';
export type { ByParameter, Parameter } from './multipliers.js';
export { createOptimizer, type OneOrMany, Optimizer, type OptimizerOptions, register } from './optimizer.js';
export { syncMaster } from './sync-master.js';
export { synchronize } from './synchronize.js';
export {
  Tensor,
  type TensorFromDevicePointerOptions,
  type TensorFromOptions,
  type TensorLike,
  type TensorZerosOptions,
} from './tensor.js';
export type { Index } from './update-counts.js';
