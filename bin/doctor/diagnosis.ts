/** Collects what there is, and what should be done about it. */
import { existsSync, readFileSync } from 'node:fs';
import { availableParallelism } from 'node:os';
import { relative } from 'node:path';
import { fileURLToPath } from 'node:url';
import { platformName } from '../../lib/backend/binary.js';
import { type BackendInfo, backendInfo } from '../../lib/index.js';
import { measureSpeed, type Speed } from './speed.js';

export interface Diagnosis {
  readonly version: string;
  /** As the folders in prebuilds/ are called. */
  readonly platform: string;
  readonly node: string;
  /** The variables that change what runs, where they are set. */
  readonly environment: Readonly<Record<string, string>>;
  /** Where the binary comes from; null where none is used. */
  readonly binary: { readonly path: string; readonly origin: string } | null;
  /** backendInfo(), or why it throws. */
  readonly backend: BackendInfo | { readonly error: string };
  /** null where it was not measured. */
  readonly speed: Speed | null;
  readonly findings: readonly Finding[];
}

export interface Finding {
  /** A hint is about what works, but may not be meant. */
  readonly severity: 'problem' | 'hint';
  readonly what: string;
  readonly advice: string;
}

// This file is dist/bin/doctor/diagnosis.js.
const root = fileURLToPath(new URL('../../../', import.meta.url));

/** @param seconds for the measurement; 0 for none */
export function diagnose(seconds: number): Diagnosis {
  const backend = infoOrError();
  const speed = 'error' in backend || seconds === 0 ? null : measureSpeed(seconds);
  const environment = variables();
  return {
    version: JSON.parse(readFileSync(`${root}package.json`, 'utf8')).version,
    platform: platformName(),
    node: process.versions.node,
    environment,
    binary: binaryOf(backend, environment),
    backend,
    speed,
    findings: 'error' in backend ? [ofError(backend.error)] : findingsOf(backend, environment, speed),
  };
}

function infoOrError(): BackendInfo | { readonly error: string } {
  try {
    return backendInfo();
  } catch (error) {
    return { error: (error as Error).message };
  }
}

function variables(): Record<string, string> {
  const entries = Object.entries(process.env).filter(([name]) => /^(FUSED_ADAMW_|OMP_NUM_THREADS$)/.test(name));
  return Object.fromEntries(entries.filter((entry): entry is [string, string] => Boolean(entry[1])));
}

function binaryOf(backend: Diagnosis['backend'], environment: Diagnosis['environment']): Diagnosis['binary'] {
  if ('error' in backend || !backend.native.available) return null;
  const { path } = backend.native;
  const isCarried = relative(root, path).startsWith('prebuilds');
  const found = isCarried ? 'carried by the package' : 'compiled here';
  return { path, origin: environment.FUSED_ADAMW_BINARY ? 'named by FUSED_ADAMW_BINARY' : found };
}

/** A variable with a wrong value, or one that insists on a binary that does not load. */
function ofError(error: string): Finding {
  const name = /\bfor (FUSED_ADAMW_\w+) but received\b/.exec(error)?.[1];
  const advice = name ? `Correct ${name}, or unset it.` : adviceOn(error);
  return { severity: 'problem', what: error, advice };
}

function findingsOf(info: BackendInfo, environment: Diagnosis['environment'], speed: Speed | null): Finding[] {
  const findings: Finding[] = [];
  const add = (severity: Finding['severity'], what: string, advice: string) =>
    findings.push({ severity, what, advice });
  const { native, threads, cuda, javascript } = info;
  if (!native.available) {
    if (environment.FUSED_ADAMW_BACKEND === 'javascript') {
      add('hint', 'FUSED_ADAMW_BACKEND=javascript asks for TypeScript.', 'Unset it for native code.');
    } else add('problem', `Steps run in TypeScript, many times slower: ${native.reason}.`, adviceOn(native.reason));
  } else {
    const [best] = native.isas;
    if (native.isa !== best) {
      add('hint', `FUSED_ADAMW_ISA asks for ${native.isa}, and this machine has ${best}.`, 'Unset it for full speed.');
    }
    const processors = availableParallelism();
    if (threads < processors && environment.OMP_NUM_THREADS) {
      const what = `OMP_NUM_THREADS=${environment.OMP_NUM_THREADS}: a large step uses ${threads} of ${processors} processors.`;
      add('hint', what, 'Unset it, or call setNumThreads(), for more.');
    }
    if (speed && speed.ratio !== null && speed.ratio < SLOW) {
      const what = `A step runs at ${percent(speed.ratio)} of the speed of a plain stream.`;
      add('hint', what, 'Other processes may use the processors or the memory: measure again when they have ended.');
    }
  }
  if (javascript.flushesSubnormals) {
    const what = 'A library flushes subnormal numbers to zero in this thread.';
    add(
      'problem',
      what,
      'Do not load libraries that were linked with -ffast-math: native steps are right, others lose them.',
    );
  }
  if (!cuda.available && hasGpu() && environment.FUSED_ADAMW_DEVICE !== 'cpu' && native.available) {
    add('problem', `There is an NVIDIA GPU that cannot be used: ${cuda.reason}.`, 'docs/cuda.md says what CUDA needs.');
  }
  return findings;
}

/** Of a quiet machine's stream. A step over float32 has been measured at 0.9 to 1.05. */
const SLOW = 0.7;

export function percent(ratio: number): string {
  return `${(100 * ratio).toFixed(0)}%`;
}

/** Whether the kernel's driver has one, whatever the libraries say. */
function hasGpu(): boolean {
  return existsSync('/dev/nvidia0');
}

/** What to do about a binary that does not load. */
function adviceOn(reason: string): string {
  if (/loading addons is disabled/.test(reason))
    return "Give node --allow-addons beside its permission model's options.";
  if (/was cut short|invalid ELF header/.test(reason)) return 'Install the package again: the file is damaged.';
  if (/belongs to another version/.test(reason)) return 'Remove the folder build/ of the package, or build it again.';
  if (/which FUSED_ADAMW_BINARY names/.test(reason)) return 'Correct FUSED_ADAMW_BINARY, or unset it.';
  return `Build it for this machine, ${platformName()}, with GCC or Clang: npx fused-adamw build.`;
}
