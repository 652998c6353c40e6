// Bundlers and tracers. What is run `alone` is copied out of the project first, so that it has nothing else.
import { IMPORT, program, REQUIRE } from './use.mjs';

const files = { 'import.mjs': program(IMPORT), 'require.cjs': program(REQUIRE) };

const BANNER = `import { createRequire } from 'node:module'; const require = createRequire(import.meta.url);`;
const esbuild = (format, ...options) => [
  'node_modules/.bin/esbuild',
  ...['import.mjs', '--bundle', '--platform=node', '--log-level=warning'],
  `--format=${format}`,
  `--outfile=out/main.${format === 'esm' ? 'mjs' : 'cjs'}`,
  ...options,
];

const webpack = (name) => ['node', 'node_modules/webpack/bin/webpack.js', '--config', `webpack.${name}.cjs`];
const webpackConfig = (format, options) => `module.exports = {
  entry: './import.mjs', mode: 'production', target: 'node20', performance: { hints: false },
  ${format === 'esm' ? 'experiments: { outputModule: true },' : ''}
  output: { path: __dirname + '/out', filename: 'main.${format === 'esm' ? 'mjs' : 'cjs'}', module: ${format === 'esm'} },
  ${options}
};`;
const ASSET = `module: { rules: [{ test: /\\.node$/, type: 'asset/resource' }] },`;

const rollup = (name, format) => [
  'node_modules/.bin/rollup',
  ...['--config', `rollup.${name}.mjs`, '--format', format],
  ...['--file', `out/main.${format === 'es' ? 'mjs' : 'cjs'}`],
];
const rollupConfig = (options, commonjs = '') => `import commonjs from '@rollup/plugin-commonjs';
import resolve from '@rollup/plugin-node-resolve';
export default { input: 'import.mjs', plugins: [resolve({ preferBuiltins: true }), commonjs(${commonjs})], ${options} };`;

const ncc = (source) => [
  'node',
  'node_modules/@vercel/ncc/dist/ncc/cli.js',
  'build',
  source,
  '--out',
  'out',
  '--quiet',
];

const NEXT_CONFIG = `const root = import.meta.dirname;
export default {
  output: 'standalone', distDir: 'out', serverExternalPackages: ['fused-adamw'], outputFileTracingRoot: root, turbopack: { root },
};`;
const NEXT_ROUTE = `export const dynamic = 'force-dynamic';
export async function GET() {
  await import('../../import.mjs');
  return Response.json('done');
}`;
/** Starts the server that Next made and asks it once. */
const ASK_NEXT = `const { createServer } = await import('node:net');
const { once } = await import('node:events');
const probe = createServer().listen(0, '127.0.0.1');
await once(probe, 'listening');
const { port } = probe.address();
await new Promise((resolve) => probe.close(resolve));
Object.assign(process.env, { PORT: String(port), HOSTNAME: '127.0.0.1' });
await import(process.cwd() + '/standalone/server.js');
for (let tries = 0; tries < 100; tries++) {
  const answer = await fetch('http://127.0.0.1:' + port + '/steps').catch(() => null);
  if (answer) process.exit(answer.ok ? 0 : 1);
  await new Promise((resolve) => setTimeout(resolve, 100));
}
process.exit(1);`;

const CANNOT_LOAD = /^this bundle cannot load prebuilds\/.*mark fused-adamw as external/;

export default [
  {
    tool: 'esbuild',
    install: { esbuild: '0.28.2' },
    files,
    checks: [
      { how: 'no option', run: [esbuild('cjs')], fails: /No loader is configured for "\.node" files/ },
      ...['cjs', 'esm'].map((format) => ({
        how: `\`--format=${format} --external:fused-adamw\``,
        run: [esbuild(format, '--external:fused-adamw'), ['node', `out/main.${format === 'esm' ? 'mjs' : 'cjs'}`]],
        native: true,
      })),
      {
        how: '`--format=cjs --loader:.node=copy`',
        run: [esbuild('cjs', '--loader:.node=copy')],
        alone: ['node', 'main.cjs'],
        native: true,
      },
      {
        how: '`--format=cjs --loader:.node=file`',
        run: [esbuild('cjs', '--loader:.node=file')],
        alone: ['node', 'main.cjs'],
        native: true,
      },
      {
        how: '`--format=esm --loader:.node=copy` alone',
        run: [esbuild('esm', '--loader:.node=copy'), ['node', 'out/main.mjs']],
        fails: /Dynamic require of "node:\w+" is not supported/,
        ending: 'the bundle fails: it has no `require`',
      },
      {
        how: '`--format=esm --loader:.node=copy` and a banner that makes `require`',
        run: [esbuild('esm', '--loader:.node=copy', `--banner:js=${BANNER}`)],
        alone: ['node', 'main.mjs'],
        native: true,
      },
      {
        how: '`--format=cjs --external:*.node`',
        run: [esbuild('cjs', '--external:*.node')],
        alone: ['node', 'main.cjs'],
        reason: CANNOT_LOAD,
      },
    ],
  },
  {
    tool: 'webpack',
    install: { webpack: '5.112.2', 'webpack-cli': '7.3.1' },
    files: {
      ...files,
      'webpack.plain.cjs': webpackConfig('cjs', ''),
      'webpack.cjs.cjs': webpackConfig('cjs', ASSET),
      'webpack.esm.cjs': webpackConfig('esm', ASSET),
      'webpack.external.cjs': webpackConfig('cjs', `externals: { 'fused-adamw': 'commonjs fused-adamw' },`),
    },
    checks: [
      {
        how: 'no option',
        run: [webpack('plain')],
        fails: /You may need an appropriate loader to handle this file type/,
      },
      { how: '`externals`', run: [webpack('external'), ['node', 'out/main.cjs']], native: true },
      {
        how: '`asset/resource` for `.node`, CommonJS',
        run: [webpack('cjs')],
        alone: ['node', 'main.cjs'],
        native: true,
      },
      {
        how: '`asset/resource` for `.node`, ES module',
        run: [webpack('esm')],
        alone: ['node', 'main.mjs'],
        native: true,
      },
    ],
  },
  {
    tool: 'Rollup',
    install: { rollup: '4.68.8', '@rollup/plugin-commonjs': '29.0.3', '@rollup/plugin-node-resolve': '16.0.3' },
    files: {
      ...files,
      'rollup.plain.mjs': rollupConfig(''),
      'rollup.external.mjs': rollupConfig(`external: ['fused-adamw']`),
      'rollup.ignore.mjs': rollupConfig('', `{ ignore: (id) => id.endsWith('.node') }`),
    },
    checks: [
      {
        how: 'no option',
        run: [rollup('plain', 'es')],
        fails: /you need plugins to import files that are not JavaScript/,
      },
      { how: '`external`, ES module', run: [rollup('external', 'es'), ['node', 'out/main.mjs']], native: true },
      { how: '`external`, CommonJS', run: [rollup('external', 'cjs'), ['node', 'out/main.cjs']], native: true },
      {
        how: '`commonjs({ ignore })` for `.node`',
        run: [rollup('ignore', 'es')],
        alone: ['node', 'main.mjs'],
        reason: CANNOT_LOAD,
      },
    ],
  },
  {
    tool: 'Vite',
    install: { vite: '8.3.8' },
    files,
    checks: [
      {
        how: '`build --ssr`, which leaves packages out by itself',
        run: [
          ['node', 'node_modules/vite/bin/vite.js', 'build', '--ssr', 'import.mjs', '--outDir', 'out'],
          ['node', 'out/import.mjs'],
        ],
        native: true,
      },
    ],
  },
  {
    tool: '@vercel/ncc',
    install: { '@vercel/ncc': '0.45.0' },
    files,
    checks: [
      { how: 'CommonJS', run: [ncc('require.cjs')], alone: ['node', 'index.cjs'], native: true },
      { how: 'ES module', run: [ncc('import.mjs')], alone: ['node', 'index.mjs'], native: true },
    ],
  },
  {
    tool: '@vercel/nft',
    install: { '@vercel/nft': '1.11.5' },
    files: {
      ...files,
      'trace.mjs': `import { cpSync } from 'node:fs';
import { nodeFileTrace } from '@vercel/nft';
const { fileList } = await nodeFileTrace([process.argv[2]]);
for (const file of fileList) cpSync(file, 'out/' + file);`,
    },
    checks: [
      {
        how: 'what it traces, ES module',
        run: [['node', 'trace.mjs', 'import.mjs']],
        alone: ['node', 'import.mjs'],
        native: true,
      },
      {
        how: 'what it traces, CommonJS',
        run: [['node', 'trace.mjs', 'require.cjs']],
        alone: ['node', 'require.cjs'],
        native: true,
      },
    ],
  },
  {
    tool: 'Next',
    install: { next: '16.4.6', react: '19.3.1', 'react-dom': '19.3.1' },
    files: {
      ...files,
      'next.config.mjs': NEXT_CONFIG,
      'app/layout.js': 'export default ({ children }) => <html lang="en"><body>{children}</body></html>;',
      'app/steps/route.js': NEXT_ROUTE,
    },
    checks: [
      {
        how: "`output: 'standalone'` and `serverExternalPackages`",
        run: [['env', 'NEXT_TELEMETRY_DISABLED=1', 'node', 'node_modules/next/dist/bin/next', 'build']],
        alone: ['node', '--input-type=module', '--eval', ASK_NEXT],
        native: true,
      },
    ],
  },
];
