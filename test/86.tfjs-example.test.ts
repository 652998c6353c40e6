import { spawnSync } from 'node:child_process';
import { join } from 'node:path';
import { expect } from 'chai';
import { repository } from './support/child.js';

function runExample(...args: string[]) {
  const file = join(repository, 'dist/examples/tfjs/main.js');
  const { status, stdout, stderr } = spawnSync(process.execPath, ['--no-warnings', file, ...args], {
    encoding: 'utf8',
  });
  return { status, stdout, stderr };
}

describe('The example of tf.js', () => {
  it('should learn the digits', () => {
    const { status, stdout, stderr } = runExample();
    expect({ status, stderr }).to.deep.equal({ status: 0, stderr: '' });
    const epochs = [...stdout.matchAll(/^epoch (\d)\/4 {2}loss (\d\.\d{4}) {2}test accuracy ([\d.]+)%$/gm)];
    expect(epochs.map(([, epoch]) => epoch)).to.deep.equal(['1', '2', '3', '4']);
    expect(Number(epochs[3][2])).to.be.lessThan(Number(epochs[0][2]) / 3);
    expect(Number(epochs[3][3])).to.be.greaterThan(94);
  });

  it('should refuse another backend', () => {
    expect(runExample('gpu')).to.deep.equal({
      status: 2,
      stdout: '',
      stderr: "Expected 'wasm' or 'cpu' for the backend but received \"gpu\"\n",
    });
  });
});
