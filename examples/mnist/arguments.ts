/** The command line of the demo. */
import { relative } from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { backendInfo, type Device } from 'fused-adamw';

export interface Arguments {
  readonly epochs: number;
  readonly batchSize: number;
  readonly learningRate: number;
  readonly seed: number;
  readonly device: Device | 'auto';
  /** Folder for the pictures. */
  readonly out: string;
  readonly help: boolean;
}

/** An argument that the demo does not accept; the message says what it accepts. */
export class ArgumentError extends Error {
  /**
   * @param received undefined where a value is missing
   * @param why the reason, where the value alone does not show it
   */
  constructor(expected: string, name: string, received: string | undefined, why?: string) {
    const text = received === undefined ? 'nothing' : JSON.stringify(received);
    super(`Expected ${expected} for ${name} but received ${text}${why === undefined ? '' : ` (${why})`}`);
  }
}

// This file is dist/examples/mnist/arguments.js.
const OUT = relative('.', fileURLToPath(new URL('../../../examples/mnist/out', import.meta.url)));

const DEFAULTS = {
  epochs: '10',
  'batch-size': '100',
  'learning-rate': '0.005',
  seed: '1',
  device: 'auto',
  out: OUT,
};

export const USAGE = `Trains a small network on 9,000 handwritten digits and tests it on 1,000 others.

  npm run demo -- [options]

  --epochs N          times through the digits; default ${DEFAULTS.epochs}
  --batch-size N      digits per step; default ${DEFAULTS['batch-size']}
  --learning-rate X   highest learning rate, after the warm-up; default ${DEFAULTS['learning-rate']}
  --seed N            of the first weights and the order of the digits; default ${DEFAULTS.seed}
  --device D          cpu, cuda, cuda:N or auto, where AdamW runs; default ${DEFAULTS.device}
  --out DIR           folder for loss.svg and digits.svg; default ${DEFAULTS.out}
  --help              prints this text

FUSED_ADAMW_BACKEND=javascript, FUSED_ADAMW_ISA=baseline|avx2|avx512 and
OMP_NUM_THREADS change how AdamW runs, but not the weights that it finds.`;

/** @throws ArgumentError */
export function readArguments(args: string[]): Arguments {
  const given = readOptions(args);
  const textOf = (name: keyof typeof DEFAULTS) => (given.has(name) ? given.get(name) : DEFAULTS[name]);
  return {
    epochs: toInteger(textOf('epochs'), '--epochs', 1, 1000),
    batchSize: toInteger(textOf('batch-size'), '--batch-size', 1, 9000),
    learningRate: toRate(textOf('learning-rate'), '--learning-rate'),
    seed: toInteger(textOf('seed'), '--seed', 0, 2 ** 32 - 1),
    device: toDevice(textOf('device'), '--device'),
    out: toFolder(textOf('out'), '--out'),
    help: given.has('help'),
  };
}

const OPTIONS = {
  epochs: { type: 'string' },
  'batch-size': { type: 'string' },
  'learning-rate': { type: 'string' },
  seed: { type: 'string' },
  device: { type: 'string' },
  out: { type: 'string' },
  help: { type: 'boolean' },
} as const;

/** The text of each option that was given. Not `strict`, because its messages have another form than ours. */
function readOptions(args: string[]): Map<string, string | undefined> {
  const { tokens } = parseArgs({ args, options: OPTIONS, strict: false, allowPositionals: true, tokens: true });
  const given = new Map<string, string | undefined>();
  for (const token of tokens) {
    if (token.kind === 'option' && Object.hasOwn(OPTIONS, token.name)) given.set(token.name, token.value);
    else if (token.kind !== 'option-terminator') throw unknownArgument(args[token.index]);
  }
  return given;
}

function unknownArgument(received: string): ArgumentError {
  const names = Object.keys(OPTIONS).map((name) => `--${name}`);
  return new ArgumentError(`one of ${names.join(', ')}`, 'an argument', received);
}

function toInteger(text: string | undefined, name: string, least: number, most: number): number {
  const value = Number(text);
  if (/^\d+$/.test(text ?? '') && value >= least && value <= most) return value;
  throw new ArgumentError(`an integer from ${least} to ${most}`, name, text);
}

function toRate(text: string | undefined, name: string): number {
  const value = Number(text);
  if (value > 0 && value <= 1) return value;
  throw new ArgumentError('a number above 0 and up to 1', name, text);
}

function toDevice(text: string | undefined, name: string): Device | 'auto' {
  if (!/^(cpu|auto|cuda(:\d+)?)$/.test(text ?? '')) {
    throw new ArgumentError("'cpu', 'cuda', 'cuda:N' or 'auto'", name, text);
  }
  const device = text as Device | 'auto';
  const { cuda } = backendInfo();
  if (device.startsWith('cuda') && !cuda.available) throw new ArgumentError('a usable device', name, text, cuda.reason);
  return device;
}

function toFolder(text: string | undefined, name: string): string {
  if (text) return text;
  throw new ArgumentError('a folder', name, text);
}
