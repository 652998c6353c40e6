/** The one shape of a message, after sharp's: says what was expected, for which argument, and what came. */

import { pathToFileURL } from 'node:url';
import { types } from 'node:util';

/** A value of the wrong kind. */
export function wrongKind(expected: string, name: string, received: unknown): TypeError {
  return new TypeError(message(expected, name, describe(received)));
}

/** A value of the right kind that is out of its range. */
export function outOfRange(expected: string, name: string, received: unknown): RangeError {
  return new RangeError(message(expected, name, describe(received)));
}

/** As wrongKind, with what was received in words. */
export function wrongKindIn(expected: string, name: string, received: string): TypeError {
  return new TypeError(message(expected, name, received));
}

/** As outOfRange, with what was received in words. */
export function outOfRangeIn(expected: string, name: string, received: string): RangeError {
  return new RangeError(message(expected, name, received));
}

/** The error for what an asynchronous step uses until its promise is settled. */
export function busy(expected: string, name: string, received: string): RangeError {
  return Object.assign(outOfRangeIn(expected, name, received), { code: 'FUSED_ADAMW_BUSY' });
}

function message(expected: string, name: string, received: string): string {
  return `Expected ${expected} for ${name} but received ${received}`;
}

/**
 * The key under which an object of the package says which copy of the package it
 * is of: THIS_COPY, another one's, or null for what has a prototype of ours and
 * nothing behind it. Registered, as every copy must find it.
 */
export const ORIGIN: unique symbol = Symbol.for('fused-adamw.origin');

/** This copy of the package: of two, `instanceof` knows only its own. */
export const THIS_COPY: object = Object.freeze({
  // A bundle that is an ES module has no __filename.
  url: typeof __filename === 'string' ? pathToFileURL(__filename).href : 'in a bundle',
});

/** Characters of a string that a message quotes. */
const LONG = 200;

function describe(value: unknown): string {
  switch (typeof value) {
    case 'string':
      return value.length > LONG ? `${JSON.stringify(value.slice(0, LONG))}...` : JSON.stringify(value);
    case 'number':
      return Object.is(value, -0) ? '-0' : String(value);
    case 'bigint':
      return `${value}n`;
    case 'function':
      return value.name ? `the function ${value.name}` : 'a function';
    case 'symbol':
      return 'a symbol';
    case 'object':
      return value === null ? 'null' : describeObject(value);
    default:
      return String(value);
  }
}

function describeObject(value: object): string {
  if (types.isProxy(value)) return 'a Proxy';
  if (Array.isArray(value)) return `an array of length ${value.length}`;
  const name: unknown = value.constructor?.name;
  if (typeof name !== 'string' || name === '' || name === 'Object') return 'an object';
  const described = /^[aeio]/i.test(name) ? `an ${name}` : `a ${name}`;
  const origin = (value as { readonly [ORIGIN]?: { readonly url?: unknown } | null })[ORIGIN];
  if (origin === undefined || origin === THIS_COPY) return described;
  if (origin === null) return `${described} without memory, as a copy of its properties is`;
  return `${described} of another copy of fused-adamw, ${origin.url} (npm ls fused-adamw lists them, npm dedupe keeps one)`;
}

/** A finite number of at least `least`. */
export function checkNumber(value: unknown, name: string, least = 0): number {
  const expected = `a finite number of at least ${least}`;
  if (typeof value !== 'number') throw wrongKind(expected, name, value);
  if (!(value >= least) || value === Infinity) throw outOfRange(expected, name, value);
  return value;
}

/** A whole number of at least `least`. */
export function checkInteger(value: unknown, name: string, least = 0): number {
  const expected = `an integer of at least ${least}`;
  if (typeof value !== 'number') throw wrongKind(expected, name, value);
  if (!Number.isSafeInteger(value) || value < least) throw outOfRange(expected, name, value);
  return value + 0; // of -0 too
}

export function checkBoolean(value: unknown, name: string): boolean {
  if (typeof value !== 'boolean') throw wrongKind('a boolean', name, value);
  return value;
}

/** One of a few strings. */
export function checkOneOf<T extends string>(value: unknown, name: string, choices: readonly T[]): T {
  const found = choices.find((choice) => choice === value);
  if (found !== undefined) return found;
  const expected = choices.map((choice) => `'${choice}'`).join(' or ');
  throw typeof value === 'string' ? outOfRange(expected, name, value) : wrongKind(expected, name, value);
}

/** An address or a handle of native code: a bigint, or a whole number that a double holds exactly. */
export function checkPointer(value: unknown, name: string): bigint {
  if (typeof value === 'number') return BigInt(checkInteger(value, name));
  const expected = 'an address of at most 64 bits';
  if (typeof value !== 'bigint') throw wrongKind(expected, name, value);
  if (value < 0n || value >= 2n ** 64n) throw outOfRange(expected, name, value);
  return value;
}

/**
 * What an argument, or a list of arguments, is called in messages. The name of
 * an element is put together only when a message needs it.
 */
export interface Named {
  readonly name: string;
  /** What follows the position in a list: `.mean` in `states[3].mean`. */
  readonly field?: string;
}

/** What element i of a list is called; without i, the argument itself. */
export function nameOf({ name, field = '' }: Named, i?: number): string {
  return i === undefined ? name : `${name}[${i}]${field}`;
}
