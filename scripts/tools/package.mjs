// What reads the package itself.
export default [
  {
    tool: 'publint',
    install: { publint: '0.3.25' },
    checks: [
      {
        how: '`--strict`',
        run: [['node_modules/.bin/publint', '--strict', 'node_modules/fused-adamw']],
        quiet: /All good!/,
      },
    ],
  },
  {
    tool: 'attw',
    install: { '@arethetypeswrong/cli': '0.18.5' },
    checks: [{ how: 'every entry', run: [['node_modules/.bin/attw', 'package.tgz']], quiet: /No problems found/ }],
  },
];
