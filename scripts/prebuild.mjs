// Before npm packs: the binary of this machine goes to prebuilds/, which the
// package carries. The addon speaks Node-API, so one binary serves all versions
// of Node on a platform.
import { cpSync, existsSync, mkdirSync, rmSync } from 'node:fs';
import { dirname } from 'node:path';
import { fileURLToPath } from 'node:url';

const root = new URL('..', import.meta.url);
const built = fileURLToPath(new URL('build/Release/fused_adamw.node', root));
const target = fileURLToPath(new URL(`prebuilds/${process.platform}-${process.arch}/fused_adamw.node`, root));

rmSync(target, { force: true });
if (existsSync(built)) {
  mkdirSync(dirname(target), { recursive: true });
  cpSync(built, target);
  console.error(`fused-adamw: packed the binary for ${process.platform}-${process.arch}`);
} else {
  console.error('fused-adamw: no binary was built, so none is packed');
}
