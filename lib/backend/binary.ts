/** Finds the binary and opens it. */
import { existsSync } from 'node:fs';
import { createRequire } from 'node:module';
import { join, resolve } from 'node:path';
import { fileURLToPath } from 'node:url';
import { checkWhole } from './elf.js';
import { environment } from './environment.js';
import { isMusl } from './musl.js';

export interface Binary {
  /** What the binary exports. */
  readonly exports: unknown;
  readonly path: string;
}

/** `linux-x64`, `linuxmusl-x64`, `darwin-arm64`, ...: the folder of a platform in prebuilds/. */
export function platformName(): string {
  return `${process.platform}${isMusl() ? 'musl' : ''}-${process.arch}`;
}

/**
 * What opens a binary, in order of preference; each returns null where it has
 * none, and throws if there is one that does not open. FUSED_ADAMW_BINARY, from
 * the root of the package, replaces the others.
 */
export function binaries(): readonly (() => Binary | null)[] {
  const named = environment('FUSED_ADAMW_BINARY');
  return named ? [() => openNamed(named)] : [openBuilt, openCarried];
}

/**
 * Whether this file is part of a bundle rather than dist/lib/backend/binary.js.
 * A bundle that is an ES module has neither __filename nor require(); one by Bun
 * has the __filename that it was made from.
 */
function isBundled(): boolean {
  return (
    typeof __filename !== 'string' ||
    !__filename.endsWith(join('dist', 'lib', 'backend', 'binary.js')) ||
    !existsSync(__filename)
  );
}

function openNamed(named: string): Binary {
  const path = resolve(typeof __dirname === 'string' ? join(__dirname, '../../..') : '', named);
  if (!existsSync(path)) throw new Error(`there is no ${path}, which FUSED_ADAMW_BINARY names`);
  return open(path);
}

/** What was compiled in place. */
function openBuilt(): Binary | null {
  if (isBundled()) return null;
  const path = join(__dirname, '../../../build/Release/fused_adamw.node');
  return existsSync(path) ? open(path) : null;
}

/** What the package carries for this platform. */
function openCarried(): Binary | null {
  const platform = platformName();
  const file = `prebuilds/${platform}/fused_adamw.node`;
  if (isBundled()) {
    const exports = requireCarried(platform);
    if (exports === null) return null;
    return typeof exports === 'string' ? open(placeInBundle(exports)) : { exports, path: file };
  }
  const path = join(__dirname, '../../..', file);
  return existsSync(path) ? open(path) : null;
}

/** Bundlers that copy a file, such as webpack's asset/resource, give its place: a file URL, or a path from the bundle. */
function placeInBundle(place: string): string {
  if (place.startsWith('file:')) return fileURLToPath(place);
  return resolve(typeof __dirname === 'string' ? __dirname : '', place);
}

function open(path: string): Binary {
  checkWhole(path);
  return { exports: createRequire(path)(path), path };
}

/**
 * Of a bundle. Each by a literal, which is what bundlers and tracers find, and in a
 * `try`, where they pass over those that were removed. null for other platforms.
 */
function requireCarried(platform: string): unknown {
  try {
    switch (platform) {
      case 'linux-x64':
        return require('../../../prebuilds/linux-x64/fused_adamw.node');
      case 'linux-arm64':
        return require('../../../prebuilds/linux-arm64/fused_adamw.node');
      case 'linuxmusl-x64':
        return require('../../../prebuilds/linuxmusl-x64/fused_adamw.node');
      case 'linuxmusl-arm64':
        return require('../../../prebuilds/linuxmusl-arm64/fused_adamw.node');
      case 'darwin-x64':
        return require('../../../prebuilds/darwin-x64/fused_adamw.node');
      case 'darwin-arm64':
        return require('../../../prebuilds/darwin-arm64/fused_adamw.node');
      case 'win32-x64':
        return require('../../../prebuilds/win32-x64/fused_adamw.node');
      case 'win32-arm64':
        return require('../../../prebuilds/win32-arm64/fused_adamw.node');
      default:
        return null;
    }
  } catch (error) {
    const { code, message } = error as NodeJS.ErrnoException;
    if (code?.startsWith('ERR_DLOPEN')) throw error;
    throw new Error(
      `this bundle cannot load prebuilds/${platform}/fused_adamw.node (${message.replace(/\s+/g, ' ').trim()}); ` +
        'mark fused-adamw as external, or have the file copied as docs/tools.md says',
    );
  }
}
