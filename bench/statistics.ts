/** Median and quartiles of measurements. */

export interface Summary {
  readonly median: number;
  /** First and third quartile. */
  readonly quartiles: readonly [number, number];
}

export function summarise(values: readonly (number | undefined)[]): Summary {
  const sorted = values.filter((value) => value !== undefined).sort((a, b) => a - b);
  return { median: quantile(sorted, 0.5), quartiles: [quantile(sorted, 0.25), quantile(sorted, 0.75)] };
}

/** Of the ratios of all rounds in which both were measured. */
export function summariseRatio(
  values: readonly (number | undefined)[],
  reference: readonly (number | undefined)[],
): Summary {
  return summarise(
    values.map((value, i) => {
      const base = reference[i];
      return value === undefined || base === undefined ? undefined : value / base;
    }),
  );
}

function quantile(sorted: readonly number[], share: number): number {
  const place = (sorted.length - 1) * share;
  const below = Math.floor(place);
  const above = Math.min(sorted.length - 1, below + 1);
  return sorted[below] + (sorted[above] - sorted[below]) * (place - below);
}
