/**
 * `base ** exponent` in double-double, rounded once at the end.
 *
 * Repeated squaring with + and x only, so that every engine gives the same
 * bits: `**` and Math.pow differ from one version to the next (0.999 ** t in
 * one case of ten). Products and sums are error-free transformations: Dekker,
 * "A floating-point technique for extending the available precision" (1971),
 * and Knuth's two-sum.
 */

const SPLITTER = 2 ** 27 + 1;

/** Exponents below this are computed once: their powers begin those of larger exponents. */
const REMEMBERED = 256;

/**
 * Powers of one base, in [0, 1). Squares, and products of the first of them, are
 * computed once; a power is then a few products more, which allocate nothing.
 */
export class Powers {
  readonly base: number;
  /** base ** (2 ** k), each an unevaluated sum high + low. */
  readonly #highs: number[];
  readonly #lows: number[] = [0];
  /** Of the exponents that are remembered: high and low by turns; high is NaN where it was not asked for yet. */
  readonly #remembered = new Float64Array(2 * REMEMBERED).fill(Number.NaN);
  /** What multiply() returned. */
  #high = 0;
  #low = 0;

  constructor(base: number) {
    this.base = base;
    this.#highs = [base];
  }

  /** `base ** exponent` for a whole exponent of at least 0. */
  of(exponent: number): number {
    const first = exponent % REMEMBERED;
    if (Number.isNaN(this.#remembered[2 * first])) {
      this.#high = 1;
      this.#low = 0;
      this.#multiplySquares(0, first);
      // What marks an entry as there comes last, here and below: a call may be interrupted anywhere.
      this.#remembered[2 * first + 1] = this.#low;
      this.#remembered[2 * first] = this.#high;
    }
    this.#high = this.#remembered[2 * first];
    this.#low = this.#remembered[2 * first + 1];
    this.#multiplySquares(Math.log2(REMEMBERED), (exponent - first) / REMEMBERED);
    return this.#high + this.#low;
  }

  /** Multiplies by the squares that the bits of `rest` name, the lowest first, which is square `k`. */
  #multiplySquares(k: number, rest: number): void {
    for (; rest > 0 && this.#high > 0; k++, rest = Math.floor(rest / 2)) {
      if (rest % 2 === 0) continue;
      while (this.#highs.length <= k) this.#addSquare();
      this.#multiply(this.#high, this.#low, this.#highs[k], this.#lows[k]);
    }
  }

  #addSquare(): void {
    const high = this.#high;
    const low = this.#low;
    const next = this.#highs.length;
    this.#multiply(this.#highs[next - 1], this.#lows[next - 1], this.#highs[next - 1], this.#lows[next - 1]);
    this.#lows[next] = this.#low;
    this.#highs[next] = this.#high;
    this.#high = high;
    this.#low = low;
  }

  /** high + low of a * b, for a and b far from overflow. */
  #multiply(aHigh: number, aLow: number, bHigh: number, bLow: number): void {
    const product = aHigh * bHigh;
    let split = SPLITTER * aHigh;
    const a1 = split - (split - aHigh);
    const a2 = aHigh - a1;
    split = SPLITTER * bHigh;
    const b1 = split - (split - bHigh);
    const b2 = bHigh - b1;
    const error = a1 * b1 - product + a1 * b2 + a2 * b1 + a2 * b2;
    const tail = error + (aHigh * bLow + aLow * bHigh);
    this.#high = product + tail;
    this.#low = tail - (this.#high - product);
  }
}

/** `base ** exponent` for a base in [0, 1) and a whole exponent of at least 0. */
export function power(base: number, exponent: number): number {
  return new Powers(base).of(exponent);
}
