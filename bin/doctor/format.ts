/** The diagnosis as text. */
import { styleText } from 'node:util';
import type { BackendInfo } from '../../lib/index.js';
import { type Diagnosis, percent } from './diagnosis.js';
import type { Speed } from './speed.js';

type Style = Parameters<typeof styleText>[0];

export function format(diagnosis: Diagnosis, isColoured: boolean): string {
  const paint = (style: Style, text: string) => (isColoured ? styleText(style, text, { validateStream: false }) : text);
  const facts = factsOf(diagnosis).map(([label, text]) => `  ${paint('dim', label.padEnd(14))}${text}`);
  const findings = diagnosis.findings.map(({ severity, what, advice }) => {
    const mark = severity === 'problem' ? paint('red', 'problem') : paint('yellow', 'hint   ');
    return `  ${mark}  ${what}\n           ${advice}`;
  });
  const end = findings.length > 0 ? findings : [`  ${paint('green', 'No problem was found.')}`];
  return [paint('bold', `fused-adamw ${diagnosis.version}`), '', ...facts, '', ...end].join('\n');
}

function factsOf({ platform, node, environment, binary, backend, speed }: Diagnosis): [label: string, text: string][] {
  const set = Object.entries(environment).map(([name, value]) => `${name}=${value}`);
  const facts: [string, string][] = [
    ['platform', `${platform}, Node ${node}`],
    ['environment', set.join(' ') || 'none of the variables that change what runs is set'],
  ];
  if ('error' in backend) return [...facts, ['backend', `none: ${backend.error}`]];
  return [
    ...facts,
    ...nativeFacts(backend, binary),
    ['GPU', gpuText(backend.cuda)],
    ['speed', speed ? speedText(speed) : 'not measured'],
  ];
}

function nativeFacts({ native, threads, threading }: BackendInfo, binary: Diagnosis['binary']): [string, string][] {
  if (!native.available || !binary) {
    const reason = native.available ? '' : native.reason;
    return [
      ['backend', 'TypeScript, one thread'],
      ['binary', `none: ${reason}`],
    ];
  }
  const others = native.isas.filter((isa) => isa !== native.isa);
  const also = others.length > 0 ? ` (this machine also runs ${others.join(' and ')})` : '';
  const runtime =
    threading.runtime === 'openmp'
      ? `OpenMP (${threading.library})`
      : `the package's own team (${threading.reason ?? 'as was asked for'})`;
  return [
    ['backend', 'native'],
    ['binary', binary.path],
    ['', `${binary.origin}; built by ${native.build}, compiler ${native.compiler}`],
    ['instructions', `${native.isa}${also}`],
    ['threads', `${threads}, by ${runtime}`],
  ];
}

function gpuText(cuda: BackendInfo['cuda']): string {
  if (!cuda.available) return `none: ${cuda.reason}`;
  const devices = cuda.devices.map(
    ({ name, computeCapability, memory }) =>
      `${name} (compute capability ${computeCapability}, ${(memory / 2 ** 30).toFixed(0)} GiB)`,
  );
  return `${devices.join(', ')}; driver for CUDA ${cuda.driver}`;
}

function speedText({ weights, bytes, step, stream, ratio }: Speed): string {
  const text = (milliseconds: number) =>
    `${milliseconds.toFixed(1)} ms (${(bytes / milliseconds / 1e6).toFixed(1)} GB/s)`;
  const taken = `a step over ${weights / 2 ** 20} Mi float32 weights takes ${text(step)}`;
  if (stream === null || ratio === null) return taken;
  return `${percent(ratio)} of a plain stream: ${taken}, a stream of the same bytes ${text(stream)}`;
}
