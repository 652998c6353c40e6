/**
 * Trains a model of tf.js to read handwritten digits with AdamW.
 *
 *     npm run demo:tfjs             on tf.js's wasm backend
 *     npm run demo:tfjs -- cpu      on its backend in JavaScript
 */
import { createRequire } from 'node:module';
import { dirname } from 'node:path';
import '@tensorflow/tfjs-backend-cpu';
import { setWasmPaths } from '@tensorflow/tfjs-backend-wasm';
import * as tf from '@tensorflow/tfjs-core';
import { initializers, layers, type Sequential, sequential } from '@tensorflow/tfjs-layers';
import { CosineScheduler } from 'fused-adamw';
import { adamw } from 'fused-adamw/tfjs';
import { CLASSES, type Digits, loadDigits, PIXELS } from '../mnist/digits.js';
import { Random } from '../mnist/random.js';

const [HIDDEN, EPOCHS, BATCH, SEED] = [64, 4, 100, 1];

/** Selects tf.js's backend. */
async function useBackend(name: string): Promise<void> {
  tf.env().set('PROD', true); // without advice to install other backends
  setWasmPaths(`${dirname(createRequire(import.meta.url).resolve('@tensorflow/tfjs-backend-wasm'))}/`);
  await tf.setBackend(name);
  await tf.ready();
}

function createModel(steps: number): Sequential {
  const model = sequential({
    layers: [
      layers.dense({
        units: HIDDEN,
        activation: 'relu',
        inputShape: [PIXELS],
        kernelInitializer: initializers.heUniform({ seed: 1 }),
      }),
      layers.dense({
        units: CLASSES,
        activation: 'softmax',
        kernelInitializer: initializers.heUniform({ seed: 2 }),
      }),
    ],
  });
  const optimizer = adamw({
    wd: 0.05,
    excludeFromWeightDecay: ['bias'],
    lrScheduler: new CosineScheduler({ baseLr: 0.005, warmupSteps: Math.floor(steps / 20), maxUpdate: steps }),
  });
  model.compile({ optimizer, loss: 'categoricalCrossentropy', metrics: ['accuracy'] });
  return model;
}

/** Images [digits, PIXELS] and one-hot labels [digits, CLASSES] in a given order. */
function toTensors({ images, labels }: Digits, order: Uint32Array): { xs: tf.Tensor2D; ys: tf.Tensor2D } {
  const pixels = new Float32Array(order.length * PIXELS);
  const classes = new Float32Array(order.length * CLASSES);
  order.forEach((of, i) => {
    pixels.set(images[of], i * PIXELS);
    classes[i * CLASSES + labels[of]] = 1;
  });
  return { xs: tf.tensor2d(pixels, [order.length, PIXELS]), ys: tf.tensor2d(classes, [order.length, CLASSES]) };
}

async function main(backend: string): Promise<void> {
  await useBackend(backend);
  const digits = loadDigits();
  const order = Uint32Array.from(digits.training.images, (_, i) => i);
  new Random(SEED).shuffle(order);
  const training = toTensors(digits.training, order);
  const test = toTensors(
    digits.test,
    Uint32Array.from(digits.test.images, (_, i) => i),
  );

  const model = createModel(EPOCHS * Math.ceil(order.length / BATCH));
  await model.fit(training.xs, training.ys, {
    epochs: EPOCHS,
    batchSize: BATCH,
    shuffle: false,
    verbose: 0,
    validationData: [test.xs, test.ys],
    callbacks: {
      onEpochEnd: (epoch, logs) =>
        console.log(
          `epoch ${epoch + 1}/${EPOCHS}  loss ${logs?.loss.toFixed(4)}  test accuracy ${((logs?.val_acc ?? 0) * 100).toFixed(1)}%`,
        ),
    },
  });
}

const backend = process.argv[2] ?? 'wasm';
if (backend === 'wasm' || backend === 'cpu') {
  await main(backend);
} else {
  console.error(`Expected 'wasm' or 'cpu' for the backend but received ${JSON.stringify(backend)}`);
  process.exitCode = 2;
}
