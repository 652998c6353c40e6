/** What a step finds in its gradients, and what follows from it. */
import type { SumsOfSquares } from '../backend/backend.js';
import { withSubnormals } from '../backend/index.js';
import type { ScalarTable } from '../backend/scalar-table.js';
import { clipFactor, normOf } from '../gradients/norm.js';
import type { TensorList } from './tensor-list.js';

/** What was found in the gradients of a step. */
export interface Measured {
  readonly norm: number;
  readonly skips: boolean;
}

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
    return withSubnormals(() => this.#clip(this.#tensors.sumsOfSquares()));
  }

  /** The same, beside JavaScript. */
  async start(): Promise<Measured> {
    const found = await this.#tensors.startSumsOfSquares();
    return withSubnormals(() => this.#clip(found));
  }

  #clip({ sums, finite }: SumsOfSquares): Measured {
    const { rescale } = this.#table;
    this.finite = finite;
    const norm = normOf(sums, rescale);
    if (!finite) return { norm, skips: true };
    if (this.#maxGradNorm === null) return { norm, skips: false };
    if (!(norm < Infinity)) return { norm, skips: true };
    this.#table.writeRescale(rescale * clipFactor(norm, this.#maxGradNorm));
    return { norm, skips: false };
  }
}
