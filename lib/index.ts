/**
 * The package: what is public, and only that.
 *
 * @module fused-adamw
 */

export type { CudaInfo } from './backend/cuda.js';
export { type BackendInfo, backendInfo, setNumThreads, setThreading, type ThreadingInfo } from './backend/info.js';
export type { Threading } from './backend/threading.js';
export { type AccumulateOptions, accumulate } from './gradients/accumulate.js';
export { type GradientStats, type GradientStatsOptions, gradientStats } from './gradients/gradient-stats.js';
export { LossScaler, type LossScalerOptions, type LossScalerStateDict } from './gradients/loss-scaler.js';
export type { AsyncStepOptions, StepOptions } from './gradients/step-options.js';
export type { DataOf, Device, DType, Float16ArrayLike } from './numerics/dtype.js';
export {
  ADAMW_OPTIONS,
  AdamW,
  type AdamWOptions,
  type AdamWState,
  type AdamWStateTensors,
} from './optimizers/adamw.js';
export {
  CosineScheduler,
  type DecaySchedulerOptions,
  FactorScheduler,
  type FactorSchedulerOptions,
  LR_SCHEDULER_OPTIONS,
  LRScheduler,
  type LRSchedulerOptions,
  MultiFactorScheduler,
  type MultiFactorSchedulerOptions,
  PolyScheduler,
  type PolySchedulerOptions,
} from './optimizers/lr-scheduler.js';
export { type MultiAdamwUpdateOptions, multiAdamwUpdate } from './optimizers/multi-adamw-update.js';
export {
  createOptimizer,
  OPTIMIZER_OPTIONS,
  Optimizer,
  type OptimizerOptions,
  type OptimizerStateDict,
  register,
} from './optimizers/optimizer.js';
export type { OneOrMany } from './optimizers/step-arguments.js';
export { syncMaster } from './optimizers/sync-master.js';
export type { BoundStep } from './step/bound-step.js';
export type { Index } from './step/indices.js';
export type { ByParameter, ByParameterOrPattern, ParameterMultipliers } from './step/multipliers.js';
export type { StepResult } from './step/run-step.js';
export type { DeviceCounts } from './step/update-counts.js';
export type { ResolvedDevice } from './tensor/device.js';
export type { DlpackCapsule } from './tensor/dlpack.js';
export { synchronize, type WaitEventOptions, waitEvent } from './tensor/synchronize.js';
export {
  Tensor,
  type TensorFromDevicePointerOptions,
  type TensorFromJSONOptions,
  type TensorFromOptions,
  type TensorZerosOptions,
} from './tensor/tensor.js';
export type { TensorJSON, TensorJSONNumber } from './tensor/tensor-json.js';
export type { TensorLike } from './tensor/tensor-like.js';
