/** `fused-adamw doctor`: what runs here, how fast, and what to do about it. */
import { parseArgs } from 'node:util';
import { diagnose } from './doctor/diagnosis.js';
import { format } from './doctor/format.js';

export const summary = 'tells what runs here and how fast, and what to do about problems';

const USAGE = `Tells which binary and which processors, threads and GPUs run the steps here, and why others do not;
measures a step beside a plain stream of the same bytes; says what to do about problems.

  fused-adamw doctor [options]

  --json        prints what it found as JSON
  --seconds S   time to measure for, 0 to 60; default 2, none for 0
  --help        prints this text

Exits with 0 if there is no problem, 1 if there is one, 2 for wrong arguments.`;

const OPTIONS = { json: { type: 'boolean' }, seconds: { type: 'string' }, help: { type: 'boolean' } } as const;

export async function main(args: readonly string[]): Promise<number> {
  let options: { json?: boolean; seconds: number; help?: boolean };
  try {
    const { values } = parseArgs({ args: [...args], options: OPTIONS });
    options = { ...values, seconds: readSeconds(values.seconds ?? '2') };
  } catch (error) {
    console.error(`${(error as Error).message}\n\n${USAGE}`);
    return 2;
  }
  if (options.help) {
    console.log(USAGE);
    return 0;
  }
  process.removeAllListeners('warning'); // that steps run in TypeScript is among the findings
  const diagnosis = diagnose(options.seconds);
  if (options.json) console.log(JSON.stringify(diagnosis, null, 2));
  else console.log(format(diagnosis, process.stdout.isTTY && process.stdout.hasColors()));
  return diagnosis.findings.some(({ severity }) => severity === 'problem') ? 1 : 0;
}

function readSeconds(text: string): number {
  const seconds = text.trim() === '' ? Number.NaN : Number(text);
  if (seconds >= 0 && seconds <= 60) return seconds;
  throw new RangeError(`Expected a number from 0 to 60 for --seconds but received ${JSON.stringify(text)}`);
}
