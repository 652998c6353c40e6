// Builds what changed: the addon, then dist/. Without a compiler it says so in
// one line and succeeds: the TypeScript backend runs. The binary is copied to
// prebuilds/, which the npm package contains: thanks to Node-API one binary
// serves all versions of Node on a platform.
//
//   node scripts/build.mjs             both
//   node scripts/build.mjs --debug     the addon alone, with -O0 -g and assertions, into build/Debug
//   node scripts/build.mjs --install   both; succeeds, with one line, even if the compiler rejects the sources
//   FUSED_ADAMW_SKIP_ADDON=1 ...       dist/ alone
import { spawnSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { cpSync, existsSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { dirname, join, relative } from 'node:path';
import { fileURLToPath } from 'node:url';

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

/** The headers that came with this node, where they did: then node-gyp fetches none. */
function nodeDirectory() {
  const prefix = dirname(dirname(process.execPath));
  const found = existsSync(join(prefix, 'include/node/common.gypi'));
  return found && !process.env.npm_config_nodedir ? [`--nodedir=${prefix}`] : [];
}

/** Why a build failed: the compiler's first error, else node-gyp's, in one line. */
function reasonOf({ error, output }) {
  const lines = `${error ?? ''}\n${output}`.split('\n');
  const telling =
    lines.find((line) => /\berror:|fatal|not found|No such file/i.test(line) && !/gyp info/.test(line)) ??
    lines.find((line) => line.includes('gyp ERR! stack Error:')) ??
    lines.find((line) => line.trim() !== '');
  return (telling ?? 'unknown reason').replace(/gyp ERR! stack (Error: )?/, '').trim();
}

/** All that node-gyp's configuration depends on. */
function configurationKey() {
  const { version } = require('node-addon-api/package.json');
  const gyp = readFileSync(join(root, 'binding.gyp'));
  const parts = [root, process.execPath, process.version, process.arch, ...nodeDirectory(), version, gyp];
  const hash = createHash('sha256');
  for (const part of parts) hash.update(part).update('\0');
  return hash.digest('hex');
}

function nodeGyp(command) {
  const options = [`--${configuration.toLowerCase()}`, '--jobs=max', ...nodeDirectory()];
  const { status, error, stdout, stderr } = run(binOf('node-gyp'), [command, ...options]);
  return { succeeded: status === 0, error, output: `${stdout ?? ''}\n${stderr ?? ''}` };
}

/** Configures only if that could differ from the last time. */
function configureAndBuild() {
  const stamp = join(root, 'build/configured');
  const key = configurationKey();
  if (!existsSync(stamp) || readFileSync(stamp, 'utf8') !== key) {
    const result = nodeGyp('configure');
    if (!result.succeeded) return result;
    writeFileSync(stamp, key);
  }
  return nodeGyp('build');
}

/** @returns whether the sources are right, as far as a compiler could tell */
function buildAddon() {
  const binary = join(root, 'build', configuration, 'fused_adamw.node');
  const carried = join(root, 'prebuilds', `${process.platform}-${process.arch}`, 'fused_adamw.node');
  const result = configureAndBuild();
  if (result.succeeded) {
    const isCarried = existsSync(carried) && readFileSync(carried).equals(readFileSync(binary));
    if (configuration === 'Release' && !isCarried) {
      rmSync(carried, { force: true }); // a process that runs the old binary keeps it
      cpSync(binary, carried);
    }
    return true;
  }
  // An older binary must not stand for these sources.
  rmSync(binary, { force: true });
  if (configuration === 'Release') rmSync(carried, { force: true });
  const isRejected = /\bnative[\\/].*\berror\b/.test(result.output); // else there is no compiler that works
  if (configuration === 'Debug' || (isRejected && !isInstall)) {
    process.stderr.write(result.output);
    return false;
  }
  console.log(
    `fused-adamw: the addon was not built, the TypeScript backend will run with the same results (${reasonOf(result)})`,
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

const skipsAddon = Boolean(process.env.FUSED_ADAMW_SKIP_ADDON);
if (skipsAddon) console.log('fused-adamw: the addon was skipped (FUSED_ADAMW_SKIP_ADDON)');
const isRight = (skipsAddon || buildAddon()) && (configuration === 'Debug' || buildDist());
process.exitCode = isRight ? 0 : 1;
