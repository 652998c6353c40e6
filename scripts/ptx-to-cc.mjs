// Translates the PTX of the kernels into C++, so that the tests can run on the host what NVIDIA's compiler made of
// them: scripts/test-ptx.sh.
//
//   node scripts/ptx-to-cc.mjs FILE.ptx >FILE.cc
//
// Of each kernel it makes a function of that name, which runs one thread:
//
//   extern "C" void NAME(const char* parameters, unsigned ctaid, unsigned nctaid, unsigned tid, ptx::Warp& warp);
//
// A register becomes a variable and an instruction one statement, with the functions of test/native/cuda/ptx.h. An
// instruction that is not in the table below is an error. Threads run in turn; in a shuffle one returns where it has to
// wait for another, and is run again later.
import { readFileSync } from 'node:fs';

const REGISTER_TYPES = { pred: 'bool', b16: 'uint16_t', b32: 'uint32_t', b64: 'uint64_t', f32: 'float', f64: 'double' };
/** The C++ type of an instruction's type. */
const TYPES = Object.fromEntries(
  [16, 32, 64].flatMap((bits) => [
    [`b${bits}`, `uint${bits}_t`],
    [`u${bits}`, `uint${bits}_t`],
    [`s${bits}`, `int${bits}_t`],
  ]),
);
Object.assign(TYPES, { f32: 'float', f64: 'double', pred: 'bool' });

const SIGNS = { add: '+', sub: '-', mul: '*', div: '/', and: '&', or: '|', xor: '^' };
const COMPARISONS = { eq: '==', ne: '!=', lt: '<', le: '<=', gt: '>', ge: '>=' };

const unsigned = (bits) => `uint${bits}_t`;

/**
 * What each instruction computes: a pattern, and the expression of what the pattern captured and of the operands, each
 * of which is a function from the type as which it is read.
 */
const INSTRUCTIONS = [
  [/^(add|sub|mul|div)\.rn\.(f32|f64)$/, ([op, t], a, b) => `${a(t)} ${SIGNS[op]} ${b(t)}`],
  [/^sqrt\.rn\.(f32|f64)$/, ([t], a) => `std::sqrt(${a(t)})`],
  [/^neg\.(f32|f64)$/, ([t], a) => `-${a(t)}`],
  [/^(min|max)\.NaN\.f32$/, ([op], a, b) => `${op}_nan(${a('f32')}, ${b('f32')})`],

  // Integers wrap around, so that their sums and lower products are those of unsigned ones.
  [/^(add|sub|mul\.lo)\.[su](32|64)$/, ([op, n], a, b) => `${a(`u${n}`)} ${SIGNS[op.slice(0, 3)]} ${b(`u${n}`)}`],
  [/^mul\.wide\.u(16|32)$/, ([n], a, b) => `${unsigned(2 * n)}{${a(`u${n}`)}} * ${b(`u${n}`)}`],
  [/^mad\.lo\.[su]32$/, (_, a, b, c) => `${a('u32')} * ${b('u32')} + ${c('u32')}`],
  [/^neg\.s(32|64)$/, ([n], a) => `0 - ${a(`u${n}`)}`],
  [/^(min|max)\.([su](?:32|64))$/, ([op, t], a, b) => `std::${op}(${a(t)}, ${b(t)})`],
  [/^min\.s16x2$/, (_, a, b) => `min_s16x2(${a('u32')}, ${b('u32')})`],

  [/^(and|or|xor)\.(pred|b16|b32|b64)$/, ([op, t], a, b) => `${a(t)} ${SIGNS[op]} ${b(t)}`],
  [/^not\.pred$/, (_, a) => `!${a('pred')}`],
  [/^not\.(b16|b32|b64)$/, ([t], a) => `~${a(t)}`],
  [/^(shl|shr)\.([bsu](?:16|32|64))$/, ([op, t], a, b) => `${op}<${TYPES[t]}>(${a(t)}, ${b('u32')})`],
  [/^shf\.l\.wrap\.b32$/, (_, a, b, c) => `shf_l_wrap(${a('u32')}, ${b('u32')}, ${c('u32')})`],
  [/^prmt\.b32$/, (_, a, b, c) => `prmt(${a('u32')}, ${b('u32')}, ${c('u32')})`],
  [/^bfi\.b32$/, (_, a, b, c, d) => `bfi(${a('u32')}, ${b('u32')}, ${c('u32')}, ${d('u32')})`],

  [/^setp\.(eq|ne|lt|le|gt|ge)\.([bsu](?:16|32|64))$/, ([op, t], a, b) => `${a(t)} ${COMPARISONS[op]} ${b(t)}`],
  // Without a suffix, comparisons with NaN are false; with "u", true.
  [/^setp\.(eq|lt|le|gt|ge)\.(f32|f64)$/, ([op, t], a, b) => `${a(t)} ${COMPARISONS[op]} ${b(t)}`],
  [/^setp\.ne\.(f32|f64)$/, ([t], a, b) => `${a(t)} < ${b(t)} || ${a(t)} > ${b(t)}`],
  [/^setp\.neu\.(f32|f64)$/, ([t], a, b) => `${a(t)} != ${b(t)}`],
  [/^setp\.ltu\.(f32|f64)$/, ([t], a, b) => `!(${a(t)} >= ${b(t)})`],
  [/^setp\.leu\.(f32|f64)$/, ([t], a, b) => `!(${a(t)} > ${b(t)})`],
  [/^setp\.gtu\.(f32|f64)$/, ([t], a, b) => `!(${a(t)} <= ${b(t)})`],
  [/^setp\.geu\.(f32|f64)$/, ([t], a, b) => `!(${a(t)} < ${b(t)})`],
  [/^setp\.num\.(f32|f64)$/, ([t], a, b) => `!(std::isnan(${a(t)}) || std::isnan(${b(t)}))`],
  [/^setp\.nan\.(f32|f64)$/, ([t], a, b) => `std::isnan(${a(t)}) || std::isnan(${b(t)})`],
  [/^selp\.([bsu](?:16|32|64)|f32|f64)$/, ([t], a, b, c) => `${c('pred')} ? ${a(t)} : ${b(t)}`],

  [/^cvt\.([su](?:16|32|64))\.([su](?:16|32|64))$/, ([to, from], a) => `static_cast<${TYPES[to]}>(${a(from)})`],
  [/^cvt\.f64\.f32$/, (_, a) => `static_cast<double>(${a('f32')})`],
  [/^cvt\.rn\.f32\.f64$/, (_, a) => `static_cast<float>(${a('f64')})`],
  [/^cvt\.rzi\.([su](?:32|64))\.f64$/, ([to], a) => `static_cast<${TYPES[to]}>(${a('f64')})`],
  [/^cvt\.f32\.f16$/, (_, a) => `from_f16(${a('b16')})`],
  [/^cvt\.rn\.f16\.f32$/, (_, a) => `to_f16(${a('f32')})`],
  [/^cvt\.rn\.bf16x2\.f32$/, (_, a, b) => `to_bf16x2(${a('f32')}, ${b('f32')})`],
  [/^mov\.([bu](?:16|32|64)|f32|f64|pred)$/, ([t], a) => a(t)],
  // All memory has one kind of address here.
  [/^cvta(?:\.to)?\.(?:global|param)\.u64$/, (_, a) => a('u64')],
];

/** Comma-separated operands; those in braces are one, a list. */
function operandsOf(text) {
  return [...text.matchAll(/\{([^}]*)\}|[^,\s]+/g)].map(([all, list]) => list?.split(/,\s*/) ?? all);
}

function literal(text) {
  const float = /^0f([0-9A-Fa-f]{8})$/.exec(text);
  if (float) return `bit_cast<float>(uint32_t{0x${float[1]}})`;
  const double = /^0d([0-9A-Fa-f]{16})$/.exec(text);
  if (double) return `bit_cast<double>(uint64_t{0x${double[1]}})`;
  return /^-?(\d+|0x[0-9a-f]+)$/.test(text) ? text : undefined;
}

class Kernel {
  #name;
  #registers = new Map(); // variables and their C++ types
  #body = [];

  constructor(name, body) {
    this.#name = name;
    for (const line of body.replace(/\/\/.*/g, '').split(/[;\n]/)) this.#add(line.trim().replace(/^[{}]\s*/, ''));
  }

  toString() {
    const registers = [...this.#registers].map(([name, type]) => `  ${type} ${name}{};`);
    return [
      `extern "C" void ${this.#name}(const char* parameters, uint32_t ctaid, uint32_t nctaid, uint32_t tid, Warp& warp) {`,
      '  static_cast<void>(nctaid);',
      '  static_cast<void>(warp);',
      ...registers,
      ...this.#body.map((each) => `  ${each}`),
      '}',
    ].join('\n');
  }

  #add(line) {
    const label = /^\$(\w+):$/.exec(line);
    const registers = /^\.reg \.(\w+)\s+%(\w+)<(\d+)>$/.exec(line);
    if (line === '') return;
    if (label) this.#body.push(`${label[1]}:;`);
    else if (registers) this.#declare(registers[1], registers[2], Number(registers[3]));
    else this.#body.push(this.#statement(line));
  }

  #declare(type, prefix, count) {
    if (!(type in REGISTER_TYPES)) throw new Error(`there are no registers of type ${type}`);
    for (let i = 0; i < count; i++) this.#registers.set(`${prefix}${i}`, REGISTER_TYPES[type]);
  }

  #variable(text) {
    const name = text.replace(/^%/, '');
    if (!text.startsWith('%') || !this.#registers.has(name)) throw new Error(`${text} is no register`);
    return name;
  }

  /** An operand as an expression of a type. Registers have no sign, so that their bits are taken as they are. */
  #read(text, type) {
    if (Array.isArray(text)) return this.#join(text, type);
    const special = { '%ctaid.x': 'ctaid', '%nctaid.x': 'nctaid', '%tid.x': 'tid' }[text];
    const isParameter = text === `${this.#name}_param_0`;
    const value = special ?? literal(text) ?? (isParameter ? 'address_of(parameters)' : this.#variable(text));
    const cpp = TYPES[type];
    return text.startsWith('%') || isParameter ? `bit_cast<${cpp}>(${value})` : `static_cast<${cpp}>(${value})`;
  }

  /** Two registers as one of twice the bits, the lower half first. */
  #join(list, type) {
    const bits = { b32: 16, b64: 32 }[type];
    if (list.length !== 2 || !bits) throw new Error(`cannot join {${list}} to ${type}`);
    const [lower, upper] = list.map((each) => this.#read(each, `u${bits}`));
    return `(${lower} | ${unsigned(2 * bits)}{${upper}} << ${bits})`;
  }

  /** The reverse. */
  #split([to, from], type) {
    const bits = { b32: 16, b64: 32 }[type];
    if (to.length !== 2 || !bits) throw new Error(`cannot split ${type} to {${to}}`);
    const halves = to.map(
      (each, i) => `${this.#variable(each)} = static_cast<${unsigned(bits)}>(both >> ${i * bits});`,
    );
    return `{ const auto both = ${this.#read(from, type)}; ${halves.join(' ')} }`;
  }

  /** The result, and whether it is another thread's. */
  #shuffle([to, ...sources]) {
    const [result, isInRange] = to.split('|').map((each) => this.#variable(each));
    const values = sources.map((each) => this.#read(each, 'u32'));
    return `if (!warp.shuffle_down(tid % 32, ${values.join(', ')}, ${result}, ${isInRange})) return;`;
  }

  /** The address in brackets: a register or the parameters, and an offset. */
  #address(text) {
    const [, base, offset] = /^\[([%\w]+)(?:\+(-?\d+))?\]$/.exec(text) ?? [];
    if (!base) throw new Error(`${text} is no address`);
    return `${this.#read(base, 'u64')} + ${offset ?? 0}`;
  }

  #statement(line) {
    const [, guard, opcode, rest] = /^(?:@(!?%\w+)\s+)?([\w.]+)\s*(.*)$/.exec(line) ?? [];
    if (!opcode) throw new Error(`cannot read ${line}`);
    if (guard) {
      const condition = `${guard.startsWith('!') ? '!' : ''}${this.#variable(guard.replace('!', ''))}`;
      return `if (${condition}) { ${this.#statement(line.slice(line.indexOf(opcode)))} }`;
    }
    if (opcode === 'ret') return 'return;';
    if (opcode === '.pragma') return ''; // advice on optimisations
    if (opcode === 'bra' || opcode === 'bra.uni') return `goto ${rest.replace('$', '')};`;
    if (opcode === 'shfl.sync.down.b32') return this.#shuffle(operandsOf(rest));
    const access = /^(ld|st)(?:\.(?:param|global))?(?:\.v([24]))?\.([busf]\d+)$/.exec(opcode);
    if (access) return this.#access(access, operandsOf(rest));
    for (const [pattern, expression] of INSTRUCTIONS) {
      const found = pattern.exec(opcode);
      if (!found) continue;
      const [to, ...sources] = operandsOf(rest);
      if (Array.isArray(to) && opcode.startsWith('mov.')) return this.#split([to, ...sources], opcode.slice(4));
      const readers = sources.map((source) => (type) => this.#read(source, type));
      if (readers.length !== expression.length - 1) throw new Error(`${line} has other operands than it should`);
      if (Array.isArray(to)) throw new Error(`${line} has several results`);
      return `${this.#variable(to)} = write(${this.#variable(to)}, ${expression(found.slice(1), ...readers)});`;
    }
    throw new Error(`the instruction ${opcode} is not known`);
  }

  /** A load or store of one element, or of two or four at an address that is a multiple of their size. */
  #access([, kind, width = '1', type], operands) {
    const [address, values] = kind === 'ld' ? operands.toReversed() : operands;
    const list = [values].flat();
    if (list.length !== Number(width) || !(type in TYPES)) throw new Error(`${kind} of ${list} as ${type}`);
    const cpp = TYPES[type];
    const elements = list.map((each, i) => {
      if (kind === 'ld') return `${this.#variable(each)} = write(${this.#variable(each)}, load<${cpp}>(memory, ${i}));`;
      // The register may be wider.
      return `store<${cpp}>(memory, ${i}, ${literal(each) ? this.#read(each, type) : this.#variable(each)});`;
    });
    return `{ char* memory = check(${this.#address(address)}, ${width} * sizeof(${cpp})); ${elements.join(' ')} }`;
  }
}

function translate(text) {
  const found = [...text.matchAll(/\.visible \.entry (\w+)\(([^)]*)\)[^{]*\{\n([\s\S]*?)\n\}/g)];
  if (found.length === 0 || found.length !== text.split('.entry').length - 1)
    throw new Error('cannot find every kernel');
  const kernels = found.map(([, name, parameters, body]) => {
    if (parameters.split('.param').length !== 2) throw new Error(`${name} has several parameters`);
    return new Kernel(name, body);
  });
  return ['#include "ptx.h"', 'using namespace ptx;', ...kernels].join('\n\n');
}

const path = process.argv[2];
try {
  console.log(translate(readFileSync(path, 'utf8')));
} catch (error) {
  console.error(`ptx-to-cc: ${path}: ${error.message}`);
  process.exitCode = 1;
}
