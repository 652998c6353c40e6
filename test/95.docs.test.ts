/** The examples of the README and of docs/cuda.md, run as they stand. */
import { spawnSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { expect } from 'chai';

// This file is dist/test/95.readme.test.js.
const root = fileURLToPath(new URL('../../', import.meta.url));

describe('README', () => {
  const text = readFileSync(join(root, 'README.md'), 'utf8');
  const examples = [...text.matchAll(/```ts\n([\s\S]*?)```/g)].map(([, code]) => code);
  // A project inside the package's own folder, where its name resolves to itself.
  const folder = mkdtempSync(join(root, 'dist', 'readme-'));
  after(() => rmSync(folder, { recursive: true, force: true }));

  function run(name: string, code: string): { status: number | null; stdout: string; stderr: string } {
    const file = join(folder, name);
    writeFileSync(file, code);
    return spawnSync(process.execPath, [file], { encoding: 'utf8', env: { ...process.env, NODE_NO_WARNINGS: '1' } });
  }

  it('should have four examples', () => {
    expect(examples).to.have.length(4);
  });

  examples.forEach((code, i) => {
    it(`should run example ${i + 1}`, () => {
      const { status, stderr, stdout } = run(`example-${i}.mjs`, code);
      expect(stderr).to.equal('');
      expect(status).to.equal(0);
      expect(stdout).to.not.equal('');
    });
  });

  it('should run the example of docs/cuda.md', () => {
    const [, code] = /```ts\n([\s\S]*?)```/.exec(readFileSync(join(root, 'docs/cuda.md'), 'utf8')) as RegExpExecArray;
    const { status, stderr, stdout } = run('cuda.mjs', code);
    expect(stderr).to.equal('');
    expect(status).to.equal(0);
    expect(stdout).to.match(/^(cpu|cuda:0) /);
  });

  it('should learn what the first example says', () => {
    const code = `${examples[0]}\nconsole.log(JSON.stringify(weights.flatMap((w) => [...w])));`;
    const values: number[] = JSON.parse(run('learnt.mjs', code).stdout.trim().split('\n').at(-1) as string);
    expect(values).to.have.length(4);
    for (const value of values) expect(value).to.be.closeTo(3, 0.2);
  });
});
