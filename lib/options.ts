/** Options: each is read once, and one that nobody knows is an error that names the nearest one. */
import { wrongKind, wrongKindIn } from './errors.js';

/** What the options of others are called here. */
export type Synonyms = Readonly<Record<string, string>>;

/**
 * A copy of an object of options, inherited ones included, each read once: a
 * getter may give another value the next time.
 *
 * @param known the names of all options
 * @throws TypeError for anything but an object, and for an option that is not known
 */
export function readOptions<T extends object>(
  options: T,
  name: string,
  known: readonly (keyof T & string)[],
  synonyms: Synonyms = {},
): T {
  if (typeof options !== 'object' || options === null || Array.isArray(options)) {
    throw wrongKind('an object', name, options);
  }
  for (const key in options) {
    if (!(known as readonly string[]).includes(key)) throw unknownOption(key, name, known, synonyms);
  }
  const copy: Partial<T> = {};
  for (const key of known) copy[key] = options[key];
  return copy as T;
}

/** The error for an option that is not known. */
export function unknownOption(key: string, name: string, known: readonly string[], synonyms: Synonyms = {}): TypeError {
  const meant = Object.hasOwn(synonyms, key) ? synonyms[key] : nearest(key, known);
  const hint = meant === undefined ? `; the options are ${known.join(', ')}` : `; did you mean ${meant}?`;
  return wrongKindIn('a known option', name, `${JSON.stringify(key)}${hint}`);
}

/** The name that is the fewest edits away, if that is less than half of the word. */
export function nearest(word: string, names: Iterable<string>): string | undefined {
  let best: string | undefined;
  let least = Math.max(2, Math.ceil(word.length / 2));
  for (const name of names) {
    const distance = editDistance(word.toLowerCase(), name.toLowerCase());
    if (distance >= least) continue;
    best = name;
    least = distance;
  }
  return best;
}

/** Insertions, deletions and substitutions from one word to another (Levenshtein, 1966). */
function editDistance(a: string, b: string): number {
  let row = Array.from({ length: b.length + 1 }, (_, k) => k);
  for (let i = 1; i <= a.length; i++) {
    const next = [i];
    for (let k = 1; k <= b.length; k++) {
      next[k] = Math.min(row[k] + 1, next[k - 1] + 1, row[k - 1] + (a[i - 1] === b[k - 1] ? 0 : 1));
    }
    row = next;
  }
  return row[b.length];
}
