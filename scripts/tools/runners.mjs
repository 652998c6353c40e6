// Test runners.
import { IMPORT, REQUIRE, testFile } from './use.mjs';

const jest = ['node_modules/jest/bin/jest.js', '--colors=false'];

export default [
  {
    tool: 'Jest',
    install: { jest: '30.5.2' },
    files: {
      'jest.config.json': '{ "testMatch": ["**/*.test.cjs", "**/*.test.mjs"] }',
      'require.test.cjs': testFile(REQUIRE),
      'import.test.mjs': testFile(IMPORT),
    },
    checks: [
      { how: 'the default mode', run: [['node', ...jest, 'require.test.cjs']], native: true },
      {
        how: 'ES modules (`node --experimental-vm-modules`)',
        run: [['node', '--experimental-vm-modules', ...jest, 'import.test.mjs']],
        native: true,
      },
    ],
  },
  {
    tool: 'Vitest',
    install: { vitest: '5.1.1' },
    files: { 'import.test.mjs': `import { test } from 'vitest';\n${testFile(IMPORT)}` },
    checks: ['threads', 'forks'].map((pool) => ({
      how: `\`--pool ${pool}\``,
      run: [['node', 'node_modules/vitest/vitest.mjs', 'run', '--pool', pool]],
      native: true,
    })),
  },
];
