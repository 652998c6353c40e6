/** This package, through each of its ways to make a step. */
import { loadBackend, switchBackend } from '../../lib/backend/index.js';
import {
  AdamW,
  backendInfo,
  gradientStats,
  LossScaler,
  multiAdamwUpdate,
  setThreading,
  Tensor,
  type TensorLike,
} from '../../lib/index.js';
import { type Arrays, dataOf, OPTIONS } from '../arrays.js';
import { elementsOf, LARGE, ONLY_LARGE } from '../cases.js';
import { type CaseContext, type Contender, type Runner, timed } from './contender.js';

// With more elements than this, the TypeScript backend takes seconds per step.
const MOST_ELEMENTS_OF_TYPESCRIPT = 64 * 2 ** 20;

/** A contender that runs natively in this process. */
function native(name: string, byDefault: boolean, open: (context: CaseContext) => Runner): Contender {
  return {
    name,
    kind: 'this',
    byDefault,
    async open(context) {
      const { addon, reason } = loadBackend();
      return addon ? open(context) : `the addon does not load: ${reason}`;
    },
  };
}

/** As native(), where memory bounds what is measured. */
function onlyLarge(name: string, open: (context: CaseContext) => Runner): Contender {
  const contender = native(name, true, open);
  return {
    ...contender,
    open: async (context) => (elementsOf(context.case) < LARGE ? ONLY_LARGE : contender.open(context)),
  };
}

function bind({ weights, grads, states }: Arrays): Runner {
  const indices = weights.map((_, i) => i);
  const bound = new AdamW(OPTIONS).bind(indices, weights, grads, states);
  return { run: (steps) => timed(steps, () => bound.step()), close: () => bound.dispose() };
}

/** As bind(), with the thread pool where OpenMP is the default. */
function onTeam(arrays: Arrays): Runner {
  const { run, close } = bind(arrays);
  return {
    run(steps) {
      setThreading('team');
      try {
        return run(steps);
      } finally {
        setThreading(null);
      }
    },
    close,
  };
}

/** A method of the optimizer, called repeatedly with the same lists. */
function withLists(method: 'fusedStep' | 'step', { weights, grads, states }: Arrays): Runner {
  const indices = weights.map((_, i) => i);
  const optimizer = new AdamW(OPTIONS);
  return {
    run: (steps) => timed(steps, () => optimizer[method](indices, weights, grads, states)),
    close: () => optimizer.dispose(),
  };
}

/** New gradient arrays for every step; creating them is the caller's work and not timed. */
function withFreshGradients({ weights, grads, states }: Arrays): Runner {
  const indices = weights.map((_, i) => i);
  const optimizer = new AdamW(OPTIONS);
  return {
    run(steps) {
      let time = 0;
      for (let i = 0; i < steps; i++) {
        const fresh = grads.map((grad) => dataOf(grad).slice());
        time += timed(1, () => optimizer.fusedStep(indices, weights, fresh as Float32Array[], states));
      }
      return time / steps;
    },
    close: () => optimizer.dispose(),
  };
}

function withMultiAdamwUpdate({ weights, grads, states }: Arrays): Runner {
  const etas = weights.map(() => OPTIONS.learningRate);
  const lrs = weights.map(() => 1);
  const wds = weights.map(() => OPTIONS.wd);
  const means = states.map((state) => state.mean);
  const variances = states.map((state) => state.variance);
  const masters = states.flatMap((state) => state.master ?? []);
  const options = { etas, lrs, wds, ...(masters.length > 0 ? { masters } : {}) };
  return {
    run: (steps) =>
      timed(steps, () => multiAdamwUpdate([...weights], [...grads], [...means], [...variances], { ...options })),
  };
}

/** A step that unscales, looks for infinities, clips by the norm and clears the gradients. */
export function withEverythingAround(arrays: Arrays): { step(): void; close(): void } {
  const { weights, states } = arrays;
  // Its own, since it clears them.
  const grads = arrays.grads.map((grad) => tensorLike(grad));
  const optimizer = new AdamW({ ...OPTIONS, maxGradNorm: 1 });
  const bound = optimizer.bind(
    weights.map((_, i) => i),
    weights,
    grads,
    states,
  );
  const lossScaler = new LossScaler();
  return {
    step: () => void bound.step({ lossScaler, zeroGrads: true }),
    close: () => bound.dispose(),
  };
}

/** One step after another, each awaited: what the native thread and the event loop add. */
function withPromises({ weights, grads, states }: Arrays): Runner {
  const indices = weights.map((_, i) => i);
  const optimizer = new AdamW(OPTIONS);
  return {
    async run(steps) {
      const start = process.hrtime.bigint();
      for (let i = 0; i < steps; i++) await optimizer.updateAsync(indices, weights, grads, states);
      return Number(process.hrtime.bigint() - start) / steps;
    },
    close: () => optimizer.dispose(),
  };
}

function tensorLike(array: TensorLike): TensorLike {
  const tensor = array instanceof Tensor ? array : Tensor.from(array);
  return Tensor.zeros(tensor.length, { dtype: tensor.dtype, device: tensor.device }).copyFrom(tensor);
}

export const BOUND_STEP = 'bound.step()';
export const BOUND_STEP_AROUND = 'bound.step(), unscaled, clipped, cleared';

export const OURS: readonly Contender[] = [
  native(BOUND_STEP, true, (context) => bind(context.tensors())),
  {
    name: 'bound.step(), team',
    kind: 'this',
    byDefault: true,
    async open(context) {
      const { runtime } = backendInfo().threading;
      return runtime === 'openmp' ? onTeam(context.tensors()) : `the default is no OpenMP but: ${runtime}`;
    },
  },
  native('fusedStep(lists)', false, (context) => withLists('fusedStep', context.tensors())),
  native('bound.step(), plain arrays', true, (context) => bind(context.plain())),
  native('fusedStep(lists), plain arrays', true, (context) => withLists('fusedStep', context.plain())),
  {
    name: 'fusedStep(lists), fresh gradients',
    kind: 'this',
    byDefault: true,
    async open(context) {
      const { addon, reason } = loadBackend();
      if (!addon) return `the addon does not load: ${reason}`;
      const { config } = context.case;
      if (config !== 'float32' && config !== 'float64') return 'gradients of halves are Tensors, not plain arrays';
      return withFreshGradients(context.plain());
    },
  },
  native('step(lists), tensor by tensor', true, (context) => withLists('step', context.tensors())),
  onlyLarge(BOUND_STEP_AROUND, (context) => {
    const { step, close } = withEverythingAround(context.tensors());
    return { run: (steps) => timed(steps, step), close };
  }),
  onlyLarge('gradientStats', ({ tensors }) => {
    const { grads } = tensors();
    return { run: (steps) => timed(steps, () => gradientStats(grads)) };
  }),
  native('await updateAsync(lists)', true, (context) => withPromises(context.tensors())),
  native('multiAdamwUpdate, fresh lists', true, (context) => withMultiAdamwUpdate(context.tensors())),
  {
    name: 'TypeScript',
    kind: 'this',
    byDefault: true,
    async open(context) {
      if (elementsOf(context.case) > MOST_ELEMENTS_OF_TYPESCRIPT) return 'a step takes many seconds';
      const arrays = context.tensors();
      switchBackend('javascript');
      try {
        return bind(arrays);
      } finally {
        switchBackend('native');
      }
    },
  },
];
