/**
 * Steps over arrays that are made from bits alone, so that they are the same in
 * every process, whatever its floating-point environment.
 *
 * Child processes import this file; it must not import the library itself.
 */
import { createHash } from 'node:crypto';
import type * as library from '../../lib/index.js';

export type Library = typeof library;

export interface ExampleOptions {
  readonly length: number;
  /** Default 'float32'. */
  readonly dtype?: library.DType;
  /** Default 1. */
  readonly steps?: number;
  /** Options of AdamW. */
  readonly options?: library.AdamWOptions;
  /** Whether all values are subnormal, or the smallest normal ones. Default false: all are around 1. */
  readonly subnormal?: boolean;
  /** Arrays that are all 0. */
  readonly zeros?: readonly ('grad' | 'mean' | 'variance')[];
}

export interface Example {
  readonly weight: library.Tensor;
  readonly grad: library.Tensor;
  readonly state: { readonly mean: library.Tensor; readonly variance: library.Tensor };
}

/** Bytes of an element, mantissa bits in its upper (or only) word, and the biased exponent of 0.5. */
const FORMATS = {
  float16: { bytes: 2, mantissa: 10, half: 14 },
  bfloat16: { bytes: 2, mantissa: 7, half: 126 },
  float32: { bytes: 4, mantissa: 23, half: 126 },
  float64: { bytes: 8, mantissa: 20, half: 1022 },
} as const;

/** Weight, gradient and state; no value is NaN or infinite, no variance negative. */
export function makeExample({ Tensor }: Library, options: ExampleOptions): Example {
  const { length, dtype = 'float32', subnormal = false, zeros = [] } = options;
  let random = 1;
  const next = (): number => {
    random = (Math.imul(random, 1664525) + 1013904223) >>> 0;
    return random >>> 8;
  };
  const make = (of: library.DType, role: 'weight' | 'grad' | 'mean' | 'variance'): library.Tensor => {
    const { bytes, mantissa, half } = FORMATS[of];
    const buffer = new ArrayBuffer(bytes * length);
    const words = bytes === 2 ? new Uint16Array(buffer) : new Uint32Array(buffer);
    const sign = role === 'variance' ? 0 : 2 ** (bytes === 2 ? 15 : 31);
    const isZero = zeros.some((zero) => zero === role);
    for (let i = 0; i < words.length && !isZero; i++) {
      const isLower = bytes === 8 && i % 2 === 0;
      const exponent = (subnormal ? 0 : half) + (next() & 1);
      const value = exponent * 2 ** mantissa + (next() & (2 ** mantissa - 1)) + (next() & 1) * sign;
      words[i] = isLower ? next() : value;
    }
    return Tensor.from(buffer, { dtype: of });
  };
  const stateDType = dtype === 'bfloat16' ? 'float32' : dtype;
  return {
    weight: make(dtype, 'weight'),
    grad: make(dtype, 'grad'),
    state: { mean: make(stateDType, 'mean'), variance: make(stateDType, 'variance') },
  };
}

/** The arrays after some steps. */
export function exampleStep(from: Library, options: ExampleOptions): Example {
  const example = makeExample(from, options);
  const optimizer = new from.AdamW(options.options);
  for (let i = 0; i < (options.steps ?? 1); i++) {
    optimizer.fusedStep('example', example.weight, example.grad, example.state);
  }
  return example;
}

/** The SHA-256 of the bits of weight, mean and variance. */
export function digestOf({ weight, state }: Example): string {
  const hash = createHash('sha256');
  for (const { data } of [weight, state.mean, state.variance]) {
    hash.update(new Uint8Array(data.buffer, data.byteOffset, data.byteLength));
  }
  return hash.digest('hex');
}

/** The digest of some steps. */
export function exampleDigest(from: Library, options: ExampleOptions): string {
  return digestOf(exampleStep(from, options));
}
