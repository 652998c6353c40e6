// Compiles the addon by node-gyp: for build.mjs in a clone, and for `fused-adamw build` in an installed package.
import { spawnSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { cpSync, existsSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';

const require = createRequire(import.meta.url);
const root = fileURLToPath(new URL('..', import.meta.url));
// Not in the root of the package, where npm and others would run node-gyp.
const project = join(root, 'native');

/** The headers that came with this node, where they did: then node-gyp fetches none. */
function nodeDirectory() {
  const prefix = dirname(dirname(process.execPath));
  const found = existsSync(join(prefix, 'include/node/common.gypi'));
  return found && !process.env.npm_config_nodedir ? [`--nodedir=${prefix}`] : [];
}

/** The clone's, else the one that came with npm, which tells where it is. */
function nodeGypPath() {
  try {
    return require.resolve('node-gyp/bin/node-gyp.js');
  } catch {
    const { npm_config_node_gyp, npm_execpath } = process.env;
    const ofNpm = npm_config_node_gyp ?? join(dirname(npm_execpath ?? ''), '../node_modules/node-gyp/bin/node-gyp.js');
    return existsSync(ofNpm) ? ofNpm : null;
  }
}

function nodeGyp(path, command, configuration) {
  const options = ['-C', project, `--${configuration.toLowerCase()}`, '--jobs=max', ...nodeDirectory()];
  const result = spawnSync(process.execPath, [path, command, ...options], { encoding: 'utf8', maxBuffer: 1 << 28 });
  return { succeeded: result.status === 0, output: `${result.stdout ?? ''}\n${result.stderr ?? ''}` };
}

/** All that node-gyp's configuration depends on. */
function configurationKey() {
  const parts = [root, process.execPath, process.version, process.arch, ...nodeDirectory()];
  const hash = createHash('sha256').update(readFileSync(join(project, 'binding.gyp')));
  for (const part of parts) hash.update(part).update('\0');
  return hash.digest('hex');
}

/** Configures only if that could differ from the last time. */
function configureAndBuild(configuration) {
  if (process.platform === 'win32') return { succeeded: false, output: 'MSVC does not compile the sources' };
  const path = nodeGypPath();
  if (path === null)
    return { succeeded: false, output: 'there is no node-gyp: run this by npx, or npm install node-gyp' };
  const stamp = join(project, 'build/configured');
  const key = configurationKey();
  if (!existsSync(stamp) || readFileSync(stamp, 'utf8') !== key) {
    const result = nodeGyp(path, 'configure', configuration);
    if (!result.succeeded) return result;
    writeFileSync(stamp, key);
  }
  return nodeGyp(path, 'build', configuration);
}

/** Why a build failed: the compiler's first error, else node-gyp's, in one line. */
function reasonOf(output) {
  const lines = output.split('\n');
  const telling =
    lines.find((line) => /\berror:|fatal|not found|No such file/i.test(line) && !/gyp info/.test(line)) ??
    lines.find((line) => line.includes('gyp ERR! stack Error:')) ??
    lines.find((line) => line.trim() !== '');
  return (telling ?? 'unknown reason').replace(/gyp ERR! stack (Error: )?/, '').trim();
}

/**
 * Builds build/<configuration>/fused_adamw.node.
 *
 * @returns null, or `{ reason, output, isRejected }`: why there is no binary, in one line; all that the tools said;
 *   and whether it is the sources that a compiler rejected. Then no older binary is left.
 */
export function buildAddon(configuration = 'Release') {
  const binary = join(root, 'build', configuration, 'fused_adamw.node');
  const result = configureAndBuild(configuration);
  if (!result.succeeded) {
    // An older binary must not stand for these sources.
    rmSync(binary, { force: true });
    rmSync(join(project, 'build', configuration), { recursive: true, force: true });
    const isRejected = /\bnative[\\/].*\berror\b|^\.\.\/(?:core|cpu|cuda|node|platform)\/.*\berror\b/m.test(
      result.output,
    );
    return { reason: reasonOf(result.output), output: result.output, isRejected };
  }
  const built = join(project, 'build', configuration, 'fused_adamw.node');
  if (!existsSync(binary) || !readFileSync(binary).equals(readFileSync(built))) {
    rmSync(binary, { force: true }); // a process that runs the old binary keeps it
    cpSync(built, binary);
  }
  return null;
}
