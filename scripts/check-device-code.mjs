// Checks the device code that build-cuda.mjs made, on a machine without a GPU:
//
//   - it was made from these sources;
//   - drivers of CUDA 12.0 can read it: the compression, the ABI of the machine code, the version of the PTX;
//   - no multiply-add is fused, and division and root are rounded as IEEE 754 requires, in the PTX of every kernel;
//   - every kernel exists for every architecture, without spills and within 64 registers;
//   - native/cuda/driver.h agrees with cuda.h.
//
//   node scripts/check-device-code.mjs
//
// It fails if something cannot be checked. The tools are installed from PyPI into .cuda/.
import { readdirSync, readFileSync } from 'node:fs';
import { relative } from 'node:path';
import { root, run } from './commands.mjs';
import {
  ARCHITECTURES,
  bytesOf,
  descriptionsIn,
  FATBIN,
  imagesIn,
  PTX_VERSION,
  ptxOf,
  SHIPPED,
  SHIPPED_PTX,
  sourceHash,
  toolOf,
} from './device-code.mjs';
import { dtypeConfigs, ruleNames } from './tables.mjs';

const MOST_REGISTERS = 64; // four blocks of 256 threads to a multiprocessor
const problems = [];

/** As native/cuda/kernels.cu names them. */
const steps = ruleNames().flatMap((rule) => dtypeConfigs().map(({ identifier }) => `adamw_${rule}_${identifier}`));
/** Each kernel, and the operations that it must have. */
const OPERATIONS = new Map([
  ...steps.map((kernel) => [kernel, ['div.rn', 'sqrt.rn', 'mul.rn', 'add.rn']]),
  ['gradient_sum_items', ['mul.rn', 'add.rn']],
  ['gradient_sum_tensors', ['add.rn']],
  ['gradient_decide', ['add.rn', 'sqrt.rn', 'div.rn', 'mul.rn']],
  ['gradient_choose_scalars', ['cvt.rn.f32.f64']],
  ['gradient_accumulate', ['mul.rn', 'add.rn']],
]);
const kernels = [...OPERATIONS.keys()];
if (steps.length === 0) problems.push('there are no kernels in the tables of native/core/');

function checkSources() {
  const expected = sourceHash();
  for (const file of [SHIPPED, FATBIN, ...[...ARCHITECTURES.keys()].map(ptxOf)]) {
    const descriptions = descriptionsIn(file);
    if (descriptions.length !== 1) problems.push(`${relative(root, file)}: ${descriptions.length} descriptions in it`);
    for (const { text, hash } of descriptions) {
      console.log(`${relative(root, file)}: ${text}`);
      if (hash !== expected) problems.push(`${relative(root, file)} was made from other sources`);
    }
  }
}

/**
 * Drivers of CUDA 12.0 read no zstd, no other ABI than 7 and no later PTX. Compute capability 10.0 and
 * 12.0 need a driver of CUDA 12.8, which reads ABI 8.
 */
function checkFormat() {
  const elf = (architecture) => `elf ${architecture >= 100 ? '1.8' : '1.7'} ${architecture}`;
  const expected = [...[...ARCHITECTURES.values()].flat().map(elf), `ptx ${PTX_VERSION} ${SHIPPED_PTX}`];
  const images = imagesIn(FATBIN);
  const found = images.map(({ kind, version, architecture }) => `${kind} ${version} ${architecture}`);
  console.log(`${relative(root, FATBIN)}: ${found.join(', ')}`);
  if (found.join() !== expected.join()) problems.push(`${relative(root, FATBIN)}: expected ${expected.join(', ')}`);
  for (const { compression, architecture } of images)
    if (compression !== 0)
      problems.push(`the image for ${architecture} is compressed, which costs space in the package`);
  if (!bytesOf(SHIPPED).equals(bytesOf(FATBIN))) problems.push(`${relative(root, SHIPPED)} is of another build`);
}

/** What may not occur in a kernel. The assembler may contract add.f32, but not add.rn.f32. */
const FORBIDDEN = {
  'fused multiply-add': /^(fma\.|mad\.(?!lo\.|hi\.|wide\.))/,
  'an operation that may be fused': /^(add|sub|mul)\.(?!rn\.)(\w+\.)*f(16|32|64)/,
  'an approximation': /\.approx|\.full|^(rcp|rsqrt|ex2|lg2|tanh)\./,
  'subnormals flushed': /\.ftz/,
  'a division or root that is not IEEE': /^(div|sqrt)\.(?!rn\.)(\w+\.)*f(16|32|64)/,
};

function checkPtx(name, text) {
  const bodies = new Map(
    [...text.matchAll(/\.entry (\w+)\([^)]*\)[^{]*\{\n([\s\S]*?)\n\}/g)].map(([, kernel, body]) => [kernel, body]),
  );
  for (const kernel of kernels) {
    const body = bodies.get(kernel);
    if (!body) {
      problems.push(`${name}: there is no ${kernel}`);
      continue;
    }
    const instructions = [...body.matchAll(/^\s*(?:@!?%p\d+\s+)?([a-z]\w*(?:\.\w+)+)/gm)].map(([, each]) => each);
    for (const [what, pattern] of Object.entries(FORBIDDEN)) {
      const found = instructions.find((each) => pattern.test(each));
      if (found) problems.push(`${name}, ${kernel}: ${what}: ${found}`);
    }
    for (const operation of OPERATIONS.get(kernel))
      if (!instructions.some((each) => each.startsWith(operation)))
        problems.push(`${name}, ${kernel}: there is no ${operation}`);
  }
  for (const kernel of bodies.keys())
    if (!kernels.includes(kernel)) problems.push(`${name}: ${kernel} is not in the tables of native/core/`);
  console.log(`${name}: ${bodies.size} kernels`);
}

function checkEveryPtx() {
  for (const architecture of ARCHITECTURES.keys())
    checkPtx(relative(root, ptxOf(architecture)), readFileSync(ptxOf(architecture), 'utf8'));
  const cuobjdump = toolOf('disassembler-13.2', 'cu13/bin/cuobjdump');
  const shipped = run(cuobjdump, ['-ptx', FATBIN]);
  // Packing removes comments and indentation.
  const code = (text) => text.slice(text.indexOf('.version')).replace(/\/\/.*|\s/g, '');
  if (code(shipped) !== code(readFileSync(ptxOf(SHIPPED_PTX), 'utf8')))
    problems.push(`the PTX in ${relative(root, FATBIN)} is not ${relative(root, ptxOf(SHIPPED_PTX))}`);
}

/** The registers of each kernel, and its local memory, of which it should need none. */
function checkResources(name, architecture, resources) {
  for (const kernel of kernels) {
    const used = resources.get(kernel);
    if (!used) problems.push(`${name}: there is no ${kernel} for sm_${architecture}`);
    else if (used.registers > MOST_REGISTERS)
      problems.push(`${name}: ${kernel} takes ${used.registers} registers on sm_${architecture}`);
    else if (used.memory > 0)
      problems.push(`${name}: ${kernel} takes ${used.memory} bytes of stack on sm_${architecture}: it spills`);
  }
  const registers = [...resources.values()].map((each) => each.registers);
  const most = Math.max(0, ...registers);
  console.log(`${name}, sm_${architecture}: ${resources.size} kernels, at most ${most} registers`);
}

function checkMachineCode() {
  const cuobjdump = toolOf('disassembler-13.2', 'cu13/bin/cuobjdump');
  const sections = run(cuobjdump, ['-res-usage', FATBIN]).split(/^Fatbin /m);
  for (const architecture of [...ARCHITECTURES.values()].flat()) {
    const section = sections.find((each) => each.startsWith('elf') && each.includes(`\narch = sm_${architecture}\n`));
    const found = (section ?? '').matchAll(/Function (\w+):\s+REG:(\d+) STACK:(\d+) SHARED:\d+ LOCAL:(\d+)/g);
    const resources = [...found].map(([, kernel, registers, stack, local]) => [
      kernel,
      { registers: Number(registers), memory: Number(stack) + Number(local) },
    ]);
    checkResources(relative(root, FATBIN), architecture, new Map(resources));
  }
}

function checkDeclarations() {
  const headers = toolOf('cuda-13.0', 'cu13/include');
  if (!readdirSync(headers).includes('cuda.h')) throw new Error('there is no cuda.h');
  const source = 'test/native/cuda/driver.check.cc';
  run(process.env.CXX || 'c++', ['-std=c++17', '-fsyntax-only', '-Inative', `-isystem${headers}`, source]);
  console.log('native/cuda/driver.h agrees with cuda.h');
}

const CHECKS = [checkSources, checkFormat, checkEveryPtx, checkMachineCode, checkDeclarations];
for (const check of CHECKS) {
  try {
    check();
  } catch (error) {
    problems.push(error.message);
  }
}
const SHOWN = 20;
for (const problem of problems.slice(0, SHOWN)) console.error(`check-device-code: ${problem}`);
if (problems.length > SHOWN) console.error(`check-device-code: and ${problems.length - SHOWN} more`);
process.exitCode = problems.length === 0 ? 0 : 1;
