// Packs what was built last as `npm pack` does, but from a folder of its own: the package.json of the repository stays as
// it is, whatever interrupts this and whatever packs beside it.
//
//   node scripts/pack.mjs [FOLDER]   writes fused-adamw-<version>.tgz there, by default into the root
import { cpSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { root, run } from './commands.mjs';

const [destination = root] = process.argv.slice(2);
const staged = mkdtempSync(join(tmpdir(), 'fused-adamw-pack-'));
try {
  const [{ files }] = JSON.parse(run('npm', ['pack', '--dry-run', '--json', '--ignore-scripts']));
  for (const { path } of files) cpSync(join(root, path), join(staged, path));
  const manifest = JSON.parse(readFileSync(join(root, 'package.json'), 'utf8'));
  for (const field of manifest['clean-package'].remove) delete manifest[field];
  writeFileSync(join(staged, 'package.json'), `${JSON.stringify(manifest, null, 2)}\n`);
  const name = run('npm', ['pack', staged, '--silent', '--pack-destination', resolve(destination)]).trim();
  console.log(join(resolve(destination), name));
} finally {
  rmSync(staged, { recursive: true, force: true });
}
