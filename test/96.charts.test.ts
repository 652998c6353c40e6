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
