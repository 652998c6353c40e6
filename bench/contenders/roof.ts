/** The machine's limits: a stream of the same bytes over the same arrays, the bare loop, an empty call. */
import { existsSync } from 'node:fs';
import { createRequire } from 'node:module';
import { fileURLToPath } from 'node:url';
import { loadBackend } from '../../lib/backend/index.js';
import type { TensorLike } from '../../lib/index.js';
import { type Arrays, dataOf } from '../arrays.js';
import { type Config, elementsOf, LARGE, ONLY_LARGE } from '../cases.js';
import { type CaseContext, type Contender, type Runner, timed } from './contender.js';

type Data = ReturnType<typeof dataOf>;

interface RoofArrays {
  stream(variant: number, threads: number): void;
  readGrads(threads: number): void;
  loop(isa: string, passes: number): number;
  dispose(): void;
}

/** What bench/native/roof.cc exports. */
interface Roof {
  readonly variants: readonly string[];
  readonly Arrays: new (
    config: string,
    weights: Data[],
    grads: Data[],
    means: Data[],
    variances: Data[],
    masters: Data[],
  ) => RoofArrays;
  nothing(): void;
}

// This file is dist/bench/contenders/roof.js.
const PATH = fileURLToPath(new URL('../../../build-bench/Release/roof.node', import.meta.url));

/** In the order of kStreamVariants in bench/native/stream.h. */
const VARIANTS = [
  'stream',
  'stream, parts',
  'stream, parts, non-temporal',
  'stream, parts, prefetch',
  'stream, 1 Mi chunks',
  'stream, 1 Mi chunks, non-temporal',
];

/** Whether a contender is a stream of the bytes of a step. */
export function isStream(name: string): boolean {
  return VARIANTS.includes(name);
}

export const BARE_LOOP = 'bare C++ loop';
export const EMPTY_CALL = 'call that does nothing';

/** @returns the reason as a string if there is none */
function loadRoof(): Roof | string {
  if (!existsSync(PATH)) return 'its addon is not built: npm run bench:roof';
  const roof = createRequire(import.meta.url)(PATH) as Roof;
  return roof.variants.join('; ') === VARIANTS.join('; ') ? roof : 'its addon is old: npm run bench:roof';
}

function contender(name: string, open: (roof: Roof, context: CaseContext) => Runner | string): Contender {
  return {
    name,
    kind: 'roof',
    byDefault: true,
    async open(context) {
      const roof = loadRoof();
      return typeof roof === 'string' ? roof : open(roof, context);
    },
  };
}

function arraysOf(roof: Roof, config: Config, { weights, grads, states }: Arrays): RoofArrays {
  const list = (arrays: readonly TensorLike[]) => arrays.map(dataOf);
  return new roof.Arrays(
    config,
    list(weights),
    list(grads),
    list(states.map((state) => state.mean)),
    list(states.map((state) => state.variance)),
    list(states.flatMap((state) => state.master ?? [])),
  );
}

function stream(variant: number): Contender {
  return contender(VARIANTS[variant], (roof, context) => {
    if (variant > 0 && context.case.lengths.length > 1) return 'only over single tensors';
    if (variant > 0 && context.case.lengths[0] < 2 ** 20) return 'only over large tensors';
    const arrays = arraysOf(roof, context.case.config, context.tensors());
    return {
      run: (steps) => timed(steps, () => arrays.stream(variant, context.threads)),
      close: () => arrays.dispose(),
    };
  });
}

/** The kernel of the active instruction set, over the arrays on one thread. */
const bareLoop = contender(BARE_LOOP, (roof, context) => {
  if (context.case.lengths.length !== 1 || context.case.lengths[0] > 2 ** 16) return 'only for 1 x 4,096';
  const { addon, reason } = loadBackend();
  if (!addon) return `the addon does not load: ${reason}`;
  const arrays = arraysOf(roof, context.case.config, context.tensors());
  return { run: (steps) => arrays.loop(addon.isa(), steps), close: () => arrays.dispose() };
});

const emptyCall = contender(EMPTY_CALL, (roof, context) => {
  if (context.case.lengths.length !== 1 || context.case.lengths[0] > 2 ** 16) return 'only for 1 x 4,096';
  return { run: (steps) => timed(steps, () => roof.nothing()) };
});

/** What gradientStats() cannot be faster than. */
const read = contender('read of the gradients', (roof, context) => {
  if (elementsOf(context.case) < LARGE) return ONLY_LARGE;
  const arrays = arraysOf(roof, context.case.config, context.tensors());
  return { run: (steps) => timed(steps, () => arrays.readGrads(context.threads)), close: () => arrays.dispose() };
});

export const ROOF: readonly Contender[] = [...VARIANTS.map((_, i) => stream(i)), read, bareLoop, emptyCall];
