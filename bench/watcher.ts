/** Shows the progress of a case. */
import { SingleBar } from 'cli-progress';
import type { Watcher } from './measure.js';

/** A progress bar on a terminal, otherwise nothing. */
export function createWatcher(title: string): Watcher & { stop(): void } {
  if (!process.stderr.isTTY) return { turn() {}, stop() {} };
  const bar = new SingleBar({
    stream: process.stderr,
    format: '  {bar} {percentage}%  {title}: {contender}',
    barsize: 24,
    barCompleteChar: '━',
    barIncompleteChar: '─',
    clearOnComplete: true,
  });
  bar.start(1, 0, { title, contender: '' });
  return {
    turn(done, total, contender) {
      bar.setTotal(total);
      bar.update(done, { contender });
    },
    stop: () => bar.stop(),
  };
}
