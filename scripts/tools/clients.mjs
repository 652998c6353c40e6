// Libraries that the package has an optimizer for, from its entry for each.
import { createRequire } from 'node:module';

// The version that the tests use.
const { version } = createRequire(import.meta.url)('@tensorflow/tfjs-core/package.json');

const STEPS = `
tf.env().set('PROD', true);
const weight = tf.variable(tf.tensor1d([1, -2, 3]));
const grad = tf.tensor1d([0.1, 0.2, -0.3]);
const optimizer = adamw({ learningRate: 0.01, wd: 0.01 });
for (let step = 0; step < 3; step++) optimizer.applyGradients({ [weight.name]: grad });
const { backend, native } = backendInfo();
const bits = [...new Uint32Array(weight.dataSync().slice().buffer)].map((each) => each.toString(16)).join(' ');
console.log('result: ' + JSON.stringify({ backend, bits, reason: native.available ? undefined : native.reason }));
`;

const IMPORT = `import * as tf from '@tensorflow/tfjs-core';
import '@tensorflow/tfjs-backend-cpu';
import { backendInfo } from 'fused-adamw';
import { adamw } from 'fused-adamw/tfjs';`;

const REQUIRE = `const tf = require('@tensorflow/tfjs-core');
require('@tensorflow/tfjs-backend-cpu');
const { backendInfo } = require('fused-adamw');
const { adamw } = require('fused-adamw/tfjs');`;

const TYPED = `import type { Optimizer } from '@tensorflow/tfjs-core';
import { adamw } from 'fused-adamw/tfjs';
export const optimizer: Optimizer = adamw({ wd: 0.01, excludeFromWeightDecay: ['bias', /norm/] });
// @ts-expect-error
adamw({ multiPrecision: true });
`;

export default [
  {
    tool: 'tf.js',
    install: { '@tensorflow/tfjs-core': version, '@tensorflow/tfjs-backend-cpu': version, typescript: '5.9.3' },
    files: { 'use.mjs': IMPORT + STEPS, 'use.cjs': REQUIRE + STEPS, 'use.mts': TYPED, 'use.cts': TYPED },
    checks: [
      {
        how: '`import` and `require()` of `fused-adamw/tfjs`',
        run: [
          ['node', 'use.mjs'],
          ['node', 'use.cjs'],
        ],
        native: true,
      },
      {
        how: 'its types, with `skipLibCheck`, which those of tf.js need',
        run: [
          [
            ...['node', 'node_modules/typescript/bin/tsc', '--noEmit', '--strict', '--skipLibCheck'],
            ...['--target', 'es2022', '--module', 'nodenext', 'use.mts', 'use.cts'],
          ],
        ],
        compiles: true,
      },
    ],
  },
];
