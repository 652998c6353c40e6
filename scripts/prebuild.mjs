// Builds prebuilds/<platform>-<arch>/fused_adamw.node for every platform, on Linux, by zig: its clang, C libraries
// and C++ library. macOS's are linked by LLVM's own linker (Debian's lld-19), which signs them.
//
//   node scripts/prebuild.mjs [TARGET...]   if the tools can be had; else it says so in one line and succeeds
//   node scripts/prebuild.mjs --required    fails without them
//   node scripts/prebuild.mjs --force       even if the files are up to date
import { execFile } from 'node:child_process';
import { createHash } from 'node:crypto';
import { existsSync, mkdirSync, readdirSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { availableParallelism } from 'node:os';
import { basename, dirname, join, relative } from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs, promisify } from 'node:util';
import { failure, root, run, sitePackages } from './commands.mjs';

const require = createRequire(import.meta.url);
const execute = promisify(execFile);
const work = join(root, 'build/prebuild');
const { values, positionals } = parseArgs({
  options: { required: { type: 'boolean' }, force: { type: 'boolean' } },
  allowPositionals: true,
});

const ZIG = 'ziglang==0.17.1';
const MACOS_LINKER = 'ld64.lld-19';
const LEAST_MACOS = '11.0';

/** The folder in prebuilds/, and what zig calls the platform. */
const TARGETS = {
  'linux-x64': 'x86_64-linux-gnu.2.17',
  'linux-arm64': 'aarch64-linux-gnu.2.17',
  'linuxmusl-x64': 'x86_64-linux-musl',
  'linuxmusl-arm64': 'aarch64-linux-musl',
  'darwin-x64': `x86_64-macos.${LEAST_MACOS}`,
  'darwin-arm64': `aarch64-macos.${LEAST_MACOS}`,
  'win32-x64': 'x86_64-windows-gnu',
  'win32-arm64': 'aarch64-windows-gnu',
};

/** What a binary exports. */
const EXPORTS = ['napi_register_module_v1', 'node_api_module_get_api_version_v1'];

const FLAGS = [
  '-std=c++17',
  '-O3',
  // The contract on bits: no contraction to FMA, no fast-math.
  '-ffp-contract=off',
  '-fno-math-errno',
  '-fno-trapping-math',
  '-fvisibility=hidden',
  '-fno-sanitize=undefined',
  '-Wall',
  '-Wextra',
  '-Werror',
  '-DNAPI_VERSION=9',
  '-DNODE_ADDON_API_CPP_EXCEPTIONS',
  '-DNODE_ADDON_API_CPP_EXCEPTIONS_ALL',
  '-DFUSED_ADAMW_BUILD="prebuild"',
];

const binaryOf = (target) => join(root, 'prebuilds', target, 'fused_adamw.node');
const packageFolder = (name) => dirname(require.resolve(`${name}/package.json`));

/** The files below a folder that end so, sorted: the order of the objects is part of the bytes. */
function filesIn(folder, ending) {
  const files = readdirSync(join(root, folder), { recursive: true, withFileTypes: true });
  return files
    .filter((file) => file.isFile() && ending.test(file.name))
    .map((file) => relative(root, join(file.parentPath, file.name)))
    .sort();
}

function sourcesOf(target) {
  const isWindows = target.startsWith('win32');
  return filesIn('native', /\.cc$/).filter((file) => {
    const name = basename(file);
    if (name.startsWith('windows')) return isWindows;
    return name !== 'posix.cc' || !isWindows;
  });
}

/** A digest of all that the binaries are made from. */
function inputs() {
  const hash = createHash('sha256');
  const own = relative(root, fileURLToPath(import.meta.url));
  for (const file of [own, ...filesIn('native', /\.(cc|h|def)$/)])
    hash
      .update(file)
      .update('\0')
      .update(readFileSync(join(root, file)));
  for (const name of ['node-addon-api', 'node-api-headers']) hash.update(require(`${name}/package.json`).version);
  return hash.digest('hex');
}

/** As run(), but beside others. */
async function start(command, args, options) {
  try {
    return await execute(command, args, { cwd: root, maxBuffer: 1 << 28, ...options });
  } catch (error) {
    throw failure(command, `${error.stderr ?? ''}`, error.message);
  }
}

/** Node-API as windows-node-api.cc and the linkers want it listed. */
function writeLists() {
  const { js_native_api_symbols, node_api_symbols } = require('node-api-headers').symbols.v9;
  const functions = [...js_native_api_symbols, ...node_api_symbols].sort();
  const lists = {
    'node-api-functions.h': `#define FUSED_ADAMW_NODE_API(X) ${functions.map((name) => `X(${name})`).join(' ')}\n`,
    'exports.map': `{ global: ${EXPORTS.map((name) => `${name};`).join(' ')} local: *; };\n`,
    'exports.txt': EXPORTS.map((name) => `_${name}\n`).join(''),
  };
  mkdirSync(work, { recursive: true });
  for (const [name, text] of Object.entries(lists)) writeFileSync(join(work, name), text);
}

function compileFlags(target) {
  const isWindows = target.startsWith('win32');
  const headers = [work, join(packageFolder('node-api-headers'), 'include'), packageFolder('node-addon-api')];
  return [
    ...FLAGS,
    ...headers.flatMap((folder) => ['-isystem', folder]),
    `-ffile-prefix-map=${root}=`,
    ...(isWindows ? ['-DNAPI_EXTERN=__declspec(dllimport)'] : ['-fPIC', '-pthread']),
  ];
}

async function link(zig, target, objects, output) {
  const platform = target.split('-')[0];
  const common = ['c++', '-target', TARGETS[target], '-O3', '-shared', '-s'];
  if (platform === 'darwin') return linkForMacos(zig, target, objects, output);
  const options =
    platform === 'win32'
      ? ['-Wl,--gc-sections']
      : [
          '-pthread',
          '-Wl,--gc-sections',
          // A function that the system lacks is an error when the file is opened, not a crash at its first call.
          '-Wl,-z,now',
          // Otherwise operator new and delete are exported.
          `-Wl,--version-script=${join(work, 'exports.map')}`,
          '-ldl',
        ];
  await zig.run([...common, ...options, '-o', output, ...objects]);
}

/** zig's own linker ignores the list of exports, and binds operator new so that the system's may be taken. */
async function linkForMacos(zig, target, objects, output) {
  // Makes zig build its C++ library, and tell where.
  const probe = `${output}.probe`;
  const { stderr } = await zig.run(
    ['c++', '-target', TARGETS[target], '-O3', '-shared', '-Wl,-undefined,dynamic_lookup', '-o', probe, ...objects],
    { ZIG_VERBOSE_LINK: '1' },
  );
  rmSync(probe, { force: true });
  const libraries = [...new Set(stderr.match(/\S+\/lib(c\+\+|c\+\+abi|compiler_rt)\.a/g))].sort();
  if (libraries.length !== 3) throw new Error(`Expected three libraries of zig but received ${libraries.join(', ')}`);
  const system = join(work, target, 'libSystem.tbd');
  const known = readFileSync(join(zig.folder, 'lib/libc/darwin/libSystem.tbd'), 'utf8');
  writeFileSync(system, known.replace(/arm64e\.x1-\w+(?:, )?/g, ''));
  const architecture = target === 'darwin-x64' ? 'x86_64' : 'arm64';
  const options = ['-bundle', '-undefined', 'dynamic_lookup', '-dead_strip', '-x', '-S', '-adhoc_codesign'];
  run(MACOS_LINKER, [
    ...['-arch', architecture, '-platform_version', 'macos', LEAST_MACOS, '14.0'],
    ...options,
    ...['-exported_symbols_list', join(work, 'exports.txt')],
    ...['-o', output, ...objects, ...libraries, system],
  ]);
}

/** Runs the tasks, as many at a time as there are processors. */
async function inParallel(tasks) {
  const left = [...tasks];
  const worker = async () => {
    for (let task = left.shift(); task; task = left.shift()) await task();
  };
  await Promise.all(Array.from({ length: availableParallelism() }, worker));
}

async function build() {
  const digest = inputs();
  const stampOf = (target) => join(work, target, 'inputs');
  const isUpToDate = (target) =>
    existsSync(binaryOf(target)) && existsSync(stampOf(target)) && readFileSync(stampOf(target), 'utf8') === digest;
  const unknown = positionals.find((name) => !(name in TARGETS));
  if (unknown) throw new Error(`Expected one of ${Object.keys(TARGETS).join(', ')} but received ${unknown}`);
  const wanted = positionals.length > 0 ? positionals : Object.keys(TARGETS);
  const names = wanted.filter((target) => values.force || !isUpToDate(target));
  if (names.length === 0) return 'the binaries are up to date';
  // Older binaries must not stand for these sources.
  for (const name of names) rmSync(binaryOf(name), { force: true });

  const folder = join(sitePackages(join(root, '.zig', ZIG), [ZIG]), 'ziglang');
  run(MACOS_LINKER, ['--version']);
  const cache = join(root, '.zig/cache');
  const environment = { ...process.env, ZIG_GLOBAL_CACHE_DIR: cache, ZIG_LOCAL_CACHE_DIR: cache };
  const zig = {
    folder,
    run: (args, env = {}) => start(join(folder, 'zig'), args, { env: { ...environment, ...env } }),
  };
  writeLists();
  const objectsOf = (target) =>
    sourcesOf(target).map((source) => [source, join(work, target, `${relative(root, source).replaceAll('/', '-')}.o`)]);
  const compilations = names.flatMap((target) => {
    mkdirSync(join(work, target), { recursive: true });
    mkdirSync(dirname(binaryOf(target)), { recursive: true });
    const common = ['c++', '-target', TARGETS[target], ...compileFlags(target)];
    return objectsOf(target).map(
      ([source, object]) =>
        () =>
          zig.run([...common, '-c', source, '-o', object]),
    );
  });
  await inParallel(compilations);
  await inParallel(
    names.map((target) => async () => {
      const output = join(work, target, 'fused_adamw.node');
      const objects = objectsOf(target).map(([, object]) => object);
      await link(zig, target, objects, output); // the first time it builds the platform's libraries, on one processor
      renameSync(output, binaryOf(target));
      writeFileSync(stampOf(target), digest);
    }),
  );
  return `${names.map((name) => `prebuilds/${name}`).join(', ')} were built by ${ZIG}`;
}

try {
  console.log(`fused-adamw: ${await build()}`);
} catch (error) {
  console.log(`fused-adamw: no binaries were built for other machines (${error.message})`);
  process.exitCode = values.required ? 1 : 0;
}
