/**
 * Multipliers of the learning rate and the weight decay, by parameter.
 *
 * Precedence as in MXNet: `paramDict` wins over the index, the index over the
 * name that `paramIdx2name` gives it.
 */
import { types } from 'node:util';
import { checkNumber, wrongKind } from '../errors.js';
import type { Index } from './update-counts.js';

/** By index or by name; the keys of an object that are whole numbers are indices. */
export type ByParameter<T> = ReadonlyMap<Index, T> | Readonly<Record<Index, T>>;

/** What `paramDict` holds for an index. */
export interface Parameter {
  readonly lrMult?: number;
  readonly wdMult?: number;
}

/** A map or an object as a map; '12' as an object's key is the index 12. */
export function toMap<T>(value: unknown, name: string, check: (value: unknown, name: string) => T): Map<Index, T> {
  if (value === undefined || value === null) return new Map();
  if (typeof value !== 'object' || Array.isArray(value)) throw wrongKind('a Map or an object', name, value);
  const entries: [unknown, unknown][] = types.isMap(value)
    ? [...value]
    : Object.entries(value).map(([key, entry]) => [indexOfKey(key), entry]);
  return new Map(
    entries.map(([key, entry]) => [
      checkIndex(key, `a key of ${name}`),
      check(entry, `${name}[${JSON.stringify(key)}]`),
    ]),
  );
}

function indexOfKey(key: string): Index {
  return /^(0|[1-9]\d{0,14})$/.test(key) ? Number(key) : key;
}

export function checkIndex(index: unknown, name: string): Index {
  if (typeof index === 'string' || (Number.isSafeInteger(index) && (index as number) >= 0)) return index as Index;
  throw wrongKind('a whole number of at least 0 or a string', name, index);
}

function checkParameter(value: unknown, name: string): Parameter {
  if (typeof value !== 'object' || value === null) throw wrongKind('an object with lrMult and wdMult', name, value);
  const { lrMult, wdMult } = value as Record<string, unknown>;
  if (lrMult !== undefined) checkNumber(lrMult, `${name}.lrMult`);
  if (wdMult !== undefined) checkNumber(wdMult, `${name}.wdMult`);
  return value;
}

function checkName(value: unknown, name: string): string {
  if (typeof value !== 'string') throw wrongKind('a string', name, value);
  return value;
}

export class Multipliers {
  readonly #names: ReadonlyMap<Index, string>;
  readonly #parameters: ReadonlyMap<Index, Parameter>;
  #lr = new Map<Index, number>();
  #wd = new Map<Index, number>();
  #version = 0;

  constructor(paramIdx2name: unknown, paramDict: unknown) {
    this.#names = toMap(paramIdx2name, 'paramIdx2name', checkName);
    this.#parameters = toMap(paramDict, 'paramDict', checkParameter);
  }

  /**
   * Moves whenever a multiplier may have changed. The parameters of `paramDict`
   * are the caller's and may change at any time, so with them it always moves.
   */
  get version(): number {
    if (this.#parameters.size > 0) this.#version++;
    return this.#version;
  }

  setLr(value: unknown): void {
    this.#lr = toMap(value, 'lrMult', checkNumber);
    this.#version++;
  }

  setWd(value: unknown): void {
    this.#wd = toMap(value, 'wdMult', checkNumber);
    this.#version++;
  }

  lr(index: Index): number {
    return this.#lookUp(index, this.#lr, 'lrMult');
  }

  wd(index: Index): number {
    return this.#lookUp(index, this.#wd, 'wdMult');
  }

  #lookUp(index: Index, multipliers: ReadonlyMap<Index, number>, key: 'lrMult' | 'wdMult'): number {
    const parameter = this.#parameters.get(index);
    if (parameter) return checkNumber(parameter[key] ?? 1, `paramDict[${JSON.stringify(index)}].${key}`);
    const byIndex = multipliers.get(index);
    if (byIndex !== undefined) return byIndex;
    const name = this.#names.get(index);
    return (name === undefined ? undefined : multipliers.get(name)) ?? 1;
  }
}
