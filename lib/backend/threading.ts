/** In a file of its own, since the public declarations name it and those of native.ts need @types/node. */

/** What runs the threads of large steps: an OpenMP library of the machine, or a team of the addon's own. */
export type Threading = 'openmp' | 'team';
