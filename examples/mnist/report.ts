/** What the demo prints before and after the training. */
import { backendInfo } from 'fused-adamw';
import { printedDigits } from './braille.js';
import type { DigitSets } from './digits.js';
import { accuracyOf, isRight, type Reading } from './evaluation.js';
import type { Network } from './network.js';
import { firstRight, surestWrong } from './samples.js';
import type { Trainer } from './trainer.js';
import type { History } from './training.js';

export function printSetting(digits: DigitSets, network: Network, trainer: Trainer): void {
  const weights = network.parameters.reduce((sum, { weight }) => sum + weight.length, 0);
  console.log('\n  AdamW teaches a network to read handwritten digits\n');
  printFact(
    'Digits',
    `${group(digits.training.images.length)} to learn from, ${group(digits.test.images.length)} to test`,
  );
  printFact('Network', `${network.sizes.join('-')}, ${group(weights)} weights`);
  printFact('Backend', backendText());
  printFact('Device', deviceText(trainer.device));
  console.log();
}

/** Which backend runs, and why. */
function backendText(): string {
  const { native, threads } = backendInfo();
  if (!native.available) return `TypeScript (${native.reason})`;
  const why = native.isa === native.isas[0] ? 'the best of this CPU' : 'chosen by FUSED_ADAMW_ISA';
  return `native, ${native.isa} (${why}), ${threads} ${threads === 1 ? 'thread' : 'threads'}`;
}

function deviceText(device: string): string {
  const { cuda } = backendInfo();
  if (!cuda.available) return `${device} (${cuda.reason})`;
  const gpu = cuda.devices[Number(device.split(':')[1])];
  return gpu ? `${device} (${gpu.name})` : `${device} (chosen by --device; there is ${cuda.devices[0].name})`;
}

export function printResult(readings: readonly Reading[], history: History, trainer: Trainer, hash: string): void {
  const right = readings.filter(isRight).length;
  console.log();
  for (const line of printedDigits([...firstRight(readings).slice(3, 6), ...surestWrong(readings, 2)])) {
    console.log(`  ${line}`);
  }
  console.log();
  printFact(
    'Accuracy',
    `${percent(accuracyOf(readings))} of the test digits (${group(right)} of ${group(readings.length)})`,
  );
  printFact('Time', timeText(history, trainer));
  printFact('Weights', `SHA-256 ${hash}`);
}

function timeText(history: History, trainer: Trainer): string {
  const share = percent(trainer.milliseconds / history.milliseconds);
  const step = (trainer.milliseconds / trainer.steps).toFixed(3);
  const seconds = (history.milliseconds / 1000).toFixed(1);
  return `${seconds} s; AdamW took ${share} of it (${group(trainer.steps)} steps of ${step} ms)`;
}

export function printPictures(files: readonly string[]): void {
  printFact('Pictures', files.join('\n              '));
  console.log();
}

function printFact(name: string, text: string): void {
  console.log(`  ${name.padEnd(10)}  ${text}`);
}

function percent(share: number): string {
  return `${(100 * share).toFixed(1)}%`;
}

/** 1234 as 1,234. */
function group(count: number): string {
  return count.toLocaleString('en-US');
}
