// The declarations, for strict consumers that have neither skipLibCheck nor @types/node.
import { TYPED_IMPORT, TYPED_REQUIRE, typed } from './use.mjs';

const VERSIONS = ['5.0.4', '5.2.2', '5.4.5', '5.6.3', '5.9.3', '6.0.3', '7.0.2'];

const FILES = {
  'module/package.json': '{ "type": "module" }',
  'module/use.ts': typed(TYPED_IMPORT),
  'commonjs/package.json': '{ "type": "commonjs" }',
  'commonjs/use.ts': typed(TYPED_IMPORT),
  'use.mts': typed(TYPED_IMPORT),
  'use.cts': typed(TYPED_IMPORT),
  'required.cts': typed(TYPED_REQUIRE),
};
const SOURCES = ['module/use.ts', 'commonjs/use.ts', 'use.mts', 'use.cts'];

const MODES = [
  { resolution: 'node16', module: 'node16', sources: [...SOURCES, 'required.cts'] },
  { resolution: 'nodenext', module: 'nodenext', sources: [...SOURCES, 'required.cts'] },
  { resolution: 'bundler', module: 'esnext', sources: SOURCES },
];

export default VERSIONS.map((version) => ({
  tool: 'TypeScript',
  install: { typescript: version },
  files: FILES,
  checks: [
    {
      how: '`node16`, `nodenext` and `bundler`, in `.ts` of both types, `.mts` and `.cts`',
      run: MODES.map(({ resolution, module, sources }) => [
        ...['node', 'node_modules/typescript/bin/tsc', '--noEmit', '--strict', '--target', 'es2022'],
        ...['--lib', 'es2022', '--module', module, '--moduleResolution', resolution],
        ...sources,
      ]),
      compiles: true,
    },
  ],
}));
