/**
 * npm run bench:cuda: steps on a GPU, taking turns with a copy on the device and PyTorch.
 *
 *     npm run bench:cuda -- [--rounds N] [--json FILE] [--cases LIST]
 */
import { writeFileSync } from 'node:fs';
import { parseArgs } from 'node:util';
import { backendInfo, setNumThreads } from '../lib/index.js';
import { CUDA_CASES } from './cases.js';
import { CUDA_CONTENDERS } from './contenders/cuda.js';
import { measureCase } from './measure.js';
import { type CaseReport, reportCase, reportOf, tableOf } from './report.js';
import { createWatcher } from './watcher.js';

const { values } = parseArgs({
  options: {
    cases: { type: 'string', default: '' },
    rounds: { type: 'string', default: '9' },
    json: { type: 'string' },
  },
});
const rounds = Number(values.rounds);
const cases = CUDA_CASES.filter(({ name }) => values.cases.split(',').some((part) => name.includes(part)));
const { cuda, threads } = backendInfo();

async function main(): Promise<void> {
  if (!cuda.available) return fail(`Expected a GPU for the benchmark but received none: ${cuda.reason}`);
  if (!Number.isInteger(rounds) || rounds < 1) {
    return fail(`Expected a whole number of at least 1 for --rounds but received ${JSON.stringify(values.rounds)}`);
  }
  if (cases.length === 0) {
    const names = CUDA_CASES.map(({ name }) => name).join(', ');
    return fail(`Expected parts of ${names} for --cases but received ${JSON.stringify(values.cases)}`);
  }
  setNumThreads(threads);
  const reports: CaseReport[] = [];
  for (const of of cases) {
    const watcher = createWatcher(of.title);
    const result = await measureCase(of, CUDA_CONTENDERS, { rounds, threads, device: 'cuda' }, watcher);
    watcher.stop();
    const report = reportCase(result);
    reports.push(report);
    console.log(`${tableOf(report)}\n`);
  }
  const report = { ...reportOf(reports, threads), gpu: cuda };
  for (const contender of CUDA_CONTENDERS) await contender.end?.();
  const libraries = Object.entries(report.versions).map(([name, version]) => `${name} ${version}`);
  console.log([cuda.devices[0].name, `CUDA ${cuda.driver}`, report.node, ...libraries, report.date].join(', '));
  if (values.json !== undefined) writeFileSync(values.json, `${JSON.stringify(report, null, 1)}\n`);
}

function fail(message: string): void {
  console.error(message);
  process.exitCode = 1;
}

await main();
