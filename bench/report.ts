/** The measurements, as a table to read and as JSON. */
import { cpus } from 'node:os';
import { backendInfo } from '../lib/index.js';
import { bytesPerElement, elementsOf } from './cases.js';
import { peerVersions } from './contenders/peer.js';
import { BARE_LOOP, EMPTY_CALL, isStream } from './contenders/roof.js';
import { BOUND_STEP } from './contenders/this.js';
import type { CaseResult, Measurement } from './measure.js';
import { type Summary, summarise, summariseRatio } from './statistics.js';

export interface Row {
  readonly name: string;
  readonly kind: Measurement['kind'];
  /** Nanoseconds per step. */
  readonly time: Summary;
  /** Bytes that the step must move, divided by the median time. */
  readonly bytesPerSecond: number;
  /** Ratio to the time of bound.step(), round by round; absent if that was not measured. */
  readonly ratio?: Summary;
  readonly sameBits?: boolean;
}

export interface CaseReport {
  readonly name: string;
  readonly title: string;
  readonly tensors: number;
  readonly elements: number;
  readonly rows: readonly Row[];
  readonly absent: CaseResult['absent'];
}

export interface Report {
  readonly machine: { readonly cpu: string; readonly processors: number };
  readonly node: string;
  readonly threads: number;
  readonly isa: string | null;
  readonly date: string;
  readonly versions: Readonly<Record<string, string>>;
  readonly cases: readonly CaseReport[];
}

export function reportOf(cases: readonly CaseReport[], threads: number): Report {
  const processors = cpus();
  const info = backendInfo();
  return {
    machine: { cpu: processors[0].model.trim(), processors: processors.length },
    node: process.version,
    threads,
    isa: info.native.available ? info.native.isa : null,
    date: new Date().toISOString().slice(0, 10),
    versions: peerVersions(),
    cases,
  };
}

export function reportCase(result: CaseResult): CaseReport {
  const { case: of, absent } = result;
  const measurements = [...result.measurements, ...derived(result.measurements)];
  const reference = measurements.find(({ name }) => name === BOUND_STEP);
  const elements = elementsOf(of);
  const rows = measurements.map(({ name, kind, rounds, sameBits }) => {
    const time = summarise(rounds);
    return {
      name,
      kind,
      time,
      bytesPerSecond: (elements * bytesPerElement(of.config)) / (time.median / 1e9),
      ...(reference ? { ratio: summariseRatio(rounds, reference.rounds) } : {}),
      ...(sameBits === undefined ? {} : { sameBits }),
    };
  });
  return { name: of.name, title: of.title, tensors: of.lengths.length, elements, rows, absent };
}

/** The best of the streams, and the sum of the bare loop and an empty call. */
function derived(measurements: readonly Measurement[]): Measurement[] {
  const streams = measurements.filter(({ name }) => isStream(name));
  const best = streams.sort((a, b) => summarise(a.rounds).median - summarise(b.rounds).median)[0];
  const loop = measurements.find(({ name }) => name === BARE_LOOP);
  const call = measurements.find(({ name }) => name === EMPTY_CALL);
  return [
    ...(streams.length > 1 ? [{ ...best, name: `best stream (${best.name.replace('stream, ', '')})` }] : []),
    ...(loop && call
      ? [{ name: `${BARE_LOOP} + ${EMPTY_CALL}`, kind: loop.kind, rounds: sum(loop.rounds, call.rounds) }]
      : []),
  ];
}

function sum(a: Measurement['rounds'], b: Measurement['rounds']): Measurement['rounds'] {
  return a.map((value, i) => {
    const other = b[i];
    return value === undefined || other === undefined ? undefined : value + other;
  });
}

export function tableOf({ title, rows, absent }: CaseReport): string {
  const header = ['', 'time of a step', 'quartiles', 'GB/s', `x ${BOUND_STEP}`, 'quartiles'];
  const cells = rows.map(({ name, time, bytesPerSecond, ratio, sameBits }) => [
    name + (sameBits === undefined ? '' : sameBits ? ' (same bits)' : ' (OTHER BITS)'),
    timeText(time.median),
    time.quartiles.map(timeText).join(' - '),
    (bytesPerSecond / 1e9).toPrecision(3),
    ratio ? ratioText(ratio.median) : '',
    ratio ? ratio.quartiles.map(ratioText).join(' - ') : '',
  ]);
  const widths = header.map((_, column) => Math.max(...[header, ...cells].map((row) => row[column].length)));
  const line = (row: readonly string[]): string =>
    row
      .map((text, column) => (column === 0 ? text.padEnd(widths[column]) : text.padStart(widths[column])))
      .join('  ')
      .trimEnd();
  return [
    title,
    line(header),
    ...cells.map(line),
    ...absent.map(({ name, reason }) => `${name.padEnd(widths[0])}  absent: ${reason}`),
  ].join('\n');
}

/** Three digits with a unit: '1.23 ms'. */
export function timeText(ns: number): string {
  const [unit, scale] = ns < 1e3 ? ['ns', 1] : ns < 1e6 ? ['us', 1e3] : ns < 1e9 ? ['ms', 1e6] : ['s', 1e9];
  return `${digits(ns / scale)} ${unit}`;
}

function ratioText(ratio: number): string {
  return digits(ratio);
}

/** Three digits, never an exponent. */
export function digits(value: number): string {
  return value >= 100 ? value.toFixed(0) : value.toPrecision(3);
}
