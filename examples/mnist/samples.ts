/** Selects the test digits that are shown. */
import { CLASSES } from './digits.js';
import { isRight, type Reading } from './evaluation.js';

/** The first of each digit that was read right. */
export function firstRight(readings: readonly Reading[]): Reading[] {
  return Array.from({ length: CLASSES }, (_, digit) => digit).flatMap((digit) => {
    const found = readings.find((reading) => reading.label === digit && isRight(reading));
    return found ? [found] : [];
  });
}

/** The digits that were read wrong, with the most confident mistake first. */
export function surestWrong(readings: readonly Reading[], most: number): Reading[] {
  return readings
    .filter((reading) => !isRight(reading))
    .sort((a, b) => b.probability - a.probability)
    .slice(0, most);
}
