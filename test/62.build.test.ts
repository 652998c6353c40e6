/** The build: what it makes and leaves, and where there is no compiler one clear line and a package that runs. */
import { type SpawnSyncReturns, spawnSync } from 'node:child_process';
import {
  appendFileSync,
  cpSync,
  existsSync,
  mkdirSync,
  readdirSync,
  renameSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { dirname, join } from 'node:path';
import { expect } from 'chai';
import { platformName } from '../lib/backend/binary.js';
import { loadBackend } from '../lib/backend/index.js';
import { copyPackage, expectExit, expectedDigest, reportOf, repository, temporaryFolder } from './support/child.js';
import { either, itUnless, noCompiler, noNative } from './support/conditions.js';

const EXAMPLE = { length: 100 };

const headers = join(dirname(dirname(process.execPath)), 'include/node/common.gypi');
const noHeaders =
  process.env.npm_config_nodedir !== undefined || existsSync(headers)
    ? null
    : 'this node came without its headers, and node-gyp would fetch them';
const isWindows = process.platform === 'win32' ? 'node-gyp takes no CXX on Windows' : null;

describe('the build', () => {
  const folder = temporaryFolder();

  /** The repository as it is cloned, but for what the build does not need, with its dependencies installed. */
  const clone = (name: string): string => {
    const root = join(folder.path, name);
    const taken = ['bin', 'lib', 'native', 'scripts', 'test/support', 'package.json', 'tsconfig.json'];
    for (const path of taken) cpSync(join(repository, path), join(root, path), { recursive: true });
    symlinkSync(join(repository, 'node_modules'), join(root, 'node_modules'));
    return root;
  };

  const build = (root: string, env: Record<string, string>, ...args: string[]): SpawnSyncReturns<string> => {
    const inherited = Object.entries(process.env).filter(([name]) => !/^(FUSED_ADAMW_|CC$|CXX$)/.test(name));
    return spawnSync(process.execPath, ['scripts/build.mjs', ...args], {
      cwd: root,
      encoding: 'utf8',
      env: { ...Object.fromEntries(inherited), ...env },
    });
  };

  const filesIn = (path: string): string[] => readdirSync(path, { recursive: true }) as string[];

  /** dist/ is there, no half of an addon is, and a step runs in TypeScript. */
  const expectTypeScript = (root: string): void => {
    expect(existsSync(join(root, 'dist/lib/index.js'))).to.equal(true);
    expect(existsSync(join(root, 'build/Release/fused_adamw.node'))).to.equal(false);
    const source = `
      const library = await import(libraryUrl);
      const { backend, native: { reason } } = library.backendInfo();
      report({ backend, reason, digest: exampleDigest(library, ${JSON.stringify(EXAMPLE)}) });`;
    expect(reportOf(source, { root, env: { FUSED_ADAMW_BACKEND: '' } })).to.deep.equal({
      backend: 'javascript',
      reason: `there is no binary for ${platformName()}`,
      digest: expectedDigest(EXAMPLE),
    });
  };

  /** The one line about the addon, and no other output. */
  const expectLine = (result: SpawnSyncReturns<string>, line: RegExp): void => {
    expectExit(result, 0);
    const lines = `${result.stdout}${result.stderr}`.split('\n').filter((each) => each !== '');
    expect(lines, lines.join('\n')).to.have.length(1);
    expect(lines[0]).to.match(line);
  };

  const NOT_BUILT =
    /^fused-adamw: the addon was not built, the TypeScript backend will run with the same results \((.+)\)$/;

  it('should say in one line that there are no tools at all', () => {
    const root = clone('no-tools');
    const tools = join(root, 'tools');
    mkdirSync(tools);
    symlinkSync(process.execPath, join(tools, 'node'));
    // node-gyp looks for Python first, and says what it would have needed.
    const result = build(root, { PATH: tools, NODE_GYP_FORCE_PYTHON: '/nonexistent/python' });
    expectLine(result, NOT_BUILT);
    expect(NOT_BUILT.exec(result.stdout.trim())?.[1]).to.match(/python/i);
    expectTypeScript(root);
  });

  itUnless(either(isWindows, noHeaders), 'should say in one line that the compiler does not exist', () => {
    const root = clone('no-compiler');
    const result = build(root, { CC: '/nonexistent/cc', CXX: '/nonexistent/c++' });
    expectLine(result, NOT_BUILT);
    expect(NOT_BUILT.exec(result.stdout.trim())?.[1]).to.match(/nonexistent|make|compiler/);
    expectTypeScript(root);
    expect(filesIn(join(root, 'native')).filter((file) => file.endsWith('.node'))).to.deep.equal([]);
  });

  it('should say in one line that FUSED_ADAMW_SKIP_ADDON asks for no addon', () => {
    const root = clone('skipped');
    const result = build(root, { FUSED_ADAMW_SKIP_ADDON: '1' });
    expectLine(result, /^fused-adamw: the addon was skipped \(FUSED_ADAMW_SKIP_ADDON\)$/);
    expectTypeScript(root);
  });

  it('should compile only what changed, and remove the output of removed sources', () => {
    const root = clone('stale');
    writeFileSync(join(root, 'lib/old.ts'), 'export const value = 1;\n');
    const env = { FUSED_ADAMW_SKIP_ADDON: '1' };
    const modified = (): Record<string, number> =>
      Object.fromEntries(
        ['errors', 'index'].map((name) => [name, statSync(join(root, `dist/lib/${name}.js`)).mtimeMs]),
      );
    expectExit(build(root, env), 0);
    const first = modified();
    expectExit(build(root, env), 0);
    expect(modified()).to.deep.equal(first);

    appendFileSync(join(root, 'lib/errors.ts'), 'export const added = 1;\n');
    renameSync(join(root, 'lib/old.ts'), join(root, 'lib/new.ts'));
    rmSync(join(root, 'dist/lib/numerics/dtype.js'));
    expectExit(build(root, env), 0);
    expect(modified().errors).to.be.greaterThan(first.errors);
    const compiled = filesIn(join(root, 'dist/lib'));
    expect(compiled).to.include.members(['new.js', 'new.d.ts', 'new.js.map', 'numerics/dtype.js']);
    expect(compiled.filter((file) => file.startsWith('old.'))).to.deep.equal([]);
  });

  itUnless(either(isWindows, noHeaders, noCompiler), 'should fail for sources that do not compile', () => {
    const root = clone('rejected');
    appendFileSync(join(root, 'native/core/dtypes.h'), '#include "planted.h"\n');
    const rejected = build(root, {});
    expectExit(rejected, 1);
    expect(rejected.stderr).to.match(/dtypes\.h:.* error: .*planted\.h/);
    expectLine(build(root, {}, '--install'), NOT_BUILT);
    expectTypeScript(root);
  });

  describe('of an installed package', () => {
    const run = (root: string, env: Record<string, string>): SpawnSyncReturns<string> =>
      spawnSync(process.execPath, ['dist/bin/main.js', 'build'], {
        cwd: root,
        encoding: 'utf8',
        env: { ...process.env, ...env },
      });

    /** The package as it is installed, without a binary. */
    const install = (name: string): string => {
      const root = copyPackage(join(folder.path, name));
      for (const path of ['dist/bin', 'dist/include', 'native', 'scripts/addon.mjs'])
        cpSync(join(repository, path), join(root, path), { recursive: true });
      rmSync(join(root, 'native/build'), { recursive: true, force: true });
      return root;
    };

    itUnless(either(isWindows, noHeaders, noCompiler), 'should be compiled in place by `fused-adamw build`', () => {
      const root = install('in-place');
      expectLine(run(root, {}), /^fused-adamw: the addon was built$/);
      const source = `
        const { backend, native: { path, build } } = (await import(libraryUrl)).backendInfo();
        report({ backend, path, build });`;
      expect(reportOf(source, { root, env: { FUSED_ADAMW_BACKEND: '', FUSED_ADAMW_BINARY: '' } })).to.deep.equal({
        backend: 'native',
        path: join(root, 'build/Release/fused_adamw.node'),
        build: 'node-gyp',
      });
    });

    itUnless(either(isWindows, noHeaders), 'should be told in one line that the compiler does not exist', () => {
      const result = run(install('in-place-no-compiler'), { CC: '/nonexistent/cc', CXX: '/nonexistent/c++' });
      expectExit(result, 1);
      expect(result.stdout).to.match(
        /^fused-adamw: the addon was not built, which takes Python, make and GCC or Clang \(.*\)\n$/,
      );
      expect(result.stderr).to.equal('');
    });
  });

  itUnless(noNative, 'should be loaded from where FUSED_ADAMW_BINARY says', () => {
    const place = 'build/Debug/fused_adamw.node';
    const root = copyPackage(join(folder.path, 'debug'), loadBackend().path as string, place);
    const source = `
      const { backend, native: { path } } = (await import(libraryUrl)).backendInfo();
      report({ backend, path });`;
    const expected = { backend: 'native', path: join(root, place) };
    for (const FUSED_ADAMW_BINARY of [place, expected.path])
      expect(reportOf(source, { root, env: { FUSED_ADAMW_BACKEND: '', FUSED_ADAMW_BINARY } })).to.deep.equal(expected);
  });
});
