/** fused-adamw: what is public, and only that. */

export { type BackendInfo, backendInfo, setNumThreads, setThreading, type ThreadingInfo } from './backend/info.js';
export type { Threading } from './backend/native.js';
export type { DataOf, Device, DType, Float16ArrayLike } from './numerics/dtype.js';
export { AdamW, type AdamWOptions, type AdamWState } from './optimizers/adamw.js';
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
} from './optimizers/lr-scheduler.js';
export { type MultiAdamWUpdateOptions, multiAdamwUpdate } from './optimizers/multi-adamw-update.js';
export { createOptimizer, type OneOrMany, Optimizer, type OptimizerOptions, register } from './optimizers/optimizer.js';
export { syncMaster } from './optimizers/sync-master.js';
export type { BoundStep, StepResult } from './step/bound-step.js';
export type { ByParameter, Parameter } from './step/multipliers.js';
export type { Index } from './step/update-counts.js';
export { synchronize } from './tensor/synchronize.js';
export {
  Tensor,
  type TensorFromDevicePointerOptions,
  type TensorFromOptions,
  type TensorLike,
  type TensorZerosOptions,
} from './tensor/tensor.js';
