/** The norm of the gradients of a step, and the factor that clips it. */
const { sqrt } = Math; // it is called amid a step, where other code may have replaced the function

/** The sum over tensors, in their order. */
export function sumOf(sums: Float64Array): number {
  let sum = 0;
  for (let i = 0; i < sums.length; i++) sum += sums[i];
  return sum;
}

/** The norm of gradients that are multiplied by `rescale`, from the sums of the squares of each tensor. */
export function normOf(sums: Float64Array, rescale: number): number {
  return sqrt(sumOf(sums)) * (rescale < 0 ? -rescale : rescale);
}

/** The factor by which torch.nn.utils.clip_grad_norm_ multiplies gradients of this norm (PyTorch 2.15.0). */
export function clipFactor(norm: number, maxNorm: number): number {
  const factor = maxNorm / (norm + 1e-6);
  // biome-ignore lint/complexity/useMathMinMax: Math.min may have been replaced
  return factor < 1 ? factor : 1;
}
