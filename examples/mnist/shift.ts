/** Moves a digit by a few pixels, which makes one more example of the same digit. */
import { SIDE } from './digits.js';

/**
 * @param image [SIDE * SIDE]
 * @param right and down: pixels to move by, negative for left and up
 * @param moved [SIDE * SIDE], written; what comes in at the edges is blank
 */
export function shift(image: Float32Array, right: number, down: number, moved: Float32Array): void {
  moved.fill(0);
  const first = Math.max(0, -right);
  const last = Math.min(SIDE, SIDE - right);
  for (let y = Math.max(0, -down); y < Math.min(SIDE, SIDE - down); y++) {
    const row = image.subarray(y * SIDE + first, y * SIDE + last);
    moved.set(row, (y + down) * SIDE + first + right);
  }
}
