/** A hash of all the weights of a network, which is equal only if every bit is. */
import { createHash } from 'node:crypto';
import type { Network } from './network.js';

export function hashWeights(network: Network): string {
  const hash = createHash('sha256');
  for (const { weight } of network.parameters) hash.update(weight);
  return hash.digest('hex');
}
