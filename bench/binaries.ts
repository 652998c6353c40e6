/**
 * npm run bench:binaries: a step of each dtype configuration by two addons, in turns, over the same memory and on one
 * thread: the prebuilt one beside the one that node-gyp compiled, unless two files are given.
 *
 *     npm run bench:binaries -- [--rounds N] [--isas avx512,avx2] [FILE REFERENCE]
 */
import { createRequire } from 'node:module';
import { resolve } from 'node:path';
import { parseArgs } from 'node:util';
import { DTYPE_CONFIGS } from '../lib/backend/abi.js';
import type { DType } from '../lib/index.js';
import { OPTIONS } from './arrays.js';
import { summarise, summariseRatio } from './statistics.js';

type Library = typeof import('../lib/index.js');
type Config = (typeof DTYPE_CONFIGS)[number];

const LENGTHS = [4096, 256 * 1024]; // larger ones wait for memory
const TURN = 20e6; // nanoseconds

const require = createRequire(import.meta.url);

/** The package with an addon, each a copy of its own. */
function load(file: string, isa: string): Library {
  for (const path of Object.keys(require.cache)) delete require.cache[path];
  Object.assign(process.env, {
    FUSED_ADAMW_BACKEND: 'native',
    FUSED_ADAMW_BINARY: resolve(file),
    FUSED_ADAMW_ISA: isa,
  });
  const library: Library = require('../lib/index.js');
  library.setNumThreads(1);
  library.backendInfo();
  return library;
}

/** A step of each package over the same arrays, ready to run. */
function prepare(libraries: readonly Library[], config: Config, length: number): (() => unknown)[] {
  const places = new Map<string, { buffer: ArrayBuffer; byteOffset: number }>();
  return libraries.map(({ AdamW, Tensor }) => {
    const array = (role: string, dtype: DType, value: number) => {
      const known = places.get(role);
      if (known) return Tensor.from(known.buffer, { dtype, byteOffset: known.byteOffset, length });
      const tensor = Tensor.zeros(length, { dtype });
      const { buffer, byteOffset } = tensor.data;
      places.set(role, { buffer: buffer as ArrayBuffer, byteOffset });
      return tensor.set(Float32Array.from({ length }, (_, i) => value * (1 + (i % 1021) / 1021)));
    };
    const state = {
      mean: array('mean', config.mean, 1e-3),
      variance: array('variance', config.variance, 1e-4),
      master: 'master' in config ? array('master', config.master, 0.5) : null,
      maxVariance: 'maximum' in config ? array('maximum', config.maximum, 1e-4) : null,
    };
    const weight = array('weight', config.weight, 0.5);
    const bound = new AdamW({ ...OPTIONS, amsgrad: 'maximum' in config }).bind(
      [0],
      [weight],
      [array('grad', config.grad, 1e-2)],
      [state],
    );
    return () => bound.step();
  });
}

/** The shortest of the times of a turn, in nanoseconds. */
function takeTurn(step: () => unknown): number {
  const times: number[] = [];
  const start = process.hrtime.bigint();
  for (let before = start; before - start < TURN; ) {
    step();
    const now = process.hrtime.bigint();
    times.push(Number(now - before));
    before = now;
  }
  return Math.min(...times); // others use the machine, too
}

/** Microseconds of a step by the first, and its ratio to the second's. */
function compare(steps: readonly (() => unknown)[], length: number, rounds: number): string {
  const times: number[][] = steps.map(() => []);
  for (const step of steps) takeTurn(step); // pages, caches and the compiler settle
  for (let round = 0; round < rounds; round++) {
    for (const i of round % 2 === 0 ? [0, 1] : [1, 0]) times[i].push(takeTurn(steps[i]));
  }
  const microseconds = (summarise(times[0]).median / 1000).toFixed(length < 1e5 ? 2 : 0);
  return `${microseconds} us, ${summariseRatio(times[0], times[1]).median.toFixed(2)}`;
}

const { values, positionals } = parseArgs({
  options: { rounds: { type: 'string', default: '11' }, isas: { type: 'string', default: 'avx512,avx2' } },
  allowPositionals: true,
});
const files =
  positionals.length === 2 ? positionals : ['prebuilds/linux-x64/fused_adamw.node', 'build/Release/fused_adamw.node'];
console.log(`a step by ${files[0]}, and relative to ${files[1]}, over ${LENGTHS.join(', ')} elements`);
for (const isa of values.isas.split(',')) {
  const libraries = files.map((file) => load(file, isa));
  for (const config of DTYPE_CONFIGS) {
    const cells = LENGTHS.map((length) => compare(prepare(libraries, config, length), length, Number(values.rounds)));
    console.log(
      `| ${isa.padEnd(6)} | ${config.name.padEnd(44)} | ${cells.map((cell) => cell.padEnd(13)).join(' | ')} |`,
    );
  }
}
