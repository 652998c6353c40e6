// The programs that the checks of tools run. Each prints one line: what ran, why, and the bits of the weights.

const STEPS = `
const weight = new Float32Array([1, -2, 3]);
const grad = new Float32Array([0.1, 0.2, -0.3]);
const optimizer = new AdamW({ learningRate: 0.01, wd: 0.01 });
const state = optimizer.createState(0, weight);
for (let step = 0; step < 3; step++) optimizer.update(0, weight, grad, state);
const { backend, native } = backendInfo();
const bits = [...new Uint32Array(weight.buffer)].map((each) => each.toString(16)).join(' ');`;
const REPORT = `console.log('result: ' + JSON.stringify({ backend, bits, reason: native.available ? undefined : native.reason }));`;

export const IMPORT = `import { AdamW, backendInfo } from 'fused-adamw';\n`;
export const REQUIRE = `const { AdamW, backendInfo } = require('fused-adamw');\n`;

/** A program that imports or requires the package. */
export const program = (header) => `${header}${STEPS}\n${REPORT}\n`;

/** A test of a runner in the style of Jest. */
export const testFile = (header) => `${header}test('steps', () => {${STEPS}\n${REPORT}\n});\n`;

/** A program that fails unless require() and import give the same classes. */
export const BOTH = `import * as imported from 'fused-adamw';
import { createRequire } from 'node:module';
const required = createRequire(import.meta.url)('fused-adamw');
for (const name of Object.keys(required)) {
  if (imported[name] !== required[name]) throw new Error(name + ' differs between require() and import');
}
const { AdamW, backendInfo } = required;
${STEPS}
${REPORT}
`;

/** A program whose steps do not block: in memory of ours and in shared memory, the same bits as of the others. */
export const ASYNC = `import { AdamW, backendInfo, Tensor } from 'fused-adamw';
const zeros = {
  ours: () => Tensor.zeros(3),
  shared: () => Tensor.from(new SharedArrayBuffer(12), { dtype: 'float32' }),
};
const results = [];
for (const make of Object.values(zeros)) {
  const [weight, grad, mean, variance] = [1, 2, 3, 4].map(make);
  weight.set([1, -2, 3]);
  grad.set([0.1, 0.2, -0.3]);
  const optimizer = new AdamW({ learningRate: 0.01, wd: 0.01 });
  await Promise.all([1, 2, 3].map(() => optimizer.updateAsync(0, weight, grad, { mean, variance })));
  results.push([...new Uint32Array(weight.toArray().buffer)].map((each) => each.toString(16)).join(' '));
}
const [bits, shared] = results;
if (bits !== shared) throw new Error('shared memory: ' + shared);
const { backend, native } = backendInfo();
${REPORT}
`;

/** TypeScript that must compile, and in which one mistake must be found. */
export const typed = (header) => `${header}
const weight: Tensor<'bfloat16'> = Tensor.zeros([3, 4], { dtype: 'bfloat16' });
const bits: Uint16Array = weight.data;
const dtype: DType = weight.dtype;
const optimizer = new AdamW({ lrScheduler: new CosineScheduler({ maxUpdate: 10 }), multiPrecision: true });
const result: StepResult = optimizer.fusedStep(['a'], [weight], [weight], [optimizer.createState('a', weight)]);
// @ts-expect-error
new AdamW({ learningRate: 'fast' });
export const used = [result.skipped ? result.reason : 'updated', bits, dtype, multiAdamwUpdate];
`;
export const TYPED_IMPORT = `import { AdamW, CosineScheduler, type DType, multiAdamwUpdate, type StepResult, Tensor } from 'fused-adamw';`;
export const TYPED_REQUIRE = `import fused = require('fused-adamw');
import { AdamW, CosineScheduler, type DType, multiAdamwUpdate, type StepResult, Tensor } from 'fused-adamw';
const same: typeof AdamW = fused.AdamW;`;
