// Ten steps over 148 tensors on a GPU, and ten about which it decides, for a profiler (scripts/check-gpu.sh).
import { AdamW, LossScaler, synchronize, Tensor } from 'fused-adamw';

const weights = Array.from({ length: 148 }, (_, i) => Tensor.zeros(1000 * (i + 1), { device: 'cuda' }));
const grads = weights.map(({ length }) => Tensor.zeros(length, { device: 'cuda' }));
const optimizer = new AdamW();
const states = weights.map((weight, i) => optimizer.createState(i, weight));
const bound = optimizer.bind(
  weights.map((_, i) => i),
  weights,
  grads,
  states,
);
synchronize();
for (let step = 0; step < 10; step++) bound.step();
synchronize();
const lossScaler = new LossScaler();
for (let step = 0; step < 10; step++) bound.step({ lossScaler, maxGradNorm: 1 });
synchronize();
