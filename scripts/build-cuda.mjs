// Builds the device code, prebuilds/fused_adamw.fatbin.br. It depends on no host, so the npm package carries it.
//
//   node scripts/build-cuda.mjs              if a compiler is available; else it says so in one line and succeeds
//   node scripts/build-cuda.mjs --required   fails without a compiler
//   node scripts/build-cuda.mjs --force      even if the files are up to date
//
// It installs pinned tools into .cuda/ (git-ignored), unless FUSED_ADAMW_NVCC names another nvcc, beside which the
// others are. The compiler makes PTX; what assembles that is of CUDA 12.9, because drivers before 580 do not take
// machine code of CUDA 13's assembler.
import { mkdirSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { dirname, join, relative } from 'node:path';
import { brotliCompressSync, constants } from 'node:zlib';
import { root, run } from './commands.mjs';
import {
  ARCHITECTURES,
  describe,
  descriptionsIn,
  FATBIN,
  FLAGS,
  PTX_VERSION,
  ptxOf,
  SHIPPED,
  SHIPPED_PTX,
  SOURCE,
  sourceHash,
  toolOf,
} from './device-code.mjs';

const required = process.argv.includes('--required');
const force = process.argv.includes('--force');

function tools() {
  const nvcc = process.env.FUSED_ADAMW_NVCC;
  if (nvcc) return { nvcc, ptxas: join(dirname(nvcc), 'ptxas'), fatbinary: join(dirname(nvcc), 'fatbinary') };
  return {
    nvcc: toolOf('cuda-13.0', 'cu13/bin/nvcc'),
    ptxas: toolOf('ptxas-12.9', 'cuda_nvcc/bin/ptxas'),
    fatbinary: toolOf('cuda-13.0', 'cu13/bin/fatbinary'),
  };
}

function versionOf(tool) {
  const version = /\bV(\d[\d.]*)/.exec(run(tool, ['--version']))?.[1];
  if (!version) throw new Error(`${tool} --version names no version`);
  return version;
}

function compile({ nvcc, ptxas, fatbinary }, description) {
  const images = [];
  for (const [virtual, architectures] of ARCHITECTURES) {
    const ptx = ptxOf(virtual);
    run(nvcc, ['-ptx', `-arch=compute_${virtual}`, ...FLAGS, SOURCE, '-o', ptx]);
    // The assembler refuses instructions that the version does not have.
    const text = readFileSync(ptx, 'utf8').replace(/^\.version .*$/m, `.version ${PTX_VERSION}`);
    writeFileSync(ptx, `// ${description}\n${text}`);
    for (const architecture of architectures) {
      const cubin = join(dirname(ptx), `sm_${architecture}.cubin`);
      run(ptxas, [`-arch=sm_${architecture}`, ptx, '-o', cubin]);
      images.push(`--image3=kind=elf,sm=${architecture},file=${cubin}`);
    }
  }
  images.push(`--image3=kind=ptx,sm=${SHIPPED_PTX},file=${ptxOf(SHIPPED_PTX)}`);
  run(fatbinary, ['-64', '--compress-mode=none', `--ident=${description}`, ...images, `--create=${FATBIN}.unfinished`]);
  writeFileSync(`${SHIPPED}.unfinished`, compressed(readFileSync(`${FATBIN}.unfinished`)));
  for (const file of [FATBIN, SHIPPED]) renameSync(`${file}.unfinished`, file);
}

/** The images have much in common, so the window is as large as all of them. */
function compressed(bytes) {
  const { BROTLI_PARAM_QUALITY, BROTLI_PARAM_LGWIN, BROTLI_PARAM_SIZE_HINT } = constants;
  const params = { [BROTLI_PARAM_QUALITY]: 11, [BROTLI_PARAM_LGWIN]: 24, [BROTLI_PARAM_SIZE_HINT]: bytes.length };
  return brotliCompressSync(bytes, { params });
}

function build() {
  const hash = sourceHash();
  const files = [SHIPPED, FATBIN, ...[...ARCHITECTURES.keys()].map(ptxOf)];
  const isUpToDate = files.every((file) => {
    const descriptions = descriptionsIn(file);
    return descriptions.length === 1 && descriptions[0].hash === hash;
  });
  if (isUpToDate && !force) return 'the device code is up to date';
  // Device code of other sources could disagree with the host about the tables that it reads.
  for (const file of files) {
    rmSync(file, { force: true });
    mkdirSync(dirname(file), { recursive: true });
  }
  const found = tools();
  const [compiler, assembler] = [versionOf(found.nvcc), versionOf(found.ptxas)];
  compile(found, describe(hash, compiler, assembler));
  return `${relative(root, SHIPPED)} was compiled by nvcc ${compiler} and assembled by ptxas ${assembler}`;
}

try {
  console.log(`fused-adamw: ${build()}`);
} catch (error) {
  console.log(`fused-adamw: no device code was built, steps will run on the CPU (${error.message})`);
  process.exitCode = required ? 1 : 0;
}
