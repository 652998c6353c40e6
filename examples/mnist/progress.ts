/** Shows the progress of the training: a bar for each epoch on a terminal, otherwise a line for each. */
import { SingleBar } from 'cli-progress';

export interface Progress {
  startEpoch(epoch: number): void;
  /**
   * After each step.
   *
   * @param loss mean of the epoch so far
   */
  showStep(loss: number): void;
  /** @param accuracy on the test digits, 0 to 1 */
  endEpoch(loss: number, accuracy: number): void;
}

export function createProgress(epochs: number, stepsPerEpoch: number): Progress {
  return process.stdout.isTTY ? bars(epochs, stepsPerEpoch) : lines(epochs);
}

function bars(epochs: number, stepsPerEpoch: number): Progress {
  const bar = new SingleBar({
    stream: process.stdout,
    format: '  {epoch}  {bar}  {result}',
    barsize: 24,
    barCompleteChar: '━',
    barIncompleteChar: '─',
  });
  return {
    startEpoch: (epoch) => bar.start(stepsPerEpoch, 0, { epoch: epochText(epoch, epochs), result: '' }),
    showStep: (loss) => bar.increment({ result: lossText(loss) }),
    endEpoch: (loss, accuracy) => {
      bar.update({ result: resultText(loss, accuracy) });
      bar.stop();
    },
  };
}

function lines(epochs: number): Progress {
  let current = 0;
  return {
    startEpoch: (epoch) => {
      current = epoch;
    },
    showStep: () => {},
    endEpoch: (loss, accuracy) => console.log(`  ${epochText(current, epochs)}  ${resultText(loss, accuracy)}`),
  };
}

function epochText(epoch: number, epochs: number): string {
  return `epoch ${String(epoch).padStart(String(epochs).length)}/${epochs}`;
}

function lossText(loss: number): string {
  return `loss ${loss.toFixed(4)}`;
}

function resultText(loss: number, accuracy: number): string {
  return `${lossText(loss)}  test accuracy ${(100 * accuracy).toFixed(1)}%`;
}
