// Builds the addon and then dist/. Without a compiler that is one clear line
// and no failure: the TypeScript backend runs. The binary is also put where the
// package carries it: it speaks Node-API, so one serves all versions of Node on
// a platform.
//
//   node scripts/build.mjs          both
//   FUSED_ADAMW_SKIP_ADDON=1 ...    dist/ alone
import { spawnSync } from 'node:child_process';
import { cpSync, existsSync, rmSync } from 'node:fs';
import { createRequire } from 'node:module';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';

const require = createRequire(import.meta.url);
const root = fileURLToPath(new URL('..', import.meta.url));

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
function reasonOf({ error, stdout, stderr }) {
  const lines = `${error ?? ''}\n${stdout ?? ''}\n${stderr ?? ''}`.split('\n');
  const telling =
    lines.find((line) => /\berror:|fatal|not found|No such file/i.test(line) && !/gyp info/.test(line)) ??
    lines.find((line) => line.includes('gyp ERR! stack Error:')) ??
    lines.find((line) => line.trim() !== '');
  return (telling ?? 'unknown reason').replace(/gyp ERR! stack (Error: )?/, '').trim();
}

if (process.env.FUSED_ADAMW_SKIP_ADDON) {
  console.log('fused-adamw: the addon was skipped (FUSED_ADAMW_SKIP_ADDON)');
} else {
  const result = run(binOf('node-gyp'), ['rebuild', ...nodeDirectory()]);
  const carried = join(root, 'prebuilds', `${process.platform}-${process.arch}`);
  rmSync(carried, { recursive: true, force: true });
  if (result.status === 0) {
    cpSync(join(root, 'build/Release/fused_adamw.node'), join(carried, 'fused_adamw.node'));
  } else {
    rmSync(join(root, 'build'), { recursive: true, force: true }); // half a build must not be loaded
    console.log(
      `fused-adamw: the addon was not built, the TypeScript backend will run with the same results (${reasonOf(result)})`,
    );
  }
}

rmSync(join(root, 'dist'), { recursive: true, force: true });
const types = run(binOf('typescript', 'tsc'), ['--project', join(root, 'tsconfig.json')], { stdio: 'inherit' });
process.exitCode = types.status ?? 1;
