/** float16 and bfloat16 as bits. A NaN is always stored as the same bits, on every backend. */
import { getFloat16, setFloat16 } from '@petamoriken/float16';
import type { DType } from './dtype.js';

const FLOAT16_NAN = 0x7e00;
const BFLOAT16_NAN = 0x7fc0;

const single = new Float32Array(1);
const singleBits = new Uint32Array(single.buffer);
const scratch = new DataView(new ArrayBuffer(2));

/** The 32 bits of a number rounded to float32. */
export function float32Bits(value: number): number {
  single[0] = value;
  return singleBits[0];
}

/** The value of all 65,536 float16, made when first needed. */
let float16Values: Float32Array | undefined;

function makeFloat16Values(): Float32Array {
  const values = new Float32Array(0x10000);
  for (let bits = 0; bits < values.length; bits++) {
    scratch.setUint16(0, bits, true);
    values[bits] = getFloat16(scratch, 0, true);
  }
  return values;
}

export function fromFloat16(bits: number): number {
  float16Values ??= makeFloat16Values();
  return float16Values[bits];
}

/** Rounds to the nearest, ties to even. */
export function toFloat16(value: number): number {
  if (Number.isNaN(value)) return FLOAT16_NAN;
  setFloat16(scratch, 0, value, true);
  return scratch.getUint16(0, true);
}

export function fromBfloat16(bits: number): number {
  singleBits[0] = bits << 16;
  return single[0];
}

/** Rounds to the nearest, ties to even; a double is rounded once. */
export function toBfloat16(value: number): number {
  if (Number.isNaN(value)) return BFLOAT16_NAN;
  single[0] = value;
  let bits = singleBits[0];
  // Where rounding to float32 made a tie of what was none, step back off it.
  if ((bits & 0xffff) === 0x8000 && single[0] !== value) bits += Math.abs(value) > Math.abs(single[0]) ? 1 : -1;
  return ((bits + 0x7fff + ((bits >>> 16) & 1)) >>> 16) & 0xffff;
}

/** The value that bits of a half stand for. */
export function decoderOf(dtype: DType): (bits: number) => number {
  return dtype === 'float16' ? fromFloat16 : fromBfloat16;
}

/** The bits of a half that a value rounds to. */
export function encoderOf(dtype: DType): (value: number) => number {
  return dtype === 'float16' ? toFloat16 : toBfloat16;
}
