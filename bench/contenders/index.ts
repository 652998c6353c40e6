/** All contenders, in the order of the table. */
import type { Contender } from './contender.js';
import { PEERS } from './peer.js';
import { ROOF } from './roof.js';
import { OURS } from './this.js';

export const CONTENDERS: readonly Contender[] = [...OURS, ...ROOF, ...PEERS];
