/** What is measured: lists of tensors, in each dtype configuration. */

export const CONFIGS = ['float32', 'float32+bfloat16 states', 'bfloat16', 'float16+master', 'float64'] as const;
export type Config = (typeof CONFIGS)[number] | 'bfloat16+master';

export interface Case {
  /** On the command line: '10000x64-float32'. */
  readonly name: string;
  /** In reports: '10,000 x 64 float32'. */
  readonly title: string;
  /** Elements of each tensor. */
  readonly lengths: readonly number[];
  /** Dtype configuration: bfloat16 has bfloat16 states, '+master' float32 states and masters. Peers take the nearest. */
  readonly config: Config;
  /** Whether it runs when no cases are named. */
  readonly byDefault: boolean;
}

const Mi = 2 ** 20;

/** What is done around a step is measured where memory bounds it: over at least so many elements. */
export const LARGE = 4 * Mi;
export const ONLY_LARGE = 'only over at least 4 Mi elements';

const LISTS: readonly { name: string; title: string; lengths: readonly number[]; byDefault?: boolean }[] = [
  { name: '64Mi', title: '1 x 64 Mi', lengths: [64 * Mi] },
  { name: '16Mi', title: '1 x 16 Mi', lengths: [16 * Mi] },
  { name: '4Mi', title: '1 x 4 Mi', lengths: [4 * Mi] },
  { name: '1Mi', title: '1 x 1 Mi', lengths: [Mi], byDefault: false },
  { name: 'gpt2', title: 'GPT-2 small, 148 tensors,', lengths: gpt2Small() },
  { name: '1000x1024', title: '1,000 x 1,024', lengths: new Array<number>(1000).fill(1024) },
  { name: '10000x64', title: '10,000 x 64', lengths: new Array<number>(10000).fill(64) },
  { name: '4096', title: '1 x 4,096', lengths: [4096] },
];

const DEFAULT_NAMES = ['64Mi-float32+bfloat16-states', '64Mi-bfloat16', '16Mi-float16+master', '16Mi-float64'];

export const CASES: readonly Case[] = CONFIGS.flatMap((config) =>
  LISTS.map((list) => {
    const of = caseOf(list, config);
    return {
      ...of,
      byDefault: (config === 'float32' && (list.byDefault ?? true)) || DEFAULT_NAMES.includes(of.name),
    };
  }),
);

/** The cases of npm run bench:cuda. */
export const CUDA_CASES: readonly Case[] = (['float32', 'bfloat16+master', 'bfloat16'] as const).flatMap((config) =>
  [
    { name: '256Mi', title: '1 x 256 Mi', lengths: [256 * Mi] },
    ...LISTS.filter(({ name }) => ['gpt2', '1000x1024', '10000x64'].includes(name)),
  ].map((list) => caseOf(list, config)),
);

function caseOf({ name, title, lengths }: (typeof LISTS)[number], config: Config): Case {
  return { name: `${name}-${config.replace(' ', '-')}`, title: `${title} ${config}`, lengths, config, byDefault: true };
}

/** Bytes that a step moves per element: all arrays are read, and all but the gradient are written. */
export function bytesPerElement(config: Config): number {
  switch (config) {
    case 'float32':
      return 4 * 4 + 3 * 4;
    case 'float32+bfloat16 states':
      return 2 * 4 + 2 * 2 + (4 + 2 * 2);
    case 'bfloat16':
      return 4 * 2 + 3 * 2;
    case 'float16+master':
    case 'bfloat16+master':
      return 2 * 2 + 3 * 4 + (2 + 3 * 4);
    case 'float64':
      return 4 * 8 + 3 * 8;
  }
}

export function elementsOf({ lengths }: Case): number {
  return lengths.reduce((sum, length) => sum + length, 0);
}

/**
 * The parameters of GPT-2 small: 12 layers, width 768, 1,024 positions, 50,257 tokens (Radford et al., "Language Models
 * are Unsupervised Multitask Learners", 2019).
 */
function gpt2Small(): number[] {
  const width = 768;
  const layer = [
    ...[width, width], // first layer norm
    ...[width * 3 * width, 3 * width], // query, key and value
    ...[width * width, width], // attention's projection
    ...[width, width], // second layer norm
    ...[width * 4 * width, 4 * width], // multilayer perceptron
    ...[4 * width * width, width],
  ];
  const layers = new Array<number[]>(12).fill(layer).flat();
  return [50257 * width, 1024 * width, ...layers, width, width];
}
