/** Copies of the package whose addon must not be used. */
import { expect } from 'chai';
import { type Child, expectExit, expectedDigest, reportsOf, runChild } from './child.js';
import type { ExampleOptions } from './example-step.js';

/** One step of each update rule, and of two dtypes. */
const EXAMPLES: readonly ExampleOptions[] = [
  { length: 100 },
  { length: 100, options: { wd: 0.1, clipGradient: 0.5 } },
  { length: 100, options: { wd: 0.1, correctBias: false, coupledWeightDecay: true } },
  { length: 100, options: { wd: 0.1, rule: 'pytorch' } },
  { length: 100, dtype: 'float64' },
];

/** Module that makes the steps of all examples and reports what they ran on. */
export const STEPS = `
  const library = await import(libraryUrl);
  const digests = ${JSON.stringify(EXAMPLES)}.map((example) => exampleDigest(library, example));
  const { backend, native: { available, reason, path } } = library.backendInfo();
  report({ backend, available, reason, path, digests });`;

/** The digests that STEPS must report on every backend. */
export function expectedDigests(): string[] {
  return EXAMPLES.map(expectedDigest);
}

/** The warnings of the fallback to TypeScript. */
export function fallbackWarnings({ stderr }: Child): string[] {
  return stderr.split('\n').filter((line) => line.includes('FUSED_ADAMW_FALLBACK'));
}

/**
 * Asserts that a copy of the package does not use its addon for this reason,
 * warns of it once, makes its steps in TypeScript with the right bits, and
 * throws if FUSED_ADAMW_BACKEND insists on native code.
 */
export function expectFallback(root: string, reason: RegExp): void {
  const child = runChild(STEPS, { root, env: { FUSED_ADAMW_BACKEND: '' } });
  const [used] = reportsOf(child) as { reason: string }[];
  expect(used.reason).to.match(reason);
  expect(used).to.deep.equal({
    backend: 'javascript',
    available: false,
    reason: used.reason,
    digests: expectedDigests(),
  });
  const warnings = fallbackWarnings(child);
  expect(warnings, child.stderr).to.have.length(1);
  expect(warnings[0]).to.include(used.reason);

  const insisting = runChild(STEPS, { root, env: { FUSED_ADAMW_BACKEND: 'native' } });
  expectExit(insisting, 1);
  expect(insisting.stderr).to.include(
    `Error: FUSED_ADAMW_BACKEND is native, but the addon does not load: ${used.reason}`,
  );
}
