// Package managers: each installs the package into a project of its own inside the one that has the manager.
import { IMPORT, program, REQUIRE } from './use.mjs';

const files = {
  'managed/package.json': '{ "private": true, "dependencies": { "fused-adamw": "file:../package.tgz" } }',
  'managed/import.mjs': program(IMPORT),
  'managed/require.cjs': program(REQUIRE),
};

const pnpm = ['node', '../node_modules/pnpm/bin/pnpm.mjs'];
const yarn = ['node', '../node_modules/@yarnpkg/cli-dist/bin/yarn.js'];
const bun = ['../node_modules/.bin/bun'];

export default [
  {
    tool: 'pnpm',
    install: { pnpm: '12.21.0' },
    files,
    checks: [
      {
        how: '`pnpm install`',
        folder: 'managed',
        run: [
          [...pnpm, 'install'],
          ['node', 'import.mjs'],
          ['node', 'require.cjs'],
        ],
        native: true,
      },
    ],
  },
  {
    tool: 'Yarn',
    install: { '@yarnpkg/cli-dist': '4.18.1' },
    files: {
      ...files,
      'managed/yarn.lock': '',
      'managed/.yarnrc.yml': 'enableTelemetry: false\nenableGlobalCache: false\n',
    },
    checks: [
      {
        how: "`yarn install`, Plug'n'Play",
        folder: 'managed',
        run: [
          [...yarn, 'install', '--no-immutable'],
          [...yarn, 'node', 'import.mjs'],
          [...yarn, 'node', 'require.cjs'],
        ],
        native: true,
      },
    ],
  },
  {
    tool: 'Bun',
    install: { bun: '1.4.5' },
    files,
    checks: [
      {
        how: '`bun install`',
        folder: 'managed',
        run: [
          [...bun, 'install'],
          [...bun, 'import.mjs'],
          [...bun, 'require.cjs'],
        ],
        native: true,
      },
    ],
  },
];
