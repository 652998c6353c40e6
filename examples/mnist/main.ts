/**
 * Trains a small network to read handwritten digits with AdamW.
 *
 *     npm run demo -- --help
 */
import { accessSync, constants, mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { ArgumentError, type Arguments, readArguments, USAGE } from './arguments.js';
import { CLASSES, loadDigits, PIXELS } from './digits.js';
import { readDigits } from './evaluation.js';
import { drawGallery } from './gallery.js';
import { drawLossChart } from './loss-chart.js';
import { Network } from './network.js';
import { createProgress } from './progress.js';
import { Random } from './random.js';
import { printPictures, printResult, printSetting } from './report.js';
import { Trainer } from './trainer.js';
import { train } from './training.js';
import { hashWeights } from './weights-hash.js';

const HIDDEN = 128;

function run({ epochs, batchSize, learningRate, seed, device, out }: Arguments): void {
  makeFolder(out);
  const random = new Random(seed);
  const digits = loadDigits();
  const stepsPerEpoch = Math.ceil(digits.training.images.length / batchSize);
  const network = new Network([PIXELS, HIDDEN, CLASSES], random);
  const trainer = new Trainer(network.parameters, { steps: epochs * stepsPerEpoch, learningRate, device });
  printSetting(digits, network, trainer);

  const progress = createProgress(epochs, stepsPerEpoch);
  const history = train(network, trainer, digits, { epochs, batchSize, random, progress });
  const readings = readDigits(network, digits.test);
  printResult(readings, history, trainer, hashWeights(network));

  const pictures = { 'loss.svg': drawLossChart(history), 'digits.svg': drawGallery(readings) };
  printPictures(Object.entries(pictures).map(([name, svg]) => write(join(out, name), svg)));
}

/** Called before the training, which would otherwise be wasted. */
function makeFolder(path: string): void {
  try {
    mkdirSync(path, { recursive: true });
    accessSync(path, constants.W_OK);
  } catch {
    throw new ArgumentError('a folder that can be written to', '--out', path);
  }
}

function write(path: string, text: string): string {
  writeFileSync(path, text);
  return path;
}

function main(): void {
  try {
    const args = readArguments(process.argv.slice(2));
    if (args.help) console.log(USAGE);
    else run(args);
  } catch (error) {
    if (!(error instanceof ArgumentError)) throw error;
    console.error(error.message);
    process.exitCode = 2;
  }
}

main();
