/** tf.js with the backends that run everywhere. */
import { createRequire } from 'node:module';
import { dirname } from 'node:path';
import { setWasmPaths } from '@tensorflow/tfjs-backend-wasm';
import '@tensorflow/tfjs-backend-cpu';
import * as tf from '@tensorflow/tfjs-core';

export const TF_BACKENDS = ['cpu', 'wasm'] as const;

tf.env().set('PROD', true); // without advice to install other backends
setWasmPaths(`${dirname(createRequire(import.meta.url).resolve('@tensorflow/tfjs-backend-wasm'))}/`);

export async function useBackend(name: (typeof TF_BACKENDS)[number]): Promise<void> {
  await tf.setBackend(name);
  await tf.ready();
}

export { tf };
