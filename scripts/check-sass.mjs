// Reads the machine code for sm_90 and compares what decides the speed of each
// kernel with recorded bounds, on a machine without a GPU.
//
//   node scripts/check-sass.mjs             compares
//   node scripts/check-sass.mjs --record    writes bench/instructions/sass.json
//
//   instructions   an element, in the loop over aligned elements: the shortest way through it that computes every
//                  square root and quotient and calls none of the routines for the rare ones (subnormals and such)
//   bytes          that a thread has asked for in that loop when it first needs some of them
//   registers, stack (bytes; what is spilled), generic (loads and stores that must find out the kind of memory)
//
// The bounds have no headroom, since the compiler is pinned. The tools are installed from PyPI into .cuda/.
import { readFileSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { root, run } from './commands.mjs';
import { FATBIN, toolOf } from './device-code.mjs';
import { dtypeConfigs, ruleNames } from './tables.mjs';

const ARCHITECTURE = 'sm_90';
const RECORDED = join(root, 'bench/instructions/sass.json');
/** Whether more is better. */
const MEASURES = { instructions: false, bytes: true, registers: false, stack: false, generic: false };

/** A load or store by an address in a register; LDC, LDS and LDL are others. */
const ACCESS = /^(?<kind>LDG?|STG?)\.E(?:\.\w+)*?(?:\.(?<bits>64|128))?$/;

/** The instructions of each function, in order. */
function functionsOf(text) {
  const functions = new Map();
  for (const part of text.split('Function : ').slice(1)) {
    const lines = part.matchAll(/^\s+\/\*([0-9a-f]{4,})\*\/\s+(?:(@!?U?P\w+)\s+)?([A-Z][\w.]*)\s*(.*?)\s*;/gm);
    const instructions = [...lines].map(([, address, guard, opcode, operands]) => ({
      address: Number.parseInt(address, 16),
      opcode,
      operands,
      // A branch may have a predicate among its operands too.
      isConditional: guard !== undefined || /^!?U?P\w+,/.test(operands),
      target: opcode === 'BRA' ? Number.parseInt(/0x[0-9a-f]+$/.exec(operands)?.[0] ?? 'none', 16) : undefined,
    }));
    functions.set(/^\w+/.exec(part)[0], instructions);
  }
  return functions;
}

/** Each loop that contains no other: the instructions from the target of a backward branch up to that branch. */
function innermostLoops(instructions) {
  const loops = instructions
    .filter(({ address, target }) => target !== undefined && target < address)
    .map(({ address, target }) => ({ first: target, last: address }));
  return loops
    .filter((loop) => !loops.some((other) => other !== loop && other.first >= loop.first && other.last <= loop.last))
    .map(({ first, last }) => instructions.filter(({ address }) => address >= first && address <= last));
}

/** The shortest of the ways through a loop that compute most roots and quotients and call nothing, or undefined. */
function fastPath(loop) {
  const isBetter = (a, b) => !b || a.results > b.results || (a.results === b.results && a.length < b.length);
  const best = new Map(); // by address: the way from there to the end, as a linked list
  for (const each of loop.toReversed()) {
    if (/^(CALL|EXIT|RET)/.test(each.opcode) && !each.isConditional) continue;
    const next = loop[loop.indexOf(each) + 1];
    const addresses = each.opcode === 'BRA' && !each.isConditional ? [each.target] : [next?.address, each.target];
    let rest = each === loop.at(-1) ? { results: 0, length: 0 } : undefined;
    for (const way of addresses.map((address) => best.get(address))) if (way && isBetter(way, rest)) rest = way;
    if (!rest) continue;
    const isResult = /^MUFU\.(RSQ|RCP)/.test(each.opcode);
    best.set(each.address, { each, rest, results: rest.results + (isResult ? 1 : 0), length: rest.length + 1 });
  }
  const path = [];
  for (let way = best.get(loop[0].address); way?.each; way = way.rest) path.push(way.each);
  return path.length === 0 ? undefined : path;
}

const elementsOf = (path) => path.filter(({ opcode }) => /^MUFU\.RSQ/.test(opcode)).length;

/** Bytes of vector loads before the first instruction that reads what one of them loaded. */
function bytesInFlight(path) {
  const loaded = new Set();
  let bytes = 0;
  for (const { opcode, operands } of path) {
    const { kind, bits } = ACCESS.exec(opcode)?.groups ?? {};
    const registers = [...operands.matchAll(/\bR(\d+)/g)].map(([, number]) => Number(number));
    const sources = /^(ST|BRA|@)/.test(opcode) ? registers : registers.slice(1);
    if (sources.some((register) => loaded.has(register))) return bytes;
    if (!kind?.startsWith('LD') || !bits) continue;
    bytes += bits / 8;
    for (let i = 0; i < bits / 32; i++) loaded.add(registers[0] + i);
  }
  return bytes;
}

function measure(name, instructions, resources) {
  const paths = innermostLoops(instructions).map(fastPath);
  const perElement = (path) => path.length / elementsOf(path);
  const [path] = paths
    .filter((each) => each && elementsOf(each) > 0 && bytesInFlight(each) > 0)
    .sort((a, b) => perElement(a) - perElement(b));
  if (!path) throw new Error(`${name}: no loop over vectors was found in the machine code`);
  return {
    instructions: +perElement(path).toFixed(1),
    bytes: bytesInFlight(path),
    ...resources,
    generic: instructions.filter(({ opcode }) => /^(LD|ST)$/.test(ACCESS.exec(opcode)?.groups.kind ?? '')).length,
  };
}

function measureAll() {
  const nvdisasm = toolOf('disassembler-13.2', 'cu13/bin/nvdisasm');
  process.env.PATH = `${dirname(nvdisasm)}:${process.env.PATH}`; // cuobjdump runs it
  const cuobjdump = toolOf('disassembler-13.2', 'cu13/bin/cuobjdump');
  const functions = functionsOf(run(cuobjdump, ['-sass', '-arch', ARCHITECTURE, FATBIN]));
  const usage = run(cuobjdump, ['-res-usage', '-arch', ARCHITECTURE, FATBIN]);
  const resources = new Map(
    [...usage.matchAll(/Function (\w+):\s+REG:(\d+) STACK:(\d+)/g)].map(([, name, registers, stack]) => [
      name,
      { registers: Number(registers), stack: Number(stack) },
    ]),
  );
  const names = ruleNames().flatMap((rule) => dtypeConfigs().map(({ identifier }) => `${rule}_${identifier}`));
  return Object.fromEntries(
    names.map((name) => {
      const kernel = `adamw_${name}`;
      if (!functions.has(kernel) || !resources.has(kernel))
        throw new Error(`there is no ${kernel} for ${ARCHITECTURE}`);
      return [name, measure(kernel, functions.get(kernel), resources.get(kernel))];
    }),
  );
}

const measured = measureAll();
if (process.argv.includes('--record')) {
  const lines = Object.entries(measured).map(([name, values]) => {
    const fields = Object.entries(values).map(([measure, value]) => `"${measure}": ${value}`);
    return `  "${name}": { ${fields.join(', ')} }`;
  });
  writeFileSync(RECORDED, `{\n${lines.join(',\n')}\n}\n`);
}
const recorded = JSON.parse(readFileSync(RECORDED, 'utf8'));
console.log(['kernel'.padEnd(40), ...Object.keys(MEASURES).map((each) => each.padStart(13))].join(''));
const problems = [];
for (const [name, values] of Object.entries(measured)) {
  console.log([name.padEnd(40), ...Object.keys(MEASURES).map((each) => `${values[each]}`.padStart(13))].join(''));
  for (const [measure, moreIsBetter] of Object.entries(MEASURES)) {
    const bound = recorded[name]?.[measure];
    const isWithin = moreIsBetter ? values[measure] >= bound : values[measure] <= bound;
    if (!isWithin) problems.push(`${name}: ${measure} ${values[measure]}, recorded ${bound}`);
  }
}
for (const problem of problems) console.error(`check-sass: ${problem}`);
process.exitCode = problems.length === 0 ? 0 : 1;
