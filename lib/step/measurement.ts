/** What a step finds in its gradients, and what follows from it. */
import type { ScalarTable } from '../backend/scalar-table.js';
import { clipFactor, normOf } from '../gradients/norm.js';
import type { Measured } from './run-step.js';
import type { TensorList } from './tensor-list.js';

export class Measurement {
  /** Whether all gradients are finite; undefined until they were looked at. */
  finite: boolean | undefined;
  readonly #tensors: TensorList;
  readonly #table: ScalarTable;
  readonly #maxGradNorm: number | null;

  /** @param table the scalars of the step, which are written */
  constructor(tensors: TensorList, table: ScalarTable, maxGradNorm: number | null) {
    this.#tensors = tensors;
    this.#table = table;
    this.#maxGradNorm = maxGradNorm;
  }

  /** Reads the gradients, and clips by the factor of all of them. It calls nothing that other code may have replaced. */
  take(): Measured {
    const { rescale } = this.#table;
    const { sums, finite } = this.#tensors.sumsOfSquares();
    this.finite = finite;
    const norm = normOf(sums, rescale);
    if (!finite) return { norm, skips: true };
    if (this.#maxGradNorm === null) return { norm, skips: false };
    if (!(norm < Infinity)) return { norm, skips: true };
    this.#table.writeRescale(rescale * clipFactor(norm, this.#maxGradNorm));
    return { norm, skips: false };
  }
}
