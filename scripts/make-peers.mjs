// Makes the Python environments that the benchmark compares with, under
// .peers/: PyTorch and DeepSpeed (several gigabytes) under Python
// 3.10 or later, MXNet 2.0.0b1 under Python 3.8. If one cannot be made, a line
// says why, and the benchmark lists its contenders as absent.
import { spawnSync } from 'node:child_process';
import { existsSync, readdirSync, rmSync } from 'node:fs';
import { homedir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';

const root = fileURLToPath(new URL('..', import.meta.url));
const ENVIRONMENTS = [
  { name: 'torch', wanted: 'Python 3.10 to 3.13', fits: (minor) => minor >= 10 && minor <= 13 },
  { name: 'mxnet', wanted: 'Python 3.8', fits: (minor) => minor === 8 },
];

function run(command, args, options = {}) {
  return spawnSync(command, args, { encoding: 'utf8', ...options });
}

/** Pythons on PATH and those of pyenv. */
function candidates() {
  const versions = join(process.env.PYENV_ROOT ?? join(homedir(), '.pyenv'), 'versions');
  const ofPyenv = existsSync(versions) ? readdirSync(versions).map((name) => join(versions, name, 'bin/python')) : [];
  const onPath = [13, 12, 11, 10, 8].map((minor) => `python3.${minor}`);
  return [...onPath, 'python3', ...ofPyenv];
}

function findPython(fits) {
  return candidates().find((python) => {
    const { stdout } = run(python, ['-c', 'import sys; print(*sys.version_info[:2])']);
    const [major, minor] = (stdout ?? '').split(' ').map(Number);
    return major === 3 && fits(minor);
  });
}

function make({ name, wanted, fits }) {
  const python = findPython(fits);
  if (!python) return `there is no ${wanted}`;
  const environment = join(root, '.peers', name);
  if (run(python, ['-m', 'venv', environment], { stdio: 'inherit' }).status !== 0) return `${python} -m venv failed`;
  const requirements = join(root, `bench/peers/requirements-${name}.txt`);
  const pip = run(join(environment, 'bin/python'), ['-m', 'pip', 'install', '-r', requirements], { stdio: 'inherit' });
  if (pip.status === 0) return null;
  rmSync(environment, { recursive: true });
  return 'pip failed';
}

for (const environment of ENVIRONMENTS) {
  const reason = make(environment);
  const result = reason === null ? 'is ready' : `was not made (${reason})`;
  console.log(`bench: the environment of ${environment.name} ${result}`);
  if (reason !== null) process.exitCode = 1;
}
