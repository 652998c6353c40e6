/** The charts of docs/, and what their bars stand on. */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect } from 'chai';
import { drawCharts } from '../bench/charts.js';
import type { Report } from '../bench/report.js';
import { repository } from './support/child.js';

const read = (file: string): string => readFileSync(join(repository, 'docs', file), 'utf8');

describe('The charts', () => {
  const report: Report = JSON.parse(read('performance.json'));
  const charts = drawCharts(report);

  it('should be two', () => {
    expect([...charts.keys()]).to.deep.equal(['speed-large.svg', 'speed-small.svg']);
  });

  for (const [name, svg] of charts) {
    describe(name, () => {
      it('should be drawn from docs/performance.json (npm run bench -- --from docs/performance.json --charts docs)', () => {
        expect(read(name)).to.equal(svg);
      });

      it('should be at most 500 pixels tall', () => {
        expect(Number(/^<svg [^>]*\bheight="(\d+)"/.exec(svg)?.[1])).to.be.within(200, 500);
      });

      it('should name in its legend what has bars', () => {
        for (const label of ['fused-adamw', 'PyTorch fused', 'MXNet fused', 'tf.js wasm', 'DeepSpeed CPUAdam'])
          expect(svg).to.include(`>${label}</text>`);
      });

      it('should show this package by a bar for each case, tall enough to be seen', () => {
        const cases = report.cases.filter(({ elements }) => elements >= 2 ** 23 === (name === 'speed-large.svg'));
        // "M x y l width 0 l 0 -height ...", from the foot of the bar
        const heights = [...svg.matchAll(/<path d="M[\d.]+ [\d.]+l[\d.]+ 0l0 -([\d.]+)[^"]*" fill="#2f6fed"/g)];
        expect(heights).to.have.length(cases.length);
        for (const [, height] of heights) expect(Number(height)).to.be.at.least(40);
      });

      it('should have other colours on a dark page', () => {
        expect(svg).to.match(/@media \(prefers-color-scheme:dark\)\{\[fill="#ffffff"\]\{fill:#0d1117\}/);
        expect(svg).to.match(/<rect width="960" height="\d+" x="0" y="0" fill="#ffffff">/);
      });
    });
  }
});

describe('The figures of the documents', () => {
  const { cases }: Report = JSON.parse(read('performance.json'));
  const readme = readFileSync(join(repository, 'README.md'), 'utf8');
  const peers = /^(PyTorch|DeepSpeed|MXNet|tf\.js)/;
  const ratioOf = (name: string, contender: RegExp): number => {
    const found = cases.find((each) => each.name === name)?.rows.find((row) => contender.test(row.name));
    if (found?.ratio === undefined) throw new Error(`Expected ${contender} in the case ${name}`);
    return found.ratio.median;
  };

  it('should be those of performance.json in the README', () => {
    const small = cases
      .filter(({ elements }) => elements < 2 ** 23)
      .flatMap(({ rows }) => rows.filter(({ name }) => peers.test(name)).map(({ ratio }) => ratio?.median ?? NaN));
    const [least, most] = [
      Math.min(...small).toFixed(1),
      (Math.round(Math.max(...small) / 100) * 100).toLocaleString('en'),
    ];
    expect(readme).to.include(`PyTorch, DeepSpeed, MXNet and tf.js take ${least} to ${most} times as long`);
    expect(ratioOf('64Mi-float32', /^best stream/)).to.be.within(0.95, 1.05);
    expect(readme).to.include(`at ${ratioOf('64Mi-bfloat16', /^best stream/).toFixed(1)} of that speed`);
  });

  // Rows of docs/performance.md, by the words that they begin with: what is measured in which case.
  const targets: readonly (readonly [string, string, RegExp, number])[] = [
    ['1 x 64 Mi float32, in our own memory', '64Mi-float32', /^best stream/, 2],
    ['the same  ', '64Mi-float32', /^PyTorch fused/, 2],
    ['GPT-2 small, 148 tensors, float32', 'gpt2-float32', /^PyTorch fused/, 2],
    ['1,000 x 1,024 float32', '1000x1024-float32', /^PyTorch fused/, 0],
    ['10,000 x 64 float32, `bound.step()`', '10000x64-float32', /^PyTorch fused/, 0],
    ['1 x 64 Mi bfloat16', '64Mi-bfloat16', /^PyTorch fused/, 2],
    ['1 x 4 Mi float32', '4Mi-float32', /^tf\.js cpu/, 0],
  ];
  for (const [start, name, contender, digits] of targets) {
    it(`should be those of performance.json in the row ${start.trim()}`, () => {
      const row = read('performance.md')
        .split('\n')
        .find((line) => line.startsWith(`| ${start}`));
      const measured = row?.split('|').at(-2)?.trim().split(':')[0];
      expect(measured).to.equal(ratioOf(name, contender).toFixed(digits));
    });
  }
});
