/** How the elements of an array are read and stored, by dtype. */
import type { DType } from '../numerics/dtype.js';
import { fromBfloat16, fromFloat16, toBfloat16, toFloat16 } from '../numerics/half.js';

export interface Codec {
  read(bits: number): number;
  write(value: number): number;
}

const PLAIN: Codec = { read: (value) => value, write: (value) => value };
const FLOAT16: Codec = { read: fromFloat16, write: toFloat16 };
const BFLOAT16: Codec = { read: fromBfloat16, write: toBfloat16 };

export function codecOf(dtype: DType): Codec {
  return dtype === 'float16' ? FLOAT16 : dtype === 'bfloat16' ? BFLOAT16 : PLAIN;
}
