/** The command `fused-adamw doctor`. */
import { type SpawnSyncReturns, spawnSync } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { stripVTControlCharacters } from 'node:util';
import { expect } from 'chai';
import { type Diagnosis, diagnose } from '../bin/doctor/diagnosis.js';
import { format } from '../bin/doctor/format.js';
import type { Speed } from '../bin/doctor/speed.js';
import { backendInfo } from '../lib/index.js';
import { copyPackage, expectExit, repository, temporaryFolder } from './support/child.js';
import { binary, either, itUnless, noNative } from './support/conditions.js';

describe('fused-adamw', () => {
  const folder = temporaryFolder();

  const run = (args: readonly string[], env: Record<string, string> = {}, root = repository) => {
    const kept = Object.entries(process.env).filter(([name]) => !/^(FUSED_ADAMW_|OMP_)/.test(name));
    return spawnSync(process.execPath, [join(root, 'dist/bin/main.js'), ...args], {
      encoding: 'utf8',
      env: { ...Object.fromEntries(kept), ...env },
    });
  };

  const runJson = (
    env: Record<string, string>,
    root?: string,
  ): { child: SpawnSyncReturns<string>; found: Diagnosis } => {
    const child = run(['doctor', '--json', '--seconds', '0'], env, root);
    return { child, found: JSON.parse(child.stdout) };
  };

  const NATIVE = { FUSED_ADAMW_BINARY: binary, FUSED_ADAMW_DEVICE: 'cpu' };

  describe('wrong arguments', () => {
    const rows: readonly (readonly [what: string, args: readonly string[], message: RegExp])[] = [
      ['no command', [], /^Expected build or doctor for COMMAND but received nothing$/m],
      ['an unknown command', ['cure'], /^Expected build or doctor for COMMAND but received "cure"$/m],
      ['the name of a property', ['constructor'], /^Expected build or doctor for COMMAND but received "constructor"$/m],
      ['an unknown option', ['doctor', '--jsom'], /^Unknown option '--jsom'/m],
      ['an argument', ['doctor', 'now'], /^Unexpected argument 'now'/m],
      [
        'a word for seconds',
        ['doctor', '--seconds', 'two'],
        /^Expected a number from 0 to 60 for --seconds but received "two"$/m,
      ],
      [
        'seconds below 0',
        ['doctor', '--seconds=-1'],
        /^Expected a number from 0 to 60 for --seconds but received "-1"$/m,
      ],
      ['empty seconds', ['doctor', '--seconds='], /^Expected a number from 0 to 60 for --seconds but received ""$/m],
    ];
    for (const [what, args, message] of rows) {
      it(`should be told, with the usage: ${what}`, () => {
        const child = run(args);
        expectExit(child, 2);
        expect(child.stderr)
          .to.match(message)
          .and.match(/^ {2}(fused-adamw )?doctor /m);
        expect(child.stdout).to.equal('');
      });
    }

    for (const args of [['--help'], ['doctor', '--help']]) {
      it(`should not be ${args.join(' ')}`, () => {
        const child = run(args);
        expectExit(child, 0);
        expect(child.stdout).to.match(/fused-adamw .*\[options\]/);
        expect(child.stderr).to.equal('');
      });
    }
  });

  describe('doctor', () => {
    itUnless(noNative, 'should find no problem where native code runs, and say so in plain text', () => {
      const child = run(['doctor', '--seconds', '0.1'], NATIVE);
      expectExit(child, 0);
      expect(child.stderr).to.equal('');
      const { version } = JSON.parse(readFileSync(join(repository, 'package.json'), 'utf8'));
      expect(child.stdout).to.equal(stripVTControlCharacters(child.stdout));
      expect(child.stdout.split('\n')[0]).to.equal(`fused-adamw ${version}`);
      for (const line of [
        `platform +${process.platform}\\S*-${process.arch}, Node ${process.versions.node}`,
        'backend +native',
        `binary +${binary}`,
        'instructions +\\w+',
        'threads +\\d+, by (OpenMP|the package)',
        'GPU +none: FUSED_ADAMW_DEVICE is cpu',
        'speed +\\d+% of a plain stream: a step over \\d+ Mi float32 weights takes [\\d.]+ ms \\([\\d.]+ GB/s\\), .*',
      ]) {
        expect(child.stdout).to.match(new RegExp(`^  ${line}`, 'm'));
      }
    });

    itUnless(noNative, 'should print all of it as JSON', () => {
      const child = run(['doctor', '--json', '--seconds', '0.1'], NATIVE);
      expectExit(child, 0);
      const found: Diagnosis = JSON.parse(child.stdout);
      expect(found).to.have.all.keys(
        'version',
        'platform',
        'node',
        'environment',
        'binary',
        'backend',
        'speed',
        'findings',
      );
      expect(found.environment).to.deep.equal(NATIVE);
      expect(found.binary).to.deep.equal({ path: binary, origin: 'named by FUSED_ADAMW_BINARY' });
      expect(found.backend).to.include({ backend: 'native', threads: backendInfo().threads });
      const { weights, bytes, step, stream, ratio } = found.speed as Speed;
      expect(bytes).to.equal(28 * weights);
      expect(step).to.be.greaterThan(0);
      expect(ratio).to.equal((stream as number) / step);
      expect(found.findings.filter(({ severity }) => severity === 'problem')).to.deep.equal([]);
    });

    it('should find a problem where there is no binary, and still measure a step', () => {
      const root = copyPackage(join(folder.path, 'none'));
      const child = run(['doctor', '--json', '--seconds', '0.01'], {}, root);
      expectExit(child, 1);
      expect(child.stderr).to.equal('');
      const found: Diagnosis = JSON.parse(child.stdout);
      const [problem] = found.findings;
      expect(found.binary).to.equal(null);
      expect(found.speed).to.include({ stream: null, ratio: null });
      expect(problem.severity).to.equal('problem');
      expect(problem.what).to.equal(
        `Steps run in TypeScript, many times slower: there is no binary for ${found.platform}.`,
      );
      expect(problem.advice).to.match(/npx fused-adamw build/);
    });

    itUnless(noNative, 'should tell a binary of the package from one that was compiled there', () => {
      const { platform } = diagnose(0);
      for (const [place, origin] of [
        ['build/Release/fused_adamw.node', 'compiled here'],
        [`prebuilds/${platform}/fused_adamw.node`, 'carried by the package'],
      ]) {
        const root = copyPackage(join(folder.path, origin.split(' ')[0]), binary, place);
        const { child, found } = runJson({ FUSED_ADAMW_DEVICE: 'cpu' }, root);
        expectExit(child, 0);
        expect(found.binary).to.deep.equal({ path: join(root, place), origin });
      }
    });

    it('should give a hint where TypeScript was asked for', () => {
      const { child, found } = runJson({ FUSED_ADAMW_BACKEND: 'javascript' });
      expectExit(child, 0);
      expect(found.findings).to.deep.equal([
        {
          severity: 'hint',
          what: 'FUSED_ADAMW_BACKEND=javascript asks for TypeScript.',
          advice: 'Unset it for native code.',
        },
      ]);
    });

    for (const [name, value] of [
      ['FUSED_ADAMW_BACKEND', 'fortran'],
      ['FUSED_ADAMW_ISA', 'sse9'],
      ['FUSED_ADAMW_THREADS', 'many'],
    ]) {
      itUnless(name === 'FUSED_ADAMW_BACKEND' ? null : noNative, `should find a wrong value of ${name}`, () => {
        const { child, found } = runJson({ FUSED_ADAMW_BINARY: binary, [name]: value });
        expectExit(child, 1);
        expect(found.findings).to.have.length(1);
        expect(found.findings[0].what).to.match(new RegExp(`^Expected .* for ${name} but received .*${value}`));
        expect(found.findings[0].advice).to.equal(`Correct ${name}, or unset it.`);
      });
    }

    it('should find a FUSED_ADAMW_BINARY that is not there', () => {
      for (const FUSED_ADAMW_BACKEND of ['', 'native']) {
        const { child, found } = runJson({ FUSED_ADAMW_BINARY: '/nonexistent.node', FUSED_ADAMW_BACKEND });
        expectExit(child, 1);
        expect(found.findings[0].what).to.match(/there is no \S*nonexistent\.node, which FUSED_ADAMW_BINARY names/);
        expect(found.findings[0].advice).to.equal('Correct FUSED_ADAMW_BINARY, or unset it.');
      }
    });

    const { native } = backendInfo();
    const hasOne = native.available && native.isas.length === 1 ? 'this machine has one instruction set' : null;
    itUnless(either(noNative, hasOne), 'should give a hint where slower instructions were asked for', () => {
      const { child, found } = runJson({ ...NATIVE, FUSED_ADAMW_ISA: 'baseline' });
      expectExit(child, 0);
      expect(found.findings.map(({ what }) => what)).to.include.members([
        `FUSED_ADAMW_ISA asks for baseline, and this machine has ${native.available ? native.isas[0] : ''}.`,
      ]);
    });

    it('should use colours only where they are asked for', () => {
      const diagnosis = diagnose(0);
      const plain = format(diagnosis, false);
      const coloured = format(diagnosis, true);
      expect(stripVTControlCharacters(plain)).to.equal(plain);
      expect(coloured).to.not.equal(plain);
      expect(stripVTControlCharacters(coloured)).to.equal(plain);
    });
  });
});
