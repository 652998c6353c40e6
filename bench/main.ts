/** npm run bench: measures the cases and reports the results. */
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { backendInfo, setNumThreads } from '../lib/index.js';
import { ArgumentError, type Arguments, readArguments, USAGE } from './arguments.js';
import { CASES } from './cases.js';
import { drawCharts } from './charts.js';
import { CONTENDERS } from './contenders/index.js';
import { measureCase } from './measure.js';
import { type CaseReport, type Report, reportCase, reportOf, tableOf } from './report.js';
import { createWatcher } from './watcher.js';

function printLists(): void {
  const line = ({ name, byDefault }: { name: string; byDefault: boolean }) => `  ${byDefault ? '*' : ' '} ${name}`;
  console.log(['cases:', ...CASES.map(line), 'contenders:', ...CONTENDERS.map(line)].join('\n'));
}

async function measureAll({ cases, contenders, rounds, threads }: Arguments): Promise<Report> {
  if (threads !== null) setNumThreads(threads);
  const used = backendInfo().threads;
  const reports: CaseReport[] = [];
  for (const of of cases) {
    const watcher = createWatcher(of.title);
    const result = await measureCase(of, contenders, { rounds, threads: used }, watcher);
    watcher.stop();
    const report = reportCase(result);
    reports.push(report);
    console.log(`${tableOf(report)}\n`);
  }
  const report = reportOf(reports, used);
  for (const contender of contenders) await contender.end?.();
  return report;
}

function write({ json, charts }: Arguments, report: Report): void {
  if (json !== null) writeFileSync(json, `${JSON.stringify(report, null, 1)}\n`);
  if (charts === null) return;
  mkdirSync(charts, { recursive: true });
  for (const [name, svg] of drawCharts(report)) writeFileSync(join(charts, name), svg);
}

async function main(args: string[]): Promise<void> {
  const given = readArguments(args);
  if (given.help) return console.log(USAGE);
  if (given.list) return printLists();
  if (given.from !== null) return write(given, JSON.parse(readFileSync(given.from, 'utf8')));
  const report = await measureAll(given);
  const { machine, threads, isa, node, versions } = report;
  const libraries = Object.entries(versions).map(([name, version]) => `${name} ${version}`);
  console.log([`${machine.cpu} x ${machine.processors}`, `${threads} threads`, isa, node, ...libraries].join(', '));
  write(given, report);
  const wrong = report.cases.flatMap(({ title, rows }) =>
    rows.filter(({ sameBits }) => sameBits === false).map(({ name }) => `${name} has other bits in ${title}`),
  );
  if (wrong.length > 0) throw new Error(wrong.join('; '));
}

try {
  await main(process.argv.slice(2));
} catch (error) {
  if (!(error instanceof ArgumentError)) throw error;
  console.error(`${error.message}\n\n${USAGE}`);
  process.exitCode = 1;
}
