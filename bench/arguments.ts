/** The command line of the benchmark. */
import { parseArgs } from 'node:util';
import { CASES, type Case } from './cases.js';
import type { Contender } from './contenders/contender.js';
import { CONTENDERS } from './contenders/index.js';

export interface Arguments {
  readonly cases: readonly Case[];
  readonly contenders: readonly Contender[];
  readonly rounds: number;
  /** Of every contender; null is what this package takes by itself. */
  readonly threads: number | null;
  /** A file. */
  readonly json: string | null;
  /** A folder. */
  readonly charts: string | null;
  readonly list: boolean;
  readonly help: boolean;
}

/** What was typed is not what the benchmark takes; the message says both. */
export class ArgumentError extends Error {
  /** @param received undefined where a value is missing */
  constructor(expected: string, name: string, received: string | undefined) {
    const text = received === undefined ? 'nothing' : JSON.stringify(received);
    super(`Expected ${expected} for ${name} but received ${text}`);
  }
}

const DEFAULT_ROUNDS = '15';

export const USAGE = `Measures AdamW steps, interleaved with what they compare with.

  npm run bench -- [options]

  --cases LIST        names or parts of names, with commas, or all; default: those marked * by --list
  --contenders LIST   the same for contenders
  --rounds N          turns that each contender has in a case; default ${DEFAULT_ROUNDS}
  --threads N         threads of every contender; default: the processors there are
  --json FILE         writes what was measured
  --charts FOLDER     writes speed-large.svg and speed-small.svg
  --list              prints the cases and the contenders and ends
  --help              this text

npm run bench:roof builds what the steps are limited by (npm run bench does it first); npm run bench:peers makes the
Python environments of PyTorch, DeepSpeed and MXNet. What is not there is listed with its reason.`;

const OPTIONS = {
  cases: { type: 'string' },
  contenders: { type: 'string' },
  rounds: { type: 'string' },
  threads: { type: 'string' },
  json: { type: 'string' },
  charts: { type: 'string' },
  list: { type: 'boolean' },
  help: { type: 'boolean' },
} as const;

/** @throws ArgumentError */
export function readArguments(args: string[]): Arguments {
  const given = readOptions(args);
  return {
    cases: choose(CASES, given, 'cases'),
    contenders: choose(CONTENDERS, given, 'contenders'),
    rounds: toInteger(given.has('rounds') ? given.get('rounds') : DEFAULT_ROUNDS, '--rounds', 1, 1000),
    threads: given.has('threads') ? toInteger(given.get('threads'), '--threads', 1, 1024) : null,
    json: given.has('json') ? toPath(given.get('json'), 'a file', '--json') : null,
    charts: given.has('charts') ? toPath(given.get('charts'), 'a folder', '--charts') : null,
    list: given.has('list'),
    help: given.has('help'),
  };
}

/** The text of each option that was given. Not `strict`: its messages have another shape than ours. */
function readOptions(args: string[]): Map<string, string | undefined> {
  const { tokens } = parseArgs({ args, options: OPTIONS, strict: false, allowPositionals: true, tokens: true });
  const given = new Map<string, string | undefined>();
  for (const token of tokens) {
    if (token.kind === 'option' && Object.hasOwn(OPTIONS, token.name)) given.set(token.name, token.value);
    else if (token.kind !== 'option-terminator') {
      const names = Object.keys(OPTIONS).map((name) => `--${name}`);
      throw new ArgumentError(`one of ${names.join(', ')}`, 'an argument', args[token.index]);
    }
  }
  return given;
}

/**
 * Those whose name is one of a list or, where there is none of that name,
 * has it for a part; without a list the default ones.
 */
function choose<T extends { name: string; byDefault: boolean }>(
  all: readonly T[],
  given: ReadonlyMap<string, string | undefined>,
  option: 'cases' | 'contenders',
): T[] {
  if (!given.has(option)) return all.filter(({ byDefault }) => byDefault);
  const text = given.get(option);
  if (text === 'all') return [...all];
  const chosen = new Set<T>();
  for (const wanted of text?.split(/,(?! )/) ?? ['']) {
    const exact = all.filter(({ name }) => name === wanted);
    const found = exact.length > 0 ? exact : all.filter(({ name }) => wanted !== '' && name.includes(wanted));
    if (found.length === 0) throw new ArgumentError(`names that --list prints`, `--${option}`, wanted || undefined);
    for (const each of found) chosen.add(each);
  }
  return all.filter((each) => chosen.has(each));
}

function toInteger(text: string | undefined, name: string, least: number, most: number): number {
  const value = Number(text);
  if (/^\d+$/.test(text ?? '') && value >= least && value <= most) return value;
  throw new ArgumentError(`an integer from ${least} to ${most}`, name, text);
}

function toPath(text: string | undefined, expected: string, name: string): string {
  if (text) return text;
  throw new ArgumentError(expected, name, text);
}
