// What build-cuda.mjs and check-device-code.mjs share: the files of the device
// code, what they are made from and by, and the compilers from PyPI.
import { createHash } from 'node:crypto';
import { existsSync, readFileSync } from 'node:fs';
import { dirname, join, relative } from 'node:path';
import { brotliDecompressSync } from 'node:zlib';
import { root, sitePackages } from './commands.mjs';

export const SOURCE = join(root, 'native/cuda/kernels.cu');
/** All images, not compressed: the package carries it compressed as a whole, which takes a third of the space. */
export const FATBIN = join(root, '.cuda/fused_adamw.fatbin');
export const SHIPPED = join(root, 'prebuilds/fused_adamw.fatbin.br');

/**
 * The machine code that is assembled from each PTX. A GPU also runs the machine code of a lower minor version of its
 * compute capability, and the driver translates the last PTX for all later ones.
 */
export const ARCHITECTURES = new Map([
  [75, [75]],
  [80, [80]],
  [90, [90, 100, 120]],
]);
export const SHIPPED_PTX = 90;
/** What drivers of CUDA 12.0 take. */
export const PTX_VERSION = '8.0';

/** The PTX that the machine code is assembled from: the tests run it. */
export const ptxOf = (architecture) => join(root, `.cuda/ptx/compute_${architecture}.ptx`);

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
  'disassembler-13.2': ['nvidia-cuda-cuobjdump==13.2.51', 'nvidia-cuda-nvdisasm==13.2.51'],
  'ptxas-12.9': ['nvidia-cuda-nvcc-cu12==12.9.86'],
};

/** A file of an environment, which is created if it does not exist yet. Throws if it cannot be. */
export function toolOf(environment, path) {
  const folder = join(root, '.cuda', environment);
  const found = join(sitePackages(folder, TOOLS[environment]), 'nvidia', path);
  if (!existsSync(found)) throw new Error(`there is no ${path} in ${relative(root, folder)}`);
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
  hash.update(JSON.stringify([FLAGS, [...ARCHITECTURES], SHIPPED_PTX, PTX_VERSION]));
  return hash.digest('hex');
}

/** What is written into the files. */
export const describe = (hash, compiler, assembler) =>
  `fused-adamw device code ${hash} nvcc ${compiler} ptxas ${assembler}`;

/** Every description in a file, each once. */
export function descriptionsIn(file) {
  if (!existsSync(file)) return [];
  const found = bytesOf(file)
    .toString('latin1')
    .matchAll(/fused-adamw device code ([0-9a-f]{64}) nvcc [\d.]+ ptxas [\d.]+/g);
  return [...new Map([...found].map(([text, hash]) => [text, { text, hash }])).values()];
}

/** What a file holds, once it is decompressed. */
export function bytesOf(file) {
  const bytes = readFileSync(file);
  return file.endsWith('.br') ? brotliDecompressSync(bytes) : bytes;
}

/** What a file of device code contains: machine code (`elf`) and PTX, with the headers' numbers. */
export function imagesIn(file) {
  const bytes = readFileSync(file);
  const images = [];
  for (let at = bytes.readUInt16LE(6); at < bytes.length; ) {
    images.push({
      kind: { 1: 'ptx', 2: 'elf' }[bytes.readUInt16LE(at)],
      /** Of PTX its version; of machine code 1 and the version of its ABI. */
      version: `${bytes.readUInt16LE(at + 26)}.${bytes.readUInt16LE(at + 24)}`,
      architecture: bytes.readUInt32LE(at + 28),
      compression: bytes.readUInt32LE(at + 40) & 0xa000,
    });
    at += bytes.readUInt32LE(at + 4) + Number(bytes.readBigUInt64LE(at + 8));
  }
  return images;
}
