// Node with its permission model, Bun and Deno.
import { ASYNC, BOTH, IMPORT, program, REQUIRE } from './use.mjs';

const files = { 'import.mjs': program(IMPORT), 'require.cjs': program(REQUIRE), 'both.mjs': BOTH, 'async.mjs': ASYNC };

const plainly = (command) => ({
  how: '`import`, `require()`, both in one process with the same classes, `updateAsync`',
  run: [
    [...command, 'import.mjs'],
    [...command, 'require.cjs'],
    [...command, 'both.mjs'],
    [...command, 'async.mjs'],
  ],
  native: true,
});

function node(major, version, permission) {
  const command = [`node_modules/node${major}/bin/node`];
  const restricted = [...command, permission, '--allow-fs-read=*'];
  return {
    tool: 'Node',
    install: { [`node${major}`]: `npm:node@${version}` },
    files,
    checks: [
      plainly(command),
      {
        how: `\`${permission}\` with \`--allow-addons\``,
        run: [[...restricted, '--allow-addons', 'import.mjs']],
        native: true,
      },
      {
        how: `\`${permission}\` without \`--allow-addons\``,
        run: [[...restricted, 'import.mjs']],
        reason: /loading addons is disabled/,
      },
    ],
  };
}

const deno = (...permissions) => ['node_modules/.bin/deno', 'run', '--no-prompt', ...permissions];

export default [
  node(20, '20.19.0', '--experimental-permission'),
  node(22, '22.23.3', '--permission'),
  node(24, '24.21.0', '--permission'),
  node(26, '26.10.0', '--permission'),
  {
    tool: 'Bun',
    install: { bun: '1.4.5' },
    files,
    checks: [
      plainly(['node_modules/.bin/bun']),
      {
        how: '`bun build --compile`, the file alone',
        run: [['node_modules/.bin/bun', 'build', '--compile', 'import.mjs', '--outfile', 'out/app']],
        alone: ['./app'],
        native: true,
      },
    ],
  },
  {
    tool: 'Deno',
    install: { deno: '2.9.6' },
    files,
    checks: [
      plainly(deno('-A')),
      {
        how: '`--allow-read --allow-ffi`',
        run: [[...deno('--allow-read', '--allow-ffi'), 'import.mjs']],
        native: true,
      },
      {
        how: '`--allow-read` alone',
        run: [[...deno('--allow-read'), 'import.mjs']],
        reason: /run again with the --allow-ffi flag/,
      },
      { how: 'without permissions', run: [[...deno(), 'import.mjs']], reason: /run again with the --allow-read flag/ },
    ],
  },
];
