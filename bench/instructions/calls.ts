/**
 * Calls one path through the package, first WARM_UP times and then CALLS times between two calls of umask(), where
 * scripts/check-instructions.mjs counts instructions:
 *
 *     node dist/bench/instructions/calls.js PATH WARM_UP CALLS
 */
import { AdamW, multiAdamwUpdate } from '../../lib/index.js';

const TENSORS = 100;
const LENGTH = 16;

const lists = (): Float32Array[] => Array.from({ length: TENSORS }, () => new Float32Array(LENGTH).fill(0.5));
const indices = Array.from({ length: TENSORS }, (_, i) => i);
const weights = lists();
const grads = lists();
const means = lists();
const variances = lists();
const states = indices.map((i) => ({ mean: means[i], variance: variances[i] }));
const ones = indices.map(() => 1);
const optimizer = new AdamW();
const bound = optimizer.bind(indices, weights, grads, states);
const otherGrads = [lists(), lists()];
let call = 0;

/** Calls as a user makes them. */
const PATHS: Readonly<Record<string, () => unknown>> = {
  'bound.step()': () => bound.step(),
  'fusedStep(lists)': () => optimizer.fusedStep(indices, weights, grads, states),
  'fusedStep(lists), other gradients': () => optimizer.fusedStep(indices, weights, otherGrads[call++ % 2], states),
  multiAdamwUpdate: () =>
    multiAdamwUpdate([...weights], [...grads], [...means], [...variances], { etas: ones, lrs: ones, wds: ones }),
};

const [name, warmUp, calls] = process.argv.slice(2);
const callPath = PATHS[name];
function repeat(times: number): void {
  for (let i = 0; i < times; i++) callPath();
}

repeat(Number(warmUp));
process.umask(0o22);
repeat(Number(calls));
process.umask(0o22);
