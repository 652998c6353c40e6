/** Random numbers from a seed, by integer operations only, so that every machine draws the same ones. */

export class Random {
  #state: number;

  /** @param seed an integer in [0, 2**32) */
  constructor(seed: number) {
    this.#state = seed | 0;
  }

  /** An integer in [0, 2**32), by mulberry32 (Tommy Ettinger, 2017). */
  bits(): number {
    this.#state = (this.#state + 0x6d2b79f5) | 0;
    let z = this.#state;
    z = Math.imul(z ^ (z >>> 15), z | 1);
    z ^= z + Math.imul(z ^ (z >>> 7), z | 61);
    return (z ^ (z >>> 14)) >>> 0;
  }

  /** An integer in [0, limit). */
  below(limit: number): number {
    return Math.floor((this.bits() / 2 ** 32) * limit);
  }

  /** A number in [-limit, limit). */
  within(limit: number): number {
    return ((this.bits() / 2 ** 32) * 2 - 1) * limit;
  }

  /** Shuffles a list in place (Fisher-Yates). */
  shuffle(list: Uint32Array): void {
    for (let last = list.length - 1; last > 0; last--) {
      const other = this.below(last + 1);
      const moved = list[last];
      list[last] = list[other];
      list[other] = moved;
    }
  }
}
