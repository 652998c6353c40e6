/** Options: one that nobody knows is an error that names the nearest one, and each is read once. */
import { wrongKind, wrongKindIn } from './errors.js';

/** What to use in place of names from elsewhere: `{ betas: 'beta1 and beta2' }`. */
export type Synonyms = Readonly<Record<string, string>>;

/**
 * A copy of an object of options, all of which are known: whatever is misspelt
 * would be ignored without a word. Own and inherited enumerable keys count, those
 * whose value is undefined too. Each option is read once, since a getter may give
 * another value the next time.
 *
 * @param known the names of all options
 * @throws TypeError for anything but an object (a Map's entries would be ignored), and for an unknown option, with the
 *   nearest known one
 */
export function readOptions<T extends object, K extends keyof T & string>(
  options: T,
  name: string,
  known: readonly K[],
  synonyms: Synonyms = {},
): Pick<T, K> {
  if (typeof options !== 'object' || options === null || Symbol.iterator in options) {
    throw wrongKind('an object', name, options);
  }
  if (!(Array.isArray as (value: unknown) => boolean)(known)) throw wrongKind('a list of names', 'known', known);
  for (const key in options) {
    if (!(known as readonly string[]).includes(key)) throw unknownOption(key, name, known, synonyms);
  }
  const copy: Partial<T> = {};
  for (const key of known) copy[key] = options[key];
  return copy as Pick<T, K>;
}

/** The error for an option that is not known. */
export function unknownOption(key: string, name: string, known: readonly string[], synonyms: Synonyms): TypeError {
  const meant = meantBy(key, synonyms) ?? nearest(key, known);
  const hint = meant === undefined ? `known are ${known.join(', ')}` : `did you mean ${meant}?`;
  return wrongKindIn('a known option', name, `${JSON.stringify(key)}; ${hint}`);
}

/** What to use in place of a name from elsewhere. */
export function meantBy(key: string, synonyms: Synonyms): string | undefined {
  const synonym = Object.keys(synonyms).find((other) => letters(other) === letters(key));
  return synonym === undefined ? undefined : synonyms[synonym];
}

/** Makes an assignment to a property throw, in sloppy mode too, where the engine ignores it without a word. */
export function refuseAssignment(prototype: object, name: string, refusal: () => TypeError): void {
  Object.defineProperty(prototype, name, {
    configurable: true,
    get: Object.getOwnPropertyDescriptor(prototype, name)?.get,
    set() {
      throw refusal();
    },
  });
}

/** The error for an assignment to what only the constructor takes. */
export function fixedOption(name: string): TypeError {
  return wrongKindIn('an option of the constructor', name, 'an assignment, which cannot change it');
}

/** The name that another one was probably meant to be: a few slips away, or a longer form of it. */
export function nearest(name: string, candidates: Iterable<string>): string | undefined {
  const typed = letters(name);
  let found: string | undefined;
  let least = Math.max(1, Math.floor(typed.length / 3)) + 1;
  for (const candidate of candidates) {
    const other = letters(candidate);
    const isForm = typed.length > 1 && other.length > 1 && (other.includes(typed) || typed.includes(other));
    const distance = isForm ? Math.min(1, editDistance(typed, other)) : editDistance(typed, other);
    if (distance >= least) continue;
    least = distance;
    found = candidate;
  }
  return found;
}

/** A name without what styles differ in: learning_rate and learningRate are one. */
function letters(name: string): string {
  return name.replace(/[-_.\s]/g, '').toLowerCase();
}

/** Letters added, left out, replaced or swapped with the next: optimal string alignment (Damerau, 1964). */
function editDistance(a: string, b: string): number {
  let beforeLast: number[] = [];
  let last = Array.from({ length: b.length + 1 }, (_, j) => j);
  for (let i = 1; i <= a.length; i++) {
    const row = [i];
    for (let j = 1; j <= b.length; j++) {
      const isSame = a[i - 1] === b[j - 1];
      row[j] = Math.min(last[j] + 1, row[j - 1] + 1, last[j - 1] + (isSame ? 0 : 1));
      const isSwap = i > 1 && j > 1 && a[i - 1] === b[j - 2] && a[i - 2] === b[j - 1];
      if (isSwap) row[j] = Math.min(row[j], beforeLast[j - 2] + 1);
    }
    beforeLast = last;
    last = row;
  }
  return last[b.length];
}
