// Checks the machine code of a built addon: every kernel rounds each operation
// (no fused multiply-add), computes square roots and quotients exactly and in
// whole vectors or calls one that does, and leaves bfloat16 to integer code.
//
//   node scripts/check-disassembly.mjs [file]
//
// The file is a .node, or kernels.o if the .node has no local symbols; by
// default the one that node-gyp built. OBJDUMP names another objdump, for
// example for another architecture. It fails if something cannot be checked.
import { spawnSync } from 'node:child_process';
import { existsSync } from 'node:fs';
import { dtypeConfigs, ruleNames } from './tables.mjs';

const RULES = ruleNames().length;
/** Of each dtype configuration: the dtype of the weights, where all halves are one kind. */
const CONFIGS = dtypeConfigs().map(
  ({ types: [weight] }) => ({ float: 'float32', double: 'float64' })[weight] ?? 'half',
);
const CONVERSIONS = ['from_float16', 'to_float16', 'from_bfloat16', 'to_bfloat16'];

/** What each architecture forbids, and the registers that a variant's vectors fill. */
const ARCHITECTURES = {
  'x86-64': {
    variants: { Baseline: /%xmm/, Avx2: /%ymm/, Avx512: /%zmm/ },
    packed: (operation, type) => new RegExp(`^v?${operation}${type === 'float64' ? 'pd' : 'ps'}$`),
    forbidden: {
      'fused multiply-add': /^vfn?m(add|sub)/,
      approximation: /^v?(rsqrt|rcp)/,
      'bfloat16 instruction': /^v(cvtne2?ps2|dp)bf16/,
    },
    branch: /^(call|j)/,
  },
  aarch64: {
    variants: { Baseline: { float64: /\bv\d+\.2d/, float32: /\bv\d+\.4s/ } },
    packed: (operation) => new RegExp(`^f${operation}$`),
    forbidden: {
      'fused multiply-add': /^(fn?m(add|sub|ad|sb)$|fn?ml[as]|fcmla|fmmla|bfml|bfmmla|bfdot)/,
      approximation: /^(frsqrt|frecp|ursqrte|urecpe)/,
      'bfloat16 instruction': /^bfcvt/,
    },
    branch: /^(bl?|b\..*|cbn?z|tbn?z)$/,
  },
};

/** Functions of the C library that a kernel may call: they move bytes. */
const MOVES = /^(memcpy|memmove|memset|__memcpy_chk|__stack_chk_fail)(@plt)?$/;

function fail(message) {
  console.error(`check-disassembly: ${message}`);
  process.exit(1);
}

const path = process.argv[2] ?? 'build/Release/fused_adamw.node';
if (!existsSync(path)) fail(`there is no ${path}`);

function objdump(...args) {
  const command = process.env.OBJDUMP || 'objdump';
  const { status, error, stdout, stderr } = spawnSync(command, [...args, path], {
    encoding: 'utf8',
    maxBuffer: 1 << 30,
  });
  if (error) fail(`${command} does not start (${error.message})`);
  if (status !== 0) fail(`${command} failed: ${stderr.trim()}`);
  return stdout;
}

const architectureName = /architecture: (?:i386:)?([\w-]+)/.exec(objdump('-f'))?.[1];
const architecture = ARCHITECTURES[architectureName];
if (!architecture) fail(`cannot judge the architecture ${architectureName ?? '(none found)'}`);

/** The functions of a disassembly: name, instructions, and the other functions that they branch to. */
function functionsOf(text) {
  const functions = [];
  let current;
  let branches = false; // whether the last instruction does
  for (const line of text.split('\n')) {
    const header = /^[0-9a-f]+ <(.*)>:$/.exec(line);
    const relocation = /^\s+[0-9a-f]+: R_\w+\s+(.*)$/.exec(line);
    const instruction = /^\s+[0-9a-f]+:\s+(?:(?:notrack|bnd|rep\w*|lock|data16|cs|ds|\{\w+\})\s+)*(\S+)\s*(.*)$/.exec(
      line,
    );
    if (header) {
      current = { name: header[1], instructions: [], targets: new Set() };
      functions.push(current);
    } else if (!current) {
      // what comes before the first function
    } else if (relocation) {
      if (branches) current.targets.add(relocation[1].replace(/[-+]0x[0-9a-f]+$/, ''));
    } else if (instruction) {
      const mnemonic = instruction[1];
      const operands = instruction[2].replace(/\s+(\/\/|#) .*$/, '');
      current.instructions.push({ mnemonic, operands });
      branches = architecture.branch.test(mnemonic);
      if (!branches) continue;
      const target = /<(.*)>$/.exec(operands)?.[1];
      // Within an object file a target is only where the relocation will go.
      if (target === undefined) current.targets.add(operands);
      else current.targets.add(target.replace(/\+0x[0-9a-f]+$/, ''));
    }
  }
  return functions;
}

/** Where a function belongs: its variant, the kind of its arrays, and for kernels which one it is. */
function placeOf(name) {
  const kernel = /\bkernel_(\w+)<\(fused_adamw::Rule\)(\d+), \(fused_adamw::DTypeConfig\)(\d+)>/.exec(name);
  if (kernel)
    return { variant: kernel[1], kind: CONFIGS[kernel[3]], id: `rule ${kernel[2]}, configuration ${kernel[3]}` };
  const conversion =
    /\b(?<id>(?:from|to)_bfloat16)_(?<variant>\w+)\(/.exec(name) ??
    /\b(?<variant>\w+)::(?<id>(?:from|to)_float16)\(/.exec(name);
  return conversion ? { ...conversion.groups, kind: 'conversions' } : undefined;
}

const problems = [];
const groups = new Map(); // by variant and kind
const functions = functionsOf(objdump('-d', '-r', '-C', '--no-show-raw-insn'));
const checked = new Map(functions.map((each) => [each.name, placeOf(each.name)]));
for (const each of functions) {
  const place = checked.get(each.name);
  if (!place) continue;
  if (!(place.variant in architecture.variants)) fail(`this check does not know the variant ${place.variant}`);
  const key = `${place.variant} ${place.kind}`;
  if (!groups.has(key)) groups.set(key, { ids: new Map(), forbidden: 0 });
  const group = groups.get(key);
  const counts = group.ids.get(place.id) ?? { sqrt: 0, div: 0, calls: false };
  group.ids.set(place.id, counts);

  const width = architecture.variants[place.variant];
  const registers = width instanceof RegExp ? width : width[place.kind === 'float64' ? 'float64' : 'float32'];
  for (const { mnemonic, operands } of each.instructions) {
    for (const [what, pattern] of Object.entries(architecture.forbidden)) {
      if (!pattern.test(mnemonic)) continue;
      group.forbidden++;
      problems.push(`${key}, ${place.id}: ${what}: ${mnemonic} ${operands}`);
    }
    for (const operation of ['sqrt', 'div']) {
      const pattern = architecture.packed(operation, place.kind);
      if (pattern.test(mnemonic) && registers.test(operands)) counts[operation]++;
    }
  }
  for (const target of each.targets) {
    if (target === each.name || MOVES.test(target)) continue;
    const called = checked.get(target);
    // A kernel may convert its arrays and leave the arithmetic to another kernel, which is checked itself.
    if (called && called.variant === place.variant && called.kind !== 'conversions') counts.calls = true;
    if (called) continue;
    problems.push(`${key}, ${place.id}: goes to ${target}, which is not checked`);
  }
}

const rows = [];
for (const variant of Object.keys(architecture.variants)) {
  for (const kind of [...new Set(CONFIGS), 'conversions']) {
    const key = `${variant} ${kind}`;
    const group = groups.get(key) ?? { ids: new Map(), forbidden: 0 };
    const isKernel = kind !== 'conversions';
    const expected = isKernel
      ? CONFIGS.flatMap((k, config) =>
          k === kind ? Array.from({ length: RULES }, (_, rule) => `rule ${rule}, configuration ${config}`) : [],
        )
      : CONVERSIONS;
    const row = { group: key, functions: `${group.ids.size}/${expected.length}` };
    for (const id of expected.filter((id) => !group.ids.has(id)))
      problems.push(`${key}, ${id}: there is no such symbol`);
    for (const operation of isKernel ? ['sqrt', 'div'] : []) {
      const counts = [...group.ids].map(([id, count]) => ({ id, count: count[operation], calls: count.calls }));
      row[`packed ${operation}`] = counts.reduce((sum, { count }) => sum + count, 0);
      for (const { id, count, calls } of counts) {
        if (count === 0 && !calls) problems.push(`${key}, ${id}: no packed ${operation} of the full width`);
      }
    }
    rows.push({ ...row, forbidden: group.forbidden });
  }
}

const columns = ['group', 'functions', 'packed sqrt', 'packed div', 'forbidden'];
console.log(`${path} (${architectureName})`);
for (const row of [Object.fromEntries(columns.map((column) => [column, column])), ...rows]) {
  const [group, ...cells] = columns.map((column) => String(row[column] ?? '-'));
  console.log([group.padEnd(22), ...cells.map((cell) => cell.padStart(12))].join(''));
}
const SHOWN = 20;
for (const problem of problems.slice(0, SHOWN)) console.error(`check-disassembly: ${problem}`);
if (problems.length > SHOWN) console.error(`check-disassembly: and ${problems.length - SHOWN} more`);
process.exitCode = problems.length === 0 ? 0 : 1;
