/** A chart of the training: loss and test accuracy over the epochs. */
import { createRequire } from 'node:module';
import type { History } from './training.js';

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
const HEIGHT = 460;
const FONT = 'system-ui, Helvetica, Arial, sans-serif'; // no quotes: echarts does not escape them
const TEXT = '#3d4451';
const GRID = '#e7e9ee';
const LOSS = '#2563eb';
const ACCURACY = '#d9480f';

/** @returns an SVG with its own background, for light and dark pages */
export function drawLossChart(history: History): string {
  const echarts: Echarts = createRequire(import.meta.url)('echarts');
  const chart = echarts.init(null, null, { renderer: 'svg', ssr: true, width: WIDTH, height: HEIGHT });
  chart.setOption(optionOf(history));
  const svg = chart.renderToSVGString();
  chart.dispose();
  return svg;
}

function optionOf({ losses, accuracies }: History): object {
  const epochs = accuracies.length;
  const perEpoch = losses.length / epochs;
  const atSteps = (values: readonly number[]) => values.map((value, i) => [(i + 1) / perEpoch, value]);
  const final = (100 * accuracies[epochs - 1]).toFixed(1);
  return {
    backgroundColor: '#ffffff',
    animation: false,
    textStyle: { fontFamily: FONT, color: TEXT },
    title: {
      text: 'Learning to read handwritten digits with AdamW',
      subtext: `${final}% of the test digits are read right after ${epochs} ${epochs === 1 ? 'epoch' : 'epochs'}`,
      left: 24,
      top: 14,
      textStyle: { fontSize: 18, color: '#1b1f27' },
      subtextStyle: { fontSize: 13, color: TEXT },
    },
    legend: {
      right: 24,
      top: 44,
      itemGap: 18,
      icon: 'roundRect',
      itemWidth: 18,
      itemHeight: 4,
      selectedMode: false,
      textStyle: { color: TEXT, fontSize: 13 },
    },
    grid: { left: 72, right: 72, top: 92, bottom: 60 },
    xAxis: {
      ...axis('epoch', 30),
      min: 0,
      max: epochs,
      minInterval: 1,
      splitLine: { show: false },
    },
    yAxis: [
      { ...axis('training loss (logarithmic)', 48), type: 'log', logBase: 2, axisLabel: label(lossLabel) },
      {
        ...axis('test accuracy', 48),
        min: lowestAccuracy(accuracies),
        max: 100,
        splitLine: { show: false },
        axisLabel: label((value) => `${value}%`),
      },
    ],
    series: [
      {
        ...line('loss of each step', atSteps(losses.map(drawable)), LOSS),
        sampling: 'average',
        lineStyle: { width: 1, opacity: 0.3 },
        itemStyle: { color: LOSS, opacity: 0.3 },
      },
      { ...line('smoothed', atSteps(smooth(losses).map(drawable)), LOSS), sampling: 'average' },
      {
        ...line(
          'test accuracy',
          accuracies.map((accuracy, i) => [i + 1, 100 * accuracy]),
          ACCURACY,
        ),
        yAxisIndex: 1,
        showSymbol: true,
        symbol: 'circle',
        symbolSize: 7,
      },
    ],
  };
}

function axis(name: string, nameGap: number): object {
  return {
    type: 'value',
    name,
    nameLocation: 'middle',
    nameGap,
    nameTextStyle: { fontSize: 13, color: TEXT },
    axisLine: { show: true, lineStyle: { color: '#9aa1ae' } },
    axisLabel: label(String),
    splitLine: { lineStyle: { color: GRID } },
  };
}

function label(formatter: (value: number) => string): object {
  return { color: TEXT, fontSize: 12, formatter };
}

function line(name: string, data: readonly number[][], color: string): object {
  return {
    type: 'line',
    silent: true,
    name,
    data,
    showSymbol: data.length < 3,
    lineStyle: { width: 2.5 },
    itemStyle: { color },
  };
}

/** A loss with three digits: 2, 0.5, 0.0625. */
function lossLabel(loss: number): string {
  return String(Number(loss.toPrecision(3)));
}

/** A loss that a logarithmic axis can show. */
function drawable(loss: number): number {
  return Math.max(loss, 2 ** -10);
}

/** The lower end of the axis: a multiple of ten below every epoch's accuracy. */
function lowestAccuracy(accuracies: readonly number[]): number {
  const lowest = accuracies.reduce((a, b) => Math.min(a, b));
  return Math.min(90, Math.floor(10 * lowest) * 10);
}

/** An exponential moving average: the weight of a value falls by a factor of 0.95 per step. */
function smooth(values: readonly number[]): number[] {
  const decay = 0.95;
  let sum = 0;
  let weight = 0;
  return values.map((value) => {
    sum = decay * sum + value;
    weight = decay * weight + 1;
    return sum / weight;
  });
}
