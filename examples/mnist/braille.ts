/** Digits as text: a braille character shows two by four pixels. */
import { SIDE } from './digits.js';
import { isRight, type Reading } from './evaluation.js';

const GAP = '  ';
const INK = 0.4;

/** The bits of the dots of a braille character, row by row. */
const DOTS = [
  [0x01, 0x08],
  [0x02, 0x10],
  [0x04, 0x20],
  [0x40, 0x80],
];

/** Digits side by side, 14 columns each, with the network's answers below. */
export function printedDigits(readings: readonly Reading[]): string[] {
  const digits = readings.map(({ image }) => rowsOf(image));
  const rows = digits.length === 0 ? [] : digits[0].map((_, row) => digits.map((digit) => digit[row]).join(GAP));
  const captions = readings.map((reading) => captionOf(reading).padEnd(SIDE / 2)).join(GAP);
  return [...rows, captions.trimEnd()];
}

function captionOf(reading: Reading): string {
  return isRight(reading) ? `     ${reading.answer}` : `  ${reading.answer}, is ${reading.label}`;
}

function rowsOf(image: Float32Array): string[] {
  return Array.from({ length: SIDE / 4 }, (_, row) =>
    Array.from({ length: SIDE / 2 }, (_, column) => characterOf(image, 4 * row, 2 * column)).join(''),
  );
}

function characterOf(image: Float32Array, top: number, left: number): string {
  let dots = 0;
  DOTS.forEach((row, y) => {
    row.forEach((dot, x) => {
      if (image[(top + y) * SIDE + left + x] > INK) dots |= dot;
    });
  });
  return String.fromCodePoint(0x2800 + dots);
}
