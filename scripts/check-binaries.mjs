// What each binary of prebuilds/ needs, exports and weighs, read from its file: also for the systems on which no test
// runs here. Needs llvm-readobj and llvm-nm.
import { execFileSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { readFileSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';

const root = fileURLToPath(new URL('..', import.meta.url));

const EXPORTS = ['napi_register_module_v1', 'node_api_module_get_api_version_v1'];
const MOST_BYTES = 1_000_000;
const GLIBC = 2.17;
const LEAST_MACOS = '11.0';

const OF_GLIBC = /^(lib(c|dl|m|pthread|rt)\.so\.\d+|ld-linux-\S+)$/;
/** The libraries that a system has of itself. */
const NEEDS = {
  'linux-x64': OF_GLIBC,
  'linux-arm64': OF_GLIBC,
  'linuxmusl-x64': /^libc\.so$/,
  'linuxmusl-arm64': /^libc\.so$/,
  'darwin-x64': /^\/usr\/lib\/libSystem\.B\.dylib$/,
  'darwin-arm64': /^\/usr\/lib\/libSystem\.B\.dylib$/,
  'win32-x64': /^(KERNEL32\.dll|api-ms-win-crt-\S+\.dll)$/,
  'win32-arm64': /^(KERNEL32\.dll|api-ms-win-crt-\S+\.dll)$/,
};

const run = (command, ...args) => execFileSync(command, args, { encoding: 'utf8' });
const problems = [];
const expect = (isRight, target, what) => {
  if (!isRight) problems.push(`${target}: ${what}`);
};

/** The names that stand between `Name [` and `]`. */
const listIn = (text, name) =>
  (new RegExp(`${name} \\[\\n([^\\]]*)`).exec(text)?.[1] ?? '').split(/\s+/).filter(Boolean);

function exportsOf(target, file) {
  const platform = target.split('-')[0];
  if (platform === 'win32') {
    const text = run('llvm-readobj', '--coff-exports', file);
    return [...text.matchAll(/^ *Name: (\S+)$/gm)].map(([, name]) => name);
  }
  const text = run('llvm-nm', ...(platform === 'darwin' ? ['-g'] : ['-D']), '--defined-only', file);
  return [...text.matchAll(/^[0-9a-f]+ \w _?(\S+)$/gm)].map(([, name]) => name);
}

function checkLinux(target, file) {
  const dynamic = run('llvm-readobj', '--dynamic-table', '--version-info', '--sections', file);
  expect(/FLAGS_1.*\bNOW\b/.test(dynamic), target, 'it binds functions at their first call, which ends the process');
  expect(!/Name: \.symtab/.test(dynamic), target, 'it is not stripped');
  const versions = [...dynamic.matchAll(/Name: (GLIBC\w*)_([\d.]+)$/gm)];
  expect(versions.length > 0 === target.startsWith('linux-'), target, `${versions.length} versions of glibc`);
  for (const [, library, version] of versions) {
    const [major, minor = 0] = version.split('.').map(Number);
    const isOld = library === 'GLIBC' && (major < 2 || (major === 2 && minor <= Number(`${GLIBC}`.split('.')[1])));
    expect(isOld, target, `it needs ${library}_${version}`);
  }
}

const CODE_SIGNATURE = 0x1d;
const SIGNATURE_MAGIC = 0xfade0cc0;
const CODE_DIRECTORY_MAGIC = 0xfade0c02;
const AD_HOC = 0x2;

/** Whether the hash of every page is the one in the ad-hoc signature, without which arm64 macOS opens no binary. */
function isSigned(bytes) {
  let at = 32; // after the header
  for (let left = bytes.readUInt32LE(16); left > 0 && bytes.readUInt32LE(at) !== CODE_SIGNATURE; left--)
    at += bytes.readUInt32LE(at + 4);
  if (bytes.readUInt32LE(at) !== CODE_SIGNATURE) return false;
  const signature = bytes.readUInt32LE(at + 8);
  if (bytes.readUInt32BE(signature) !== SIGNATURE_MAGIC) return false;
  const directory = bytes.subarray(signature + bytes.readUInt32BE(signature + 16));
  if (directory.readUInt32BE(0) !== CODE_DIRECTORY_MAGIC || !(directory.readUInt32BE(12) & AD_HOC)) return false;
  const hashes = directory.readUInt32BE(16);
  const pages = directory.readUInt32BE(28);
  const end = directory.readUInt32BE(32);
  const hashBytes = directory[36];
  const pageBytes = 2 ** directory[39];
  if (end !== signature || pages !== Math.ceil(end / pageBytes)) return false;
  for (let page = 0; page < pages; page++) {
    const content = bytes.subarray(page * pageBytes, Math.min(end, (page + 1) * pageBytes));
    const expected = directory.subarray(hashes + page * hashBytes, hashes + (page + 1) * hashBytes);
    if (!createHash('sha256').update(content).digest().equals(expected)) return false;
  }
  return true;
}

function checkMacos(target, file) {
  const version = /Version: (\S+)/.exec(run('llvm-readobj', '--macho-version-min', file))?.[1];
  expect(version === LEAST_MACOS, target, `it is for macOS ${version}`);
  const ofCpp = run('llvm-nm', '-u', file).match(/\b__Z\S+/g);
  expect(ofCpp === null, target, `it takes ${ofCpp} from the system's C++ library`);
  const bytes = readFileSync(file);
  expect(isSigned(bytes), target, 'its code signature does not hold');
  bytes[4096] ^= 1;
  expect(!isSigned(bytes), target, 'this script sees no change of a signed page');
}

for (const [target, needed] of Object.entries(NEEDS)) {
  const file = join(root, 'prebuilds', target, 'fused_adamw.node');
  const needs = listIn(run('llvm-readobj', '--needed-libs', file), 'NeededLibraries');
  const architecture = target.endsWith('-x64') ? 'x86_64' : 'aarch64';
  expect(run('llvm-readobj', '--file-headers', file).includes(`Arch: ${architecture}`), target, 'another architecture');
  expect(needs.length > 0, target, 'it needs no library, not even that of C');
  for (const library of needs) expect(needed.test(library), target, `it needs ${library}`);
  const exported = exportsOf(target, file).sort();
  expect(exported.join() === EXPORTS.join(), target, `it exports ${exported}`);
  const { size } = statSync(file);
  expect(size < MOST_BYTES, target, `it has ${size} bytes`);
  if (target.startsWith('linux')) checkLinux(target, file);
  if (target.startsWith('darwin')) checkMacos(target, file);
  console.log(`${target.padEnd(16)}${(size / 1000).toFixed(0).padStart(4)} kB, needs ${needs.join(' ')}`);
}
for (const problem of problems) console.error(problem);
process.exitCode = problems.length === 0 ? 0 : 1;
