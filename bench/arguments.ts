/** The command line of the benchmark. */
import { parseArgs } from 'node:util';
import { CASES, type Case } from './cases.js';
import type { Contender } from './contenders/contender.js';
import { CONTENDERS } from './contenders/index.js';

export interface Arguments {
  readonly cases: readonly Case[];
  readonly contenders: readonly Contender[];
  readonly rounds: number;
  /** Threads of every contender; null for this package's default. */
  readonly threads: number | null;
  /** File to write the measurements to. */
  readonly json: string | null;
  /** File of measurements to draw, in place of new ones. */
  readonly from: string | null;
  /** Folder to write the charts to. */
  readonly charts: string | null;
  readonly list: boolean;
  readonly help: boolean;
}

/** An argument that the benchmark does not accept; the message says what it accepts. */
export class ArgumentError extends Error {
  /** @param received undefined where a value is missing */
  constructor(expected: string, name: string, received: string | undefined) {
    const text = received === undefined ? 'nothing' : JSON.stringify(received);
    super(`Expected ${expected} for ${name} but received ${text}`);
  }
}

const DEFAULT_ROUNDS = '15';

export const USAGE = `Measures AdamW steps, taking turns with what they are compared with.

  npm run bench -- [options]

  --cases LIST        names or parts of names, separated by commas, or all; default: those marked * by --list
  --contenders LIST   the same for contenders
  --rounds N          turns of each contender in a case; default ${DEFAULT_ROUNDS}
  --threads N         threads of every contender; default: the available processors
  --json FILE         writes the measurements
  --charts FOLDER     writes speed-large.svg and speed-small.svg
  --from FILE         draws the charts of measurements that --json wrote, and measures nothing
  --list              prints the cases and the contenders, then exits
  --help              prints this text

npm run bench:roof builds the streams that show the machine's limits (npm run bench does it first); npm run bench:peers
creates the Python environments for PyTorch, DeepSpeed and MXNet. A contender that is missing is listed with the reason.`;

const OPTIONS = {
  cases: { type: 'string' },
  contenders: { type: 'string' },
  rounds: { type: 'string' },
  threads: { type: 'string' },
  json: { type: 'string' },
  from: { type: 'string' },
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
    from: given.has('from') ? toPath(given.get('from'), 'a file', '--from') : null,
    charts: given.has('charts') ? toPath(given.get('charts'), 'a folder', '--charts') : null,
    list: given.has('list'),
    help: given.has('help'),
  };
}

/** The text of each option that was given. Not `strict`, because its messages have another form than ours. */
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
 * Those that a list names. An entry that is nobody's name selects all whose names contain it. Without a list, the
 * default ones.
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
