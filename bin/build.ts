/** `fused-adamw build`: compiles the addon where the package is installed. */
import { parseArgs } from 'node:util';

export const summary = 'compiles the addon for this machine, where the package carries no binary for it';

const USAGE = `Compiles the addon with node-gyp, which needs Python, make and a compiler of C++17 (GCC or Clang),
from the sources that the package carries. Steps then run on it, before any binary of the package.

  fused-adamw build [--help]

Exits with 0 if it was built, 1 if not, 2 for wrong arguments.`;

/** What scripts/addon.mjs exports. */
interface AddonScript {
  /** @returns null if the addon was built, else why not, in one line */
  buildAddon(): { readonly reason: string } | null;
}

// This file is dist/bin/build.js.
const SCRIPT = new URL('../../scripts/addon.mjs', import.meta.url).href;

export async function main(args: readonly string[]): Promise<number> {
  try {
    const { values } = parseArgs({ args: [...args], options: { help: { type: 'boolean' } } });
    if (values.help) {
      console.log(USAGE);
      return 0;
    }
  } catch (error) {
    console.error(`${(error as Error).message}\n\n${USAGE}`);
    return 2;
  }
  const { buildAddon } = (await import(SCRIPT)) as AddonScript;
  const failure = buildAddon();
  if (failure === null) {
    console.log('fused-adamw: the addon was built');
    return 0;
  }
  console.log(`fused-adamw: the addon was not built, which takes Python, make and GCC or Clang (${failure.reason})`);
  return 1;
}
