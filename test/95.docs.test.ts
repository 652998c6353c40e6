/** README.md and docs/: their examples, run as they stand, and their links. */
import { spawnSync } from 'node:child_process';
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { dirname, join, normalize, relative } from 'node:path';
import { expect } from 'chai';
import { repository } from './support/child.js';

const read = (file: string): string => readFileSync(join(repository, file), 'utf8');

/** All documents, as paths from the root. */
const DOCUMENTS = ['README.md', 'CONTRIBUTING.md', 'CHANGELOG.md'].concat(
  readdirSync(join(repository, 'docs'), { recursive: true, encoding: 'utf8' })
    .filter((file) => file.endsWith('.md'))
    .map((file) => join('docs', file))
    .sort(),
);

/** Those that the documentation generator writes have excerpts for examples. */
const isGenerated = (document: string): boolean => document.startsWith('docs/api/');

const examplesOf = (document: string): string[] =>
  [...read(document).matchAll(/```ts\n([\s\S]*?)```/g)].map(([, code]) => code);

describe('The examples of the documents', () => {
  // A project inside the package's own folder, where its name resolves to itself.
  const folder = mkdtempSync(join(repository, 'dist', 'docs-'));
  after(() => rmSync(folder, { recursive: true, force: true }));

  function run(name: string, code: string): { status: number | null; stdout: string; stderr: string } {
    const file = join(folder, name);
    writeFileSync(file, code);
    return spawnSync(process.execPath, [file], { encoding: 'utf8', env: { ...process.env, NODE_NO_WARNINGS: '1' } });
  }

  for (const document of DOCUMENTS.filter((each) => !isGenerated(each))) {
    examplesOf(document).forEach((code, i) => {
      it(`should run example ${i + 1} of ${document}`, () => {
        const { status, stderr, stdout } = run(`${document.replace(/\W/g, '-')}-${i}.mjs`, code);
        expect(stderr).to.equal('');
        expect(status).to.equal(0);
        expect(stdout).to.not.equal('');
      });
    });
  }

  it('should learn what the first example says', () => {
    const code = `${examplesOf('README.md')[0]}\nconsole.log(JSON.stringify(weights.flatMap((w) => [...w])));`;
    const values: number[] = JSON.parse(run('learnt.mjs', code).stdout.trim().split('\n').at(-1) as string);
    expect(values).to.have.length(4);
    for (const value of values) expect(value).to.be.closeTo(3, 0.2);
  });

  it('should run on the CPU or a GPU as docs/cuda.md says', () => {
    expect(run('cuda.mjs', examplesOf('docs/cuda.md')[0]).stdout).to.match(/^(cpu|cuda:0) /);
  });

  it('should scale the loss as docs/cuda.md says', () => {
    const { stdout } = run('scale.mjs', examplesOf('docs/cuda.md')[1]);
    expect(stdout).to.contain('100 65536 Float32Array(1) [ 65536 ]');
  });

  it('should learn with jax-js as docs/recipes.md says', () => {
    const { stdout } = run('jax-js.mjs', examplesOf('docs/recipes.md')[0]);
    const losses = [...stdout.matchAll(/^update \d+ {2}loss ([\d.]+)$/gm)].map(([, loss]) => Number(loss));
    expect(losses).to.have.length(3);
    expect(losses[2]).to.be.lessThan(0.01).and.lessThan(losses[0]);
  });

  it('should learn in tf.js what docs/tfjs.md says', () => {
    const code = `${examplesOf('docs/tfjs.md')[0]}
      console.log(JSON.stringify(model.getWeights().flatMap((weight) => [...weight.dataSync()])));`;
    const values: number[] = JSON.parse(run('tfjs.mjs', code).stdout.trim().split('\n').at(-1) as string);
    expect(values.slice(0, 3).map(Math.round)).to.deep.equal([1, 1, 1]);
    expect(values[3]).to.be.closeTo(0, 0.1);
  });
});

describe('The README', () => {
  it('should begin with the command that installs the package, and an example', () => {
    const [first, second] = [...read('README.md').matchAll(/```(sh|ts)\n([\s\S]*?)```/g)];
    expect(first[2]).to.equal('npm install fused-adamw\n');
    expect(second[1]).to.equal('ts');
  });

  it('should stay short', () => {
    expect(Buffer.byteLength(read('README.md'))).to.be.at.most(15_000);
  });
});

describe('The document of errors', () => {
  const sources = ['lib', 'adapters']
    .flatMap((folder) =>
      readdirSync(join(repository, folder), { recursive: true, encoding: 'utf8' }).map((file) => join(folder, file)),
    )
    .filter((file) => file.endsWith('.ts'))
    .map(read)
    .join('\n');

  it('should have the code of each error and warning', () => {
    const codes = (text: string, pattern: RegExp): string[] =>
      [...new Set([...text.matchAll(pattern)].map(([, code]) => code))].sort();
    const documented = codes(read('docs/errors.md'), /^\| `(FUSED_ADAMW_[A-Z_]+)` +\|/gm);
    expect(documented).to.deep.equal(codes(sources, /code: '(FUSED_ADAMW_[A-Z_]+)'/g));
  });

  it('should quote messages that there are', () => {
    const [, quoted] = read('docs/errors.md').split('Other errors:');
    const messages = [...quoted.matchAll(/^\| `(The|Expected|FUSED_ADAMW_BACKEND)([^`]*)` +\|/gm)];
    expect(messages).to.have.length(4);
    for (const [, start, rest] of messages) expect(sources).to.include(start + rest);
  });
});

/** The anchors of a document's headings, as code hosts make them. */
function anchorsOf(document: string): Set<string> {
  const anchors = new Set<string>();
  for (const [, heading] of read(document)
    .replace(/^```[\s\S]*?^```/gm, '')
    .matchAll(/^#+ (.*)$/gm)) {
    const text = heading.replace(/\[([^\]]*)\]\([^)]*\)/g, '$1').replace(/[`*\\]/g, '');
    const anchor = text
      .toLowerCase()
      .replace(/[^\p{L}\p{N}\s_-]/gu, '')
      .replace(/\s/g, '-');
    let unique = anchor;
    for (let n = 1; anchors.has(unique); n++) unique = `${anchor}-${n}`;
    anchors.add(unique);
  }
  return anchors;
}

/** The links of a document to files, but for code in it. */
function linksOf(document: string): string[] {
  const text = read(document)
    .replace(/^```[\s\S]*?^```/gm, '')
    .replace(/`[^`\n]*`/g, '');
  return [...text.matchAll(/\]\(([^)\s]+)\)/g)].map(([, target]) => target).filter((target) => !/^\w+:/.test(target));
}

/** The links of a document that lead nowhere. */
function brokenLinksOf(document: string): string[] {
  return linksOf(document).filter((link) => {
    const [path, anchor] = link.split('#');
    const target = path === '' ? document : normalize(join(dirname(document), decodeURIComponent(path)));
    if (target.startsWith('..') || !existsSync(join(repository, target))) return true;
    return anchor !== undefined && target.endsWith('.md') && !anchorsOf(target).has(anchor);
  });
}

describe('The links of the documents', () => {
  for (const document of DOCUMENTS.filter((each) => !isGenerated(each))) {
    it(`should all lead somewhere in ${document}`, () => {
      expect(brokenLinksOf(document)).to.deep.equal([]);
    });
  }

  it('should all lead somewhere in the reference', () => {
    const broken = DOCUMENTS.filter(isGenerated).flatMap((document) =>
      brokenLinksOf(document).map((link) => `${relative('docs/api', document)}: ${link}`),
    );
    expect(broken).to.deep.equal([]);
  });

  it('should lead to every document of docs/ from the README or from another one', () => {
    const reached = new Set(
      DOCUMENTS.flatMap((document) =>
        linksOf(document).map((link) => normalize(join(dirname(document), link.split('#')[0]))),
      ),
    );
    expect(DOCUMENTS.filter((document) => document !== 'README.md' && !reached.has(document))).to.deep.equal([]);
  });
});
