/**
 * Multipliers of the learning rate and the weight decay, by parameter.
 *
 * Precedence as in MXNet: `paramDict` wins over the index, the index over the
 * name that `paramIdx2name` gives it, and that over a pattern.
 */
import { types } from 'node:util';
import { checkNumber, outOfRangeIn, wrongKind } from '../errors.js';
import { meantBy, nearest, unknownOption } from '../options.js';
import { checkIndex, type Index, indexOfKey } from './indices.js';

/** By index or by name; a key that is a whole number is an index, whether it is a number or a string. */
export type ByParameter<T> = ReadonlyMap<Index, T> | Readonly<Record<Index, T>>;

/** The same, where a Map may also have regular expressions as keys: they match names, or indices as strings. */
export type ByParameterOrPattern<T> = ReadonlyMap<Index | RegExp, T> | Readonly<Record<Index, T>>;

/** What `paramDict` holds for an index. */
export interface ParameterMultipliers {
  /** Of the learning rate; at least 0. Default 1. */
  readonly lrMult?: number;
  /** Of the weight decay; at least 0. Default 1. */
  readonly wdMult?: number;
}

const PARAMETER_KEYS = ['lrMult', 'wdMult'] as const;

/** What parameter groups of PyTorch have: values there, not multipliers. */
const PARAMETER_SYNONYMS = { learningRate: 'lrMult', weightDecay: 'wdMult' };

/** Values by index or name, then by pattern, in order. */
interface Table<T> {
  readonly byIndex: Map<Index, T>;
  readonly byPattern: readonly (readonly [RegExp, T])[];
}

/** An object or a Map as a table. */
function toTable<T>(
  value: unknown,
  name: string,
  check: (value: unknown, name: string) => T,
  takesPatterns = false,
): Table<T> {
  const byIndex = new Map<Index, T>();
  const byPattern: [RegExp, T][] = [];
  for (const [key, entry] of entriesOf(value, name)) {
    if (takesPatterns && types.isRegExp(key)) {
      // A copy without `g` and `y`: those remember where they matched last.
      const pattern = new RegExp(key.source, key.flags.replace(/[gy]/g, ''));
      byPattern.push([pattern, check(entry, `${name}[${String(key)}]`)]);
      continue;
    }
    const index = checkIndex(key, `a key of ${name}`);
    if (byIndex.has(index)) throw outOfRangeIn('each index once', name, `${JSON.stringify(index)} twice`);
    byIndex.set(index, check(entry, `${name}[${JSON.stringify(key)}]`));
  }
  return { byIndex, byPattern };
}

function entriesOf(value: unknown, name: string): [unknown, unknown][] {
  if (value === undefined || value === null) return [];
  if (typeof value !== 'object' || Array.isArray(value)) throw wrongKind('a Map or an object', name, value);
  return types.isMap(value) ? [...value] : Object.entries(value).map(([key, entry]) => [indexOfKey(key), entry]);
}

function checkMultiplier(value: unknown, name: string): number {
  return checkNumber(value, name) + 0; // -0 is 0
}

function checkParameter(value: unknown, name: string): ParameterMultipliers {
  if (typeof value !== 'object' || value === null) throw wrongKind('an object with lrMult and wdMult', name, value);
  for (const key of PARAMETER_KEYS) {
    const multiplier = (value as ParameterMultipliers)[key];
    if (multiplier !== undefined) checkMultiplier(multiplier, `${name}.${key}`);
  }
  // It may be an object of the caller's with more in it, but not with one of ours misspelt.
  for (const key in value) {
    if ((PARAMETER_KEYS as readonly string[]).includes(key)) continue;
    if ((meantBy(key, PARAMETER_SYNONYMS) ?? nearest(key, PARAMETER_KEYS)) !== undefined) {
      throw unknownOption(key, name, PARAMETER_KEYS, PARAMETER_SYNONYMS);
    }
  }
  return value;
}

function checkName(value: unknown, name: string): string {
  if (typeof value !== 'string') throw wrongKind('a string', name, value);
  return value;
}

export class Multipliers {
  readonly #names: ReadonlyMap<Index, string>;
  readonly #parameters: ReadonlyMap<Index, ParameterMultipliers>;
  #lr: Table<number> = { byIndex: new Map(), byPattern: [] };
  #wd: Table<number> = { byIndex: new Map(), byPattern: [] };
  /** Keys that no parameter has met yet, by the argument that they came in. */
  readonly #unmet = new Map<string, Set<unknown>>();
  /** Indices and names that were met. */
  readonly #met = new Set<string>();
  #version = 0;

  constructor(paramIdx2name: unknown, paramDict: unknown) {
    this.#names = toTable(paramIdx2name, 'paramIdx2name', checkName).byIndex;
    this.#parameters = toTable(paramDict, 'paramDict', checkParameter).byIndex;
    this.#expect('paramDict', this.#parameters.keys());
  }

  /**
   * Changes whenever a multiplier may have changed. The parameters of `paramDict`
   * are the caller's and may change at any time, so with them it always changes.
   */
  get version(): number {
    if (this.#parameters.size > 0) this.#version++;
    return this.#version;
  }

  setLr(value: unknown): void {
    this.#lr = toTable(value, 'lrMult', checkMultiplier, true);
    this.#expect('lrMult', [...this.#lr.byIndex.keys(), ...this.#lr.byPattern.map(([pattern]) => pattern)]);
    this.#version++;
  }

  setWd(value: unknown): void {
    this.#wd = toTable(value, 'wdMult', checkMultiplier, true);
    this.#expect('wdMult', [...this.#wd.byIndex.keys(), ...this.#wd.byPattern.map(([pattern]) => pattern)]);
    this.#version++;
  }

  lr(index: Index): number {
    return this.#lookUp(index, this.#lr, 'lrMult');
  }

  wd(index: Index): number {
    return this.#lookUp(index, this.#wd, 'wdMult');
  }

  /** Whether there are keys that no parameter has met. */
  get hasUnmet(): boolean {
    return this.#unmet.size > 0;
  }

  /** Notes that there is a parameter of this index. */
  meet(index: Index): void {
    if (this.#unmet.size === 0) return;
    const name = this.#names.get(index);
    this.#met.add(String(index));
    if (name !== undefined) this.#met.add(name);
    for (const [argument, keys] of this.#unmet) {
      for (const key of keys) {
        const isMet = types.isRegExp(key)
          ? key.test(name ?? String(index))
          : key === index || (argument !== 'paramDict' && name !== undefined && key === indexOfKey(name));
        if (isMet) keys.delete(key);
      }
      if (keys.size === 0) this.#unmet.delete(argument);
    }
  }

  /** Warns of each key that no parameter has met, once. */
  tellUnmet(): void {
    for (const [argument, keys] of this.#unmet) {
      for (const key of keys) {
        const near = typeof key === 'string' ? nearest(key, [...this.#names.values(), ...this.#met]) : undefined;
        process.emitWarning(
          `${argument} has an entry for ${types.isRegExp(key) ? String(key) : JSON.stringify(key)}, ` +
            `but no parameter of that index or name was updated${near === undefined ? '' : `; did you mean ${JSON.stringify(near)}?`}`,
          { code: 'FUSED_ADAMW_UNMET_MULTIPLIER' },
        );
      }
    }
    this.#unmet.clear();
  }

  #expect(argument: string, keys: Iterable<unknown>): void {
    this.#unmet.delete(argument);
    const all = new Set(keys);
    if (all.size > 0) this.#unmet.set(argument, all);
  }

  #lookUp(index: Index, { byIndex, byPattern }: Table<number>, key: 'lrMult' | 'wdMult'): number {
    const parameter = this.#parameters.get(index);
    if (parameter) return checkMultiplier(parameter[key] ?? 1, `paramDict[${JSON.stringify(index)}].${key}`);
    const ofIndex = byIndex.get(index);
    if (ofIndex !== undefined) return ofIndex;
    const name = this.#names.get(index);
    const ofName = name === undefined ? undefined : byIndex.get(indexOfKey(name));
    if (ofName !== undefined) return ofName;
    if (byPattern.length === 0) return 1;
    const subject = name ?? String(index);
    return byPattern.find(([pattern]) => pattern.test(subject))?.[1] ?? 1;
  }
}
