// What build-cuda.mjs and check-device-code.mjs share: the files of the device
// code, what they are made from and by, and the compilers from PyPI.
import { spawnSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { existsSync, mkdirSync, readdirSync, readFileSync, renameSync, rmSync } from 'node:fs';
import { dirname, join, relative } from 'node:path';
import { fileURLToPath } from 'node:url';

export const root = fileURLToPath(new URL('..', import.meta.url));
export const SOURCE = join(root, 'native/cuda/kernels.cu');
export const FATBIN = join(root, 'prebuilds/fused_adamw.fatbin');
/** For drivers before 580, which do not take machine code of CUDA 13. */
export const PTX = join(root, 'prebuilds/fused_adamw.ptx');

/** Machine code for these; later ones in between are served by the PTX. */
export const ARCHITECTURES = [75, 80, 86, 89, 90, 100, 120];
export const PTX_ARCHITECTURES = [75, 120];
/** The lowest that has cvta.param, which __grid_constant__ needs; CUDA 12.0 takes up to 8.0. */
export const PTX_VERSION = '7.7';

export const FLAGS = [
  '-std=c++17',
  '-O3',
  // The contract on bits: no contraction to FMA, IEEE division and root, subnormals kept.
  '-fmad=false',
  '-prec-div=true',
  '-prec-sqrt=true',
  '-ftz=false',
];

/** Environments of Python packages, each in .cuda/. */
export const TOOLS = {
  'cuda-13.0': [
    'nvidia-cuda-nvcc==13.0.88',
    'nvidia-cuda-crt==13.0.88',
    'nvidia-nvvm==13.0.88',
    'nvidia-cuda-runtime==13.0.96',
    'nvidia-cuda-cccl==13.0.85',
  ],
  'cuobjdump-13.2': ['nvidia-cuda-cuobjdump==13.2.51', 'nvidia-cuda-nvdisasm==13.2.51'],
  'ptxas-12.9': ['nvidia-cuda-nvcc-cu12==12.9.86'],
};

export function run(command, args) {
  const result = spawnSync(command, args, { cwd: root, encoding: 'utf8', maxBuffer: 1 << 30 });
  const output = `${result.stdout ?? ''}${result.stderr ?? ''}`;
  if (result.error) throw new Error(`${command} does not start (${result.error.message})`);
  if (result.status !== 0) {
    const lines = output.split('\n').filter((line) => line.trim() !== '');
    const telling = lines.find((line) => /error|not found/i.test(line)) ?? lines.at(-1) ?? `status ${result.status}`;
    throw new Error(`${relative(root, command) || command}: ${telling.trim()}`);
  }
  return result.stdout;
}

/** A file of an environment, which is created if it does not exist yet. Throws if it cannot be. */
export function toolOf(environment, path) {
  const folder = join(root, '.cuda', environment);
  if (!existsSync(folder)) {
    const unfinished = `${folder}.unfinished`;
    mkdirSync(dirname(folder), { recursive: true });
    rmSync(unfinished, { recursive: true, force: true });
    run('python3', ['-m', 'venv', unfinished]);
    run(join(unfinished, 'bin/python'), ['-m', 'pip', 'install', '--quiet', ...TOOLS[environment]]);
    renameSync(unfinished, folder);
  }
  const found = readdirSync(join(folder, 'lib'))
    .map((python) => join(folder, 'lib', python, 'site-packages/nvidia', path))
    .find(existsSync);
  if (!found) throw new Error(`there is no ${path} in ${relative(root, folder)}`);
  return found;
}

/** The source and all headers of ours that it includes. */
function sources(file = SOURCE, found = new Set()) {
  if (found.has(file)) return found;
  found.add(file);
  for (const [, header] of readFileSync(file, 'utf8').matchAll(/^#include "(.*)"$/gm))
    sources(join(dirname(file), header), found);
  return found;
}

/** A digest of everything but the compiler that the device code depends on. */
export function sourceHash() {
  const hash = createHash('sha256');
  for (const file of [...sources()].sort()) hash.update(relative(root, file)).update('\0').update(readFileSync(file));
  hash.update(JSON.stringify([FLAGS, ARCHITECTURES, PTX_ARCHITECTURES, PTX_VERSION]));
  return hash.digest('hex');
}

/** What is embedded in the device code. */
export const describe = (hash, compiler) => `fused-adamw device code ${hash} nvcc ${compiler}`;

/** Every description in a file, each once. */
export function descriptionsIn(file) {
  if (!existsSync(file)) return [];
  const found = readFileSync(file, 'latin1').matchAll(/fused-adamw device code ([0-9a-f]{64}) nvcc ([\d.]+)/g);
  return [...new Map([...found].map(([text, hash, compiler]) => [text, { text, hash, compiler }])).values()];
}
