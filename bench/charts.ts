/** The charts of docs/ and the README. */
import { createRequire } from 'node:module';
import { BARE_LOOP, EMPTY_CALL, isStream } from './contenders/roof.js';
import { BOUND_STEP } from './contenders/this.js';
import { type CaseReport, digits, type Report, type Row } from './report.js';

/** The part of echarts that is used here: its own declarations need those of a browser. */
interface Echarts {
  init(element: null, theme: null, options: { renderer: 'svg'; ssr: true; width: number; height: number }): Chart;
}

interface Chart {
  setOption(option: object): void;
  renderToSVGString(): string;
  dispose(): void;
}

const WIDTH = 860;
const FONT = 'system-ui, Helvetica, Arial, sans-serif'; // no quotes: echarts writes them as they are
const TEXT = '#3d4451';
const GRID = '#e7e9ee';
const COLORS: Readonly<Record<Row['kind'], string>> = { this: '#2563eb', roof: '#9aa1ae', peer: '#d9480f' };

// Cases with more elements than this are limited by memory bandwidth.
const LARGE = 2 ** 23;

/** SVGs by file name; each has its own background, for light and dark pages. */
export function drawCharts(report: Report): Map<string, string> {
  const charts = new Map<string, string>();
  const large = report.cases.filter(({ elements }) => elements >= LARGE);
  const small = report.cases.filter(({ elements }) => elements < LARGE);
  if (large.length > 0) charts.set('speed-large.svg', drawBars(large, report, speed));
  if (small.length > 0) charts.set('speed-small.svg', drawBars(small, report, slowness));
  return charts;
}

/** What a chart shows of a row. */
interface Quantity {
  readonly title: string;
  readonly subtitle: string;
  readonly axis: object;
  valueOf(row: Row): number | undefined;
  textOf(value: number): string;
}

// Not bytes per second: contenders that ran in other rounds met another load on the machine.
const speed: Quantity = {
  title: `Large tensors: speed of a step relative to ${BOUND_STEP}`,
  subtitle: 'longer is better; grey is a plain in-place stream of the same bytes',
  axis: { type: 'value', min: 0 },
  valueOf: ({ ratio }) => (ratio === undefined ? undefined : 1 / ratio.median),
  textOf: (value) => `${digits(value)} x`,
};

const slowness: Quantity = {
  title: `Many and small tensors: time of a step relative to ${BOUND_STEP}`,
  subtitle: 'shorter is better; the axis is logarithmic',
  axis: { type: 'log', min: 0.1 },
  valueOf: ({ ratio }) => ratio?.median,
  textOf: (value) => `${digits(value)} x`,
};

function drawBars(cases: readonly CaseReport[], report: Report, quantity: Quantity): string {
  const bars = cases.flatMap((of) => [
    { label: of.title, value: undefined, kind: 'this' as const, isTitle: true },
    ...rowsOf(of).map((row) => ({ label: row.name, value: quantity.valueOf(row), kind: row.kind, isTitle: false })),
  ]);
  const height = 130 + 22 * bars.length;
  const { machine, threads, node, date } = report;
  const option = {
    backgroundColor: '#ffffff',
    animation: false,
    textStyle: { fontFamily: FONT, color: TEXT },
    title: {
      text: quantity.title,
      subtext: `${quantity.subtitle}\n${machine.cpu}, ${threads} threads, node ${node}, ${date}`,
      left: 24,
      top: 14,
      textStyle: { fontSize: 18, color: '#1b1f27' },
      subtextStyle: { fontSize: 13, color: TEXT },
    },
    grid: { left: 270, right: 90, top: 86, bottom: 24 },
    xAxis: {
      ...quantity.axis,
      axisLabel: { color: TEXT, fontSize: 12 },
      splitLine: { lineStyle: { color: GRID } },
    },
    yAxis: {
      type: 'category',
      inverse: true,
      data: bars.map(({ label, isTitle }) => ({
        value: label,
        textStyle: isTitle ? { fontWeight: 'bold', color: '#1b1f27' } : { color: TEXT },
      })),
      axisTick: { show: false },
      axisLine: { show: false },
      axisLabel: { fontSize: 12, interval: 0 },
    },
    series: [
      {
        type: 'bar',
        silent: true,
        barWidth: 14,
        data: bars.map(({ value, kind }) => ({
          value,
          itemStyle: { color: COLORS[kind] },
          label: {
            show: value !== undefined,
            position: 'right',
            formatter: () => (value === undefined ? '' : quantity.textOf(value)),
          },
        })),
        label: { color: TEXT, fontSize: 12 },
      },
    ],
  };
  const echarts: Echarts = createRequire(import.meta.url)('echarts');
  const chart = echarts.init(null, null, { renderer: 'svg', ssr: true, width: WIDTH, height });
  chart.setOption(option);
  const svg = chart.renderToSVGString();
  chart.dispose();
  return svg;
}

/** Not in the charts: other ways to call this package (docs/performance.md has the figures), and parts of a sum. */
const LEFT_OUT = new Set(['step(lists), tensor by tensor', 'multiAdamwUpdate, fresh lists', BARE_LOOP, EMPTY_CALL]);

/** Keeps only the best of the streams. */
function rowsOf({ rows }: CaseReport): Row[] {
  const hasBest = rows.some(({ name }) => name.startsWith('best stream'));
  return rows.filter(({ name }) => !LEFT_OUT.has(name) && (!isStream(name) || !hasBest));
}
