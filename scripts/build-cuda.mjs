// Builds the device code: prebuilds/fused_adamw.fatbin, and prebuilds/fused_adamw.ptx
// for older drivers. It depends on no host, so the npm package carries it.
//
//   node scripts/build-cuda.mjs              if a compiler is available; else it says so in one line and succeeds
//   node scripts/build-cuda.mjs --required   fails without a compiler
//   node scripts/build-cuda.mjs --force      even if the files are up to date
//
// It installs the pinned compiler into .cuda/ (git-ignored), unless
// FUSED_ADAMW_NVCC names another nvcc.
import { mkdirSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { availableParallelism } from 'node:os';
import { dirname, relative } from 'node:path';
import {
  ARCHITECTURES,
  describe,
  descriptionsIn,
  FATBIN,
  FLAGS,
  PTX,
  PTX_ARCHITECTURES,
  PTX_VERSION,
  root,
  run,
  SOURCE,
  sourceHash,
  toolOf,
} from './device-code.mjs';

const required = process.argv.includes('--required');
const force = process.argv.includes('--force');

function compile(nvcc, description) {
  const common = [...FLAGS, `-DFUSED_ADAMW_DEVICE_CODE="${description}"`, SOURCE];
  const targets = [
    ...ARCHITECTURES.map((each) => ['-gencode', `arch=compute_${each},code=sm_${each}`]),
    ...PTX_ARCHITECTURES.map((each) => ['-gencode', `arch=compute_${each},code=compute_${each}`]),
  ].flat();
  const threads = String(Math.min(availableParallelism(), 8));
  run(nvcc, ['-fatbin', '--no-compress', '--threads', threads, ...targets, ...common, '-o', `${FATBIN}.unfinished`]);
  run(nvcc, ['-ptx', `-arch=compute_${PTX_ARCHITECTURES[0]}`, ...common, '-o', `${PTX}.unfinished`]);
  // The text of the PTX has the description as numbers only.
  const ptx = readFileSync(`${PTX}.unfinished`, 'utf8').replace(/^\.version .*$/m, `.version ${PTX_VERSION}`);
  writeFileSync(`${PTX}.unfinished`, `// ${description}\n${ptx}`);
}

function build() {
  const hash = sourceHash();
  const isUpToDate = [FATBIN, PTX].every((file) => {
    const descriptions = descriptionsIn(file);
    return descriptions.length === 1 && descriptions[0].hash === hash;
  });
  if (isUpToDate && !force) return 'the device code is up to date';
  // Device code of other sources could disagree with the host about the tables that it reads.
  for (const file of [FATBIN, PTX]) rmSync(file, { force: true });

  const nvcc = process.env.FUSED_ADAMW_NVCC || toolOf('cuda-13.0', 'cu13/bin/nvcc');
  const compiler = /\bV(\d[\d.]*)/.exec(run(nvcc, ['--version']))?.[1];
  if (!compiler) throw new Error(`${nvcc} --version names no version`);
  mkdirSync(dirname(FATBIN), { recursive: true });
  compile(nvcc, describe(hash, compiler));
  for (const file of [FATBIN, PTX]) renameSync(`${file}.unfinished`, file);
  return `${[FATBIN, PTX].map((file) => relative(root, file)).join(' and ')} were compiled by nvcc ${compiler}`;
}

try {
  console.log(`fused-adamw: ${build()}`);
} catch (error) {
  console.log(`fused-adamw: no device code was built, steps will run on the CPU (${error.message})`);
  process.exitCode = required ? 1 : 0;
}
