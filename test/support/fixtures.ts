/** The golden data in test/fixtures. */
import { readFileSync } from 'node:fs';
import type { DType } from '../../lib/index.js';

// This file is dist/test/support/fixtures.js.
const folder = new URL('../../../test/fixtures/', import.meta.url);

export interface FixtureStep {
  readonly grads: string[];
  readonly weights: string[] | null;
  readonly means: string[] | null;
  readonly variances: string[] | null;
  readonly masters?: string[];
  readonly rescaleGrad?: number;
  readonly weightsReference?: string[];
  readonly meansReference?: string[];
  readonly variancesReference?: string[];
}

export interface FixtureCase {
  readonly name: string;
  readonly dtype: 'float16' | 'float32' | 'float64';
  readonly implementation?: string;
  readonly bitExact?: boolean;
  readonly options: Record<string, number | boolean>;
  readonly lrMult?: Record<string, number>;
  readonly wdMult?: Record<string, number>;
  readonly shapes: number[][];
  readonly initial: string[];
  readonly steps: FixtureStep[];
}

export interface FixtureScheduler {
  readonly scheduler: 'FactorScheduler' | 'MultiFactorScheduler' | 'PolyScheduler' | 'CosineScheduler';
  readonly options: Record<string, number | string | number[]>;
  readonly numUpdate: number[];
  readonly learningRate: number[];
}

export interface Fixture {
  readonly source: string;
  readonly optimizer: FixtureCase[];
  readonly schedulers: FixtureScheduler[];
}

export function readFixture(name: 'mxnet-adamw' | 'pytorch-adamw' | 'coupled-adamw'): Fixture {
  return JSON.parse(readFileSync(new URL(`${name}.json`, folder), 'utf8'));
}

/** What test/fixtures/generate-scaler.py writes: gradients of a scaled loss, unscaled and clipped by PyTorch. */
export interface ScalerFixture {
  readonly options: Readonly<Record<'learningRate' | 'beta1' | 'beta2' | 'epsilon' | 'wd' | 'maxGradNorm', number>>;
  readonly scaler: Readonly<Record<'initialScale' | 'growthFactor' | 'backoffFactor' | 'growthInterval', number>>;
  /** Steps with a gradient that is not finite, from 1. */
  readonly infinite: readonly number[];
  readonly cases: readonly ScalerCase[];
}

export interface ScalerCase {
  /** What it adds to the options of all cases. */
  readonly options: { readonly amsgrad?: boolean; readonly maximize?: boolean };
  readonly initial: readonly string[];
  readonly steps: readonly {
    readonly scale: number;
    readonly grads: readonly string[];
    /** null where it is not finite. */
    readonly norm: number | null;
    readonly weights?: readonly string[];
    readonly means?: readonly string[];
    readonly variances?: readonly string[];
    readonly maxVariances?: readonly string[];
  }[];
  /** After the last step. */
  readonly scale: number;
}

export function readScalerFixture(): ScalerFixture {
  return JSON.parse(readFileSync(new URL('pytorch-scaler.json', folder), 'utf8'));
}

/** The values of a base64 string; halves as bits. */
export function decode(text: string, dtype: DType): Float32Array | Float64Array | Uint16Array {
  const bytes = Buffer.from(text, 'base64');
  const buffer = new ArrayBuffer(bytes.length);
  new Uint8Array(buffer).set(bytes);
  if (dtype === 'float32') return new Float32Array(buffer);
  return dtype === 'float64' ? new Float64Array(buffer) : new Uint16Array(buffer);
}
