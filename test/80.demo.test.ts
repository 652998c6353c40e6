import { spawnSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { expect } from 'chai';
import { backendInfo } from '../lib/index.js';

// This file is dist/test/80.demo.test.js.
const demo = fileURLToPath(new URL('../examples/mnist/main.js', import.meta.url));

type Variables = Record<string, string | undefined>;

/** Unsets the variables that choose how AdamW runs. */
const UNSET: Variables = { FUSED_ADAMW_BACKEND: undefined, FUSED_ADAMW_ISA: undefined, OMP_NUM_THREADS: undefined };

function runDemo(args: readonly string[], variables: Variables = {}) {
  const env = { ...process.env, ...UNSET, ...variables };
  const { status, stdout, stderr } = spawnSync(process.execPath, [demo, ...args], { env, encoding: 'utf8' });
  return { status, stdout, stderr };
}

/** The text after a heading in the demo's report. */
function factOf(stdout: string, name: string): string {
  return new RegExp(`^ {2}${name} +(.*)$`, 'm').exec(stdout)?.[1] ?? expect.fail(`no ${name} in ${stdout}`);
}

describe('The demo', () => {
  let folder: string;

  before(() => {
    folder = mkdtempSync(join(tmpdir(), 'fused-adamw-demo-'));
  });

  after(() => {
    rmSync(folder, { recursive: true });
  });

  describe('after one epoch in TypeScript', () => {
    let stdout: string;

    before(() => {
      const result = runDemo(['--epochs', '1', '--out', folder], { FUSED_ADAMW_BACKEND: 'javascript' });
      expect(result.stderr).to.equal('');
      expect(result.status).to.equal(0);
      stdout = result.stdout;
    });

    it('should have learned most of the digits', () => {
      const percent = /^([\d.]+)% of the test digits/.exec(factOf(stdout, 'Accuracy'));
      expect(Number(percent?.[1])).to.be.greaterThan(85);
    });

    it('should have printed a line for the epoch, and no control characters', () => {
      expect(stdout).to.match(/^ {2}epoch 1\/1 {2}loss \d\.\d{4} {2}test accuracy [\d.]+%$/m);
      expect(stdout).not.to.include('\x1b');
    });

    it('should have printed which backend ran and why', () => {
      expect(factOf(stdout, 'Backend')).to.equal('TypeScript (FUSED_ADAMW_BACKEND is javascript)');
    });

    for (const file of ['loss.svg', 'digits.svg']) {
      it(`should have drawn ${file}`, () => {
        const svg = readFileSync(join(folder, file), 'utf8');
        expect(svg).to.match(/^<svg [^>]*xmlns="http:\/\/www.w3.org\/2000\/svg"/);
        expect(svg).to.match(/<rect [^>]*fill="#ffffff"/);
        expect(svg).not.to.match(/NaN|undefined/);
        expectWellFormed(svg);
      });
    }

    const environments: [name: string, variables: Variables, backend: RegExp][] = [
      ['native code', {}, /^native, /],
      [
        'native code of the baseline with one thread',
        { FUSED_ADAMW_ISA: 'baseline', OMP_NUM_THREADS: '1' },
        /^native, baseline .* 1 thread$/,
      ],
    ];
    for (const [name, variables, backend] of environments) {
      it(`should have the same weights as with ${name}, bit for bit`, function () {
        const { native } = backendInfo();
        if (!native.available) {
          if (this.test) this.test.title += ` (${native.reason})`;
          return this.skip();
        }
        const result = runDemo(['--epochs', '1', '--out', folder], { ...variables, FUSED_ADAMW_BACKEND: 'native' });
        expect(result.stderr).to.equal('');
        expect(factOf(result.stdout, 'Backend')).to.match(backend);
        expect(factOf(result.stdout, 'Weights')).to.match(/^SHA-256 [0-9a-f]{64}$/);
        expect(factOf(result.stdout, 'Weights')).to.equal(factOf(stdout, 'Weights'));
      });
    }
  });

  it('should print its options with --help', () => {
    const { status, stdout, stderr } = runDemo(['--help']);
    expect(status).to.equal(0);
    expect(stderr).to.equal('');
    for (const name of ['epochs', 'batch-size', 'learning-rate', 'seed', 'device', 'out', 'help']) {
      expect(stdout).to.include(`--${name}`);
    }
  });

  const WRONG: [args: string[], message: string][] = [
    [['--epochs', '0'], 'Expected an integer from 1 to 1000 for --epochs but received "0"'],
    [['--batch-size', '1.5'], 'Expected an integer from 1 to 9000 for --batch-size but received "1.5"'],
    [['--learning-rate', 'high'], 'Expected a number above 0 and up to 1 for --learning-rate but received "high"'],
    [['--seed'], 'Expected an integer from 0 to 4294967295 for --seed but received nothing'],
    [['--device', 'tpu'], "Expected 'cpu', 'cuda', 'cuda:N' or 'auto' for --device but received \"tpu\""],
    [['--out='], 'Expected a folder for --out but received ""'],
  ];
  for (const [args, message] of WRONG) {
    it(`should refuse ${args.join(' ')}`, () => {
      expect(runDemo(args)).to.deep.equal({ status: 2, stdout: '', stderr: `${message}\n` });
    });
  }

  it('should refuse an unknown argument and list the known ones', () => {
    const { status, stderr } = runDemo(['--momentum=0.9']);
    expect(status).to.equal(2);
    expect(stderr).to.match(/^Expected one of --epochs, .*--help for an argument but received "--momentum=0.9"\n$/);
  });

  it('should refuse a file as the folder before training', () => {
    const file = join(folder, 'file');
    writeFileSync(file, '');
    const { status, stdout, stderr } = runDemo(['--out', file]);
    expect(status).to.equal(2);
    expect(stdout).to.equal('');
    expect(stderr).to.match(/^Expected a folder that can be written to for --out but received ".*"\n$/);
  });
});

/** Asserts that tags are balanced, their attributes quoted, and that no bare < or & is left. */
function expectWellFormed(xml: string): void {
  const part =
    /<!\[CDATA\[[\s\S]*?\]\]>|<(?<close>\/)?(?<name>[\w:]+)(?:\s+[\w:-]+="[^"<]*")*\s*(?<empty>\/)?>|(?:[^<&]|&\w+;|&#\w+;)+/y;
  const open: string[] = [];
  while (part.lastIndex < xml.length) {
    const at = part.lastIndex;
    const groups = part.exec(xml)?.groups;
    if (!groups) expect.fail(`not well-formed at ${JSON.stringify(xml.slice(at, at + 80))}`);
    if (groups.name === undefined || groups.empty) continue;
    if (groups.close) expect(open.pop(), `tag that </${groups.name}> closes`).to.equal(groups.name);
    else open.push(groups.name);
  }
  expect(open, 'tags left open').to.deep.equal([]);
}
