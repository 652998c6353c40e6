/** The charts of docs/ and the README. */
import { createRequire } from 'node:module';
import { isStream } from './contenders/roof.js';
import { BOUND_STEP } from './contenders/this.js';
import type { CaseReport, Report, Row } from './report.js';

/** The part of echarts that is used here: its own declarations need those of a browser. */
interface Echarts {
  init(element: null, theme: null, options: { renderer: 'svg'; ssr: true; width: number; height: number }): Chart;
}

interface Chart {
  setOption(option: object): void;
  renderToSVGString(): string;
  dispose(): void;
}

const [WIDTH, HEIGHT] = [960, 460];
const GRID = { left: 64, right: 20, top: 152, bottom: 52 };
const FONT = 'system-ui, Helvetica, Arial, sans-serif'; // no quotes: echarts writes them as they are

// Each with what it is on a dark page.
const BACKGROUND = { light: '#ffffff', dark: '#0d1117' };
const HEADING = { light: '#1b1f27', dark: '#f0f3f6' };
const TEXT = { light: '#3d4451', dark: '#c4ccd6' };
const LINE = { light: '#e1e4ea', dark: '#2b323b' };
const THEMED = [BACKGROUND, HEADING, TEXT, LINE];

/** What has a bar, in the order of the legend: other ways to call this package are in docs/performance.md. */
const SERIES: readonly { readonly label: string; readonly color: string; readonly has: (row: Row) => boolean }[] = [
  { label: 'fused-adamw', color: '#2f6fed', has: ({ name }) => name === BOUND_STEP },
  {
    label: 'fused-adamw, plain arrays',
    color: '#7aa7f7',
    has: ({ name }) => name === 'fusedStep(lists), plain arrays',
  },
  { label: 'fused-adamw, TypeScript', color: '#17a2b8', has: ({ name }) => name === 'TypeScript' },
  { label: 'stream of the same bytes', color: '#9aa1ae', has: ({ name }) => isStream(name) },
  { label: 'PyTorch fused', color: '#e8590c', has: ({ name }) => name === 'PyTorch fused' },
  { label: 'DeepSpeed CPUAdam', color: '#f0a020', has: ({ name }) => name === 'DeepSpeed CPUAdam' },
  { label: 'MXNet fused', color: '#2b9a4b', has: ({ name }) => name === 'MXNet fused' },
  { label: 'tf.js wasm', color: '#c77dff', has: ({ name }) => name === 'tf.js wasm' },
  { label: 'tf.js cpu', color: '#9c36b5', has: ({ name }) => name === 'tf.js cpu' },
];

/** Where the axis begins: the bar of a ratio of 1 is a decade tall. */
const LEAST = 0.1;

/** Empty places between the groups of two cases. */
const GAP = 2;

// Cases with more elements than this are limited by memory bandwidth.
const LARGE = 2 ** 23;

/** SVGs by file name, for light and dark pages. */
export function drawCharts(report: Report): Map<string, string> {
  const charts = new Map<string, string>();
  const large = report.cases.filter(({ elements }) => elements >= LARGE);
  const small = report.cases.filter(({ elements }) => elements < LARGE);
  if (large.length > 0) charts.set('speed-large.svg', draw('Large tensors', large, report));
  if (small.length > 0) charts.set('speed-small.svg', draw('Many and small tensors', small, report));
  return charts;
}

interface Bar {
  /** From the left, in bars. */
  readonly place: number;
  readonly label: string;
  readonly ratio: number;
}

interface Group {
  readonly title: string;
  /** Middle, from the left, in bars. */
  readonly middle: number;
}

/** The bars of all cases side by side, in groups. Of the streams, which other programs slow too, the best counts. */
function layOut(cases: readonly CaseReport[]): { bars: Bar[]; groups: Group[]; places: number } {
  const bars: Bar[] = [];
  const groups: Group[] = [];
  let place = 0;
  for (const { title, rows } of cases) {
    const first = place;
    for (const { label, has } of SERIES) {
      const ratios = rows.filter(has).flatMap(({ ratio }) => ratio?.median ?? []);
      if (ratios.length > 0) bars.push({ place: place++, label, ratio: Math.min(...ratios) });
    }
    groups.push({ title, middle: (first + place) / 2 });
    place += GAP;
  }
  return { bars, groups, places: place - GAP };
}

function draw(title: string, cases: readonly CaseReport[], { machine, threads, node, date }: Report): string {
  const { bars, groups, places } = layOut(cases);
  const series = SERIES.filter(({ label }) => bars.some((bar) => bar.label === label));
  const placeWidth = (WIDTH - GRID.left - GRID.right) / places;
  const option = {
    backgroundColor: BACKGROUND.light,
    animation: false,
    textStyle: { fontFamily: FONT, color: TEXT.light },
    title: {
      text: `${title}: time of an AdamW step, relative to fused-adamw`,
      subtext: `shorter is better, the axis is logarithmic; ${machine.cpu}, ${threads} threads, node ${node}, ${date}`,
      left: 20,
      top: 12,
      textStyle: { fontSize: 18, color: HEADING.light },
      subtextStyle: { fontSize: 12, color: TEXT.light },
    },
    legend: {
      data: series.map(({ label }) => label),
      left: 16,
      right: 16,
      top: 64,
      icon: 'rect',
      itemWidth: 12,
      itemHeight: 12,
      itemGap: 32, // the reader's font may be a wide one
      textStyle: { fontSize: 12, color: TEXT.light },
    },
    grid: GRID,
    xAxis: {
      type: 'category',
      data: Array.from({ length: places }, (_, i) => i),
      axisLabel: { show: false },
      axisTick: { show: false },
      axisLine: { lineStyle: { color: LINE.light } },
    },
    yAxis: {
      type: 'log',
      min: LEAST,
      startValue: LEAST,
      axisLabel: { color: TEXT.light, fontSize: 12, formatter: (value: number) => `${shorten(value)} x` },
      splitLine: { lineStyle: { color: LINE.light } },
    },
    series: series.map(({ label, color }) => ({
      name: label,
      type: 'bar',
      silent: true,
      barWidth: '84%',
      barGap: '-100%', // a place has one bar
      itemStyle: { color },
      label: {
        show: true,
        position: 'top',
        distance: 3,
        fontSize: 10,
        color: TEXT.light,
        formatter: ({ value }: { value: readonly [number, number] }) => shorten(value[1]),
      },
      data: bars.filter((bar) => bar.label === label).map(({ place, ratio }) => [place, ratio]),
    })),
    graphic: groups.map((group) => ({
      type: 'text',
      x: GRID.left + group.middle * placeWidth,
      y: HEIGHT - GRID.bottom + 10,
      silent: true,
      style: {
        text: inTwoLines(group.title),
        align: 'center',
        fill: HEADING.light,
        fontSize: 12,
        lineHeight: 15,
        fontFamily: FONT,
      },
    })),
  };
  const echarts: Echarts = createRequire(import.meta.url)('echarts');
  const chart = echarts.init(null, null, { renderer: 'svg', ssr: true, width: WIDTH, height: HEIGHT });
  chart.setOption(option);
  const svg = chart.renderToSVGString();
  chart.dispose();
  return withDarkColors(withoutHoverStyles(svg));
}

/** 0.7, 4.1, 43, 1.5k */
function shorten(value: number): string {
  if (value >= 1000) return `${shorten(value / 1000)}k`;
  return value >= 10 || value === 1 ? value.toFixed(0) : value.toFixed(1);
}

/** The last word, the dtype, goes into a line of its own. */
function inTwoLines(title: string): string {
  return title.replace(/,? (\S+)$/, '\n$1');
}

/** What a mouse would change, under names that are numbered through the process. */
function withoutHoverStyles(svg: string): string {
  return svg.replace(/ class="zr\d+-cls-\d+"/g, '').replace(/<style >[\s\S]*<\/style>\n/, '');
}

/** Changes the colours of text, lines and background where the reader's are dark. */
function withDarkColors(svg: string): string {
  const rules = THEMED.flatMap(({ light, dark }) =>
    ['fill', 'stroke'].map((attribute) => `[${attribute}="${light}"]{${attribute}:${dark}}`),
  );
  return svg.replace('>', `><style>@media (prefers-color-scheme:dark){${rules.join('')}}</style>`);
}
