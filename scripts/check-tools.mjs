// Uses the packed package as a user would, in an empty project for each tool: package managers, run times,
// test runners, TypeScript, bundlers. Packs what was built last (npm run compile).
//
//   node scripts/check-tools.mjs [GROUP...]    all groups, or some; fails if the table of docs/tools.md differs
//   node scripts/check-tools.mjs --write       writes the table
import { spawn } from 'node:child_process';
import { cpSync, mkdirSync, mkdtempSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import bundlers from './tools/bundlers.mjs';
import clients from './tools/clients.mjs';
import managers from './tools/managers.mjs';
import metadata from './tools/package.mjs';
import runners from './tools/runners.mjs';
import runtimes from './tools/runtimes.mjs';
import typescript from './tools/typescript.mjs';
import { IMPORT, program } from './tools/use.mjs';

const GROUPS = { package: metadata, managers, runtimes, runners, typescript, bundlers, clients };
const AT_A_TIME = 2;
const MOST_SECONDS = 240; // of one command

const root = fileURLToPath(new URL('..', import.meta.url));
const DOCUMENT = join(root, 'docs/tools.md');
const work = mkdtempSync(join(tmpdir(), 'fused-adamw-tools-'));

/** Runs a command to its end. FUSED_ADAMW_ variables would change what is checked. */
function run([command, ...args], folder) {
  const inherited = Object.entries(process.env).filter(([name]) => !/^(FUSED_ADAMW_|npm_)/.test(name));
  const env = { ...Object.fromEntries(inherited), NO_COLOR: '1' };
  const file = command === 'node' ? process.execPath : command;
  return new Promise((resolve) => {
    const child = spawn(file, args, { cwd: folder, env, stdio: ['ignore', 'pipe', 'pipe'] });
    const timer = setTimeout(() => child.kill('SIGKILL'), MOST_SECONDS * 1000);
    let output = '';
    for (const stream of [child.stdout, child.stderr]) {
      stream.setEncoding('utf8');
      stream.on('data', (text) => {
        output += text;
      });
    }
    const end = (status) => {
      clearTimeout(timer);
      resolve({ status, output });
    };
    child.on('error', (error) => {
      output += error.message;
      end(null);
    });
    child.on('close', end);
  });
}

async function mustRun(command, folder) {
  const { status, output } = await run(command, folder);
  if (status !== 0) throw new Error(`${command.join(' ')} ended with ${status}\n${output}`);
  return output;
}

async function pack() {
  return (await mustRun(['node', 'scripts/pack.mjs', work], root)).trim();
}

function write(folder, files) {
  for (const [name, text] of Object.entries(files)) {
    mkdirSync(dirname(join(folder, name)), { recursive: true });
    writeFileSync(join(folder, name), text);
  }
}

/** An empty project with the package and a tool. */
async function makeProject({ install, files = {} }, tarball, name) {
  const folder = join(work, name);
  cpSync(tarball, join(folder, 'package.tgz'));
  const dependencies = { 'fused-adamw': 'file:package.tgz', ...install };
  write(folder, { 'package.json': JSON.stringify({ name: 'project', private: true, dependencies }), ...files });
  await mustRun(['npm', 'install', '--silent', '--no-audit', '--no-fund', '--prefer-offline'], folder);
  return folder;
}

/** Runs the commands of a check up to one that fails. */
async function runAll(check, folder) {
  rmSync(join(folder, 'out'), { recursive: true, force: true });
  let all = '';
  for (const command of check.run) {
    const { status, output } = await run(command, join(folder, check.folder ?? ''));
    all += output;
    if (status !== 0) return { failed: true, output: all };
  }
  if (check.alone) {
    const alone = mkdtempSync(join(work, 'alone-'));
    cpSync(join(folder, 'out'), alone, { recursive: true });
    // Bundles by Bun know the place of the package that they were made from.
    const [modules, hidden] = ['node_modules', 'hidden'].map((name) => join(folder, name));
    renameSync(modules, hidden);
    const { status, output } = await run(check.alone, alone);
    renameSync(hidden, modules);
    return { failed: status !== 0, output: all + output };
  }
  return { failed: false, output: all };
}

/** What a check ended with, in the words of the table. Throws if that is not what it must be. */
async function outcome(check, folder, expectedBits) {
  const { failed, output } = await runAll(check, folder);
  if (check.fails) {
    if (!failed || !check.fails.test(output)) throw new Error(`it did not fail as it must\n${output}`);
    return check.ending ?? 'the build fails and asks for an option';
  }
  if (failed) throw new Error(output);
  if (check.compiles) return 'compiles';
  if (check.quiet) {
    if (!check.quiet.test(output)) throw new Error(output);
    return 'finds nothing';
  }
  const results = [...output.matchAll(/result: (\{.*\})/g)].map(([, json]) => JSON.parse(json));
  if (results.length === 0) throw new Error(`nothing was reported\n${output}`);
  for (const { backend, bits, reason } of results) {
    if (bits !== expectedBits) throw new Error(`other bits: ${bits}, not ${expectedBits}`);
    const isExpected = check.native ? backend === 'native' : backend === 'javascript' && check.reason.test(reason);
    if (!isExpected) throw new Error(`it ran in ${backend}: ${reason}`);
  }
  return check.native ? 'native' : 'TypeScript, and says why';
}

/** A tool with its version: that of the first package that is installed for it. */
const nameOf = ({ tool, install }) => `${tool} ${Object.values(install)[0].split('@').at(-1)}`;

/** The rows of a project; null in place of what failed. */
async function checkProject(project, tarball, name, expectedBits) {
  const tool = nameOf(project);
  const rows = [];
  const attempt = async (what, make) => {
    try {
      return await make();
    } catch (error) {
      console.log(`FAILED: ${what}: ${error.message.trim()}\n`);
      rows.push(null);
      return null;
    }
  };
  const start = Date.now();
  const folder = await attempt(tool, () => makeProject(project, tarball, name));
  for (const check of folder === null ? [] : project.checks) {
    const ended = await attempt(`${tool}, ${check.how}`, () => outcome(check, folder, expectedBits));
    if (ended !== null) rows.push([tool, check.how, ended]);
  }
  if (folder !== null) rmSync(folder, { recursive: true, force: true });
  console.log(`${rows.includes(null) ? 'not ok' : 'ok'}: ${tool} (${((Date.now() - start) / 1000).toFixed(0)} s)`);
  return rows;
}

/** The bits that the TypeScript backend gives here. */
async function bitsHere() {
  const file = join(work, 'here.mjs');
  writeFileSync(file, program(IMPORT.replace('fused-adamw', new URL('../dist/lib/index.mjs', import.meta.url).href)));
  const output = await mustRun(['env', 'FUSED_ADAMW_BACKEND=javascript', process.execPath, file], work);
  return JSON.parse(output.slice('result: '.length)).bits;
}

/** The rows of a group as the document has them. */
function tableOf(rows) {
  const cells = [['tool', 'how', 'what runs'], ...rows];
  const widths = [0, 1, 2].map((column) => Math.max(...cells.map((row) => row[column].length)));
  const line = (row) => `| ${row.map((cell, column) => cell.padEnd(widths[column])).join(' | ')} |`;
  return [line(cells[0]), `| ${widths.map((width) => '-'.repeat(width)).join(' | ')} |`, ...rows.map(line)].join('\n');
}

/** Where the table of a group is in the document. */
const placeOf = (name) => new RegExp(`(<!-- ${name}: [^\\n]*-->\\n\\n)[^]*?(?=\\n\\n|\\n*$)`);

async function main(args) {
  const isWriting = args.includes('--write');
  const named = args.filter((arg) => !arg.startsWith('--'));
  const unknown = [
    ...args.filter((arg) => arg.startsWith('--') && arg !== '--write'),
    ...named.filter((name) => !(name in GROUPS)),
  ];
  if (unknown.length > 0)
    throw new Error(`Expected ${Object.keys(GROUPS).join(', ')} or --write but received ${unknown.join(' ')}`);

  const names = named.length > 0 ? named : Object.keys(GROUPS);
  const [tarball, expectedBits] = [await pack(), await bitsHere()];
  const waiting = names.flatMap((group) => GROUPS[group].map((project) => ({ group, project })));
  const rows = new Map(waiting.map(({ project }) => [project, []]));
  const queue = waiting.entries();
  const worker = async () => {
    for (const [i, { project }] of queue) rows.set(project, await checkProject(project, tarball, `${i}`, expectedBits));
  };
  await Promise.all(Array.from({ length: AT_A_TIME }, worker));

  const failed = [...rows.values()].flat().filter((row) => row === null).length;
  if (failed > 0) throw new Error(`${failed} failed`);
  let document = readFileSync(DOCUMENT, 'utf8');
  for (const name of names) {
    const table = tableOf(GROUPS[name].flatMap((project) => rows.get(project)));
    const place = placeOf(name);
    if (!place.test(document)) throw new Error(`docs/tools.md has no place for the table of ${name}`);
    const written = document.replace(place, (_, head) => head + table);
    if (written !== document && !isWriting)
      throw new Error(`the table of ${name} in docs/tools.md is old: --write\n${table}`);
    document = written;
  }
  if (isWriting) writeFileSync(DOCUMENT, document);
}

try {
  await main(process.argv.slice(2));
} catch (error) {
  console.error(`check-tools: ${error.message}`);
  process.exitCode = 1;
} finally {
  rmSync(work, { recursive: true, force: true });
}
