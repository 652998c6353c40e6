// Builds what changed: the addon, then dist/. Without a compiler it says so in
// one line and succeeds: the TypeScript backend runs.
//
//   node scripts/build.mjs             both
//   node scripts/build.mjs --debug     the addon alone, with -O0 -g and assertions, into build/Debug
//   node scripts/build.mjs --install   both; succeeds, with one line, even if the compiler rejects the sources
//   FUSED_ADAMW_SKIP_ADDON=1 ...       dist/ alone
import { spawnSync } from 'node:child_process';
import { cpSync, existsSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { createRequire } from 'node:module';
import { dirname, join, relative } from 'node:path';
import { fileURLToPath } from 'node:url';
import { buildAddon } from './addon.mjs';

const require = createRequire(import.meta.url);
const root = fileURLToPath(new URL('..', import.meta.url));
const configuration = process.argv.includes('--debug') ? 'Debug' : 'Release';
const isInstall = process.argv.includes('--install');

/** The file that a package's command runs. */
function binOf(name, command = name) {
  const manifest = require.resolve(`${name}/package.json`);
  const { bin } = require(manifest);
  return join(dirname(manifest), typeof bin === 'string' ? bin : bin[command]);
}

function run(file, args, options = {}) {
  return spawnSync(process.execPath, [file, ...args], { cwd: root, encoding: 'utf8', ...options });
}

/** The headers that the addon is compiled with; the package carries them, for `fused-adamw build`. */
function copyHeaders() {
  const folder = dirname(require.resolve('node-addon-api/package.json'));
  for (const header of ['napi.h', 'napi-inl.h', 'napi-inl.deprecated.h']) {
    const copy = join(root, 'dist/include', header);
    const isCopied = existsSync(copy) && readFileSync(copy).equals(readFileSync(join(folder, header)));
    if (!isCopied) cpSync(join(folder, header), copy);
  }
}

/** @returns whether the sources are right, as far as a compiler could tell */
function compileAddon() {
  const failure = buildAddon(configuration);
  if (failure === null) return true;
  if (configuration === 'Debug' || (failure.isRejected && !isInstall)) {
    process.stderr.write(failure.output);
    return false;
  }
  console.log(
    `fused-adamw: the addon was not built, the TypeScript backend will run with the same results (${failure.reason})`,
  );
  return true;
}

/** The files of a folder whose names match, as paths from the root. */
function filesIn(folder, pattern) {
  if (!existsSync(join(root, folder))) return [];
  return readdirSync(join(root, folder), { recursive: true })
    .filter((file) => pattern.test(file))
    .map((file) => join(folder, file));
}

/** The source of a compiled file: x.ts of x.js, x.js.map and x.d.ts; x.mts of x.mjs, x.mjs.map and x.d.mts. */
const sourceOf = (output) => relative('dist', output).replace(/\.(?:d\.)?(m?)[jt]s(?:\.map)?$/, '.$1ts');

/** @returns whether the types are right */
function buildDist() {
  const project = join(root, 'tsconfig.json');
  const { include, compilerOptions } = JSON.parse(readFileSync(project, 'utf8'));
  // The compiler neither removes the output of sources that are gone nor notices that output is gone.
  const outputs = filesIn('dist', /\.m?[jt]s(\.map)?$/);
  for (const output of outputs) {
    if (!existsSync(join(root, sourceOf(output)))) rmSync(join(root, output));
  }
  const compiled = new Set(outputs.filter((output) => /js$/.test(output)).map(sourceOf));
  const sources = include.filter((each) => !each.includes('*')).flatMap((folder) => filesIn(folder, /\.m?ts$/));
  if (!sources.every((source) => compiled.has(source)))
    rmSync(join(root, compilerOptions.tsBuildInfoFile), { force: true });
  return run(binOf('typescript', 'tsc'), ['--project', project], { stdio: 'inherit' }).status === 0;
}

copyHeaders();
const skipsAddon = Boolean(process.env.FUSED_ADAMW_SKIP_ADDON);
if (skipsAddon) console.log('fused-adamw: the addon was skipped (FUSED_ADAMW_SKIP_ADDON)');
const isRight = (skipsAddon || compileAddon()) && (configuration === 'Debug' || buildDist());
process.exitCode = isRight ? 0 : 1;
