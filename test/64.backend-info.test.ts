/** What backendInfo() says, and setNumThreads(). */
import { expect } from 'chai';
import { backendInfo, setNumThreads } from '../lib/index.js';
import { withoutCuda } from './support/conditions.js';
import { environments, inEnvironment, TYPESCRIPT } from './support/environments.js';
import { type ErrorRow, itRefuses } from './support/errors.js';

describe('backendInfo', () => {
  for (const environment of environments()) {
    it(`should describe the backend: ${environment.name}`, () => {
      inEnvironment(environment, () => {
        const info = withoutCuda(backendInfo);
        expect(Object.keys(info)).to.have.members(['backend', 'native', 'threads', 'threading', 'cuda', 'javascript']);
        expect(info.backend).to.equal(environment.backend);
        expect(info.threads).to.satisfy((threads: number) => Number.isInteger(threads) && threads >= 1);
        expect(info.cuda).to.deep.equal({ available: false, reason: 'FUSED_ADAMW_DEVICE is cpu' });
        expect(info.javascript).to.deep.equal({ flushesSubnormals: false });
        if (environment.backend === 'javascript') {
          expect(info.native).to.deep.equal({ available: false, reason: 'FUSED_ADAMW_BACKEND is javascript' });
          expect(info.threads).to.equal(1);
          return;
        }
        if (!info.native.available) throw new Error(info.native.reason);
        const { path, build, compiler, isa, isas } = info.native;
        expect(Object.keys(info.native)).to.have.lengthOf(6);
        expect(path).to.match(/fused_adamw\.node$/);
        expect(build).to.be.oneOf(['node-gyp', 'cmake', 'prebuild']);
        expect(compiler).to.match(/\d/);
        expect(isa).to.equal(environment.isa);
        expect(isas).to.include(isa);
        expect(isas.at(-1)).to.equal('baseline');
      });
    });
  }

  it('should not expose its internal lists', () => {
    const { native } = backendInfo();
    if (native.available) (native.isas as string[]).length = 0;
    const again = backendInfo().native;
    if (again.available) expect(again.isas).to.not.have.lengthOf(0);
  });
});

describe('setNumThreads', () => {
  const isNative = backendInfo().native.available;

  afterEach(() => setNumThreads(null));

  it('should set the number of threads, and return to the default for null', () => {
    const before = backendInfo().threads;
    for (const count of [1, 3, 64]) {
      setNumThreads(count);
      expect(backendInfo().threads).to.equal(isNative ? count : 1);
    }
    setNumThreads(null);
    expect(backendInfo().threads).to.equal(before);
  });

  it('should have no effect on the TypeScript backend', () => {
    inEnvironment(TYPESCRIPT, () => {
      setNumThreads(4);
      expect(backendInfo().threads).to.equal(1);
    });
  });

  itRefuses(
    (
      [
        [0, RangeError, '0'],
        [-1, RangeError, '-1'],
        [1.5, RangeError, '1.5'],
        [NaN, RangeError, 'NaN'],
        [Infinity, RangeError, 'Infinity'],
        ['2', TypeError, '"2"'],
        [undefined, TypeError, 'undefined'],
      ] as const
    ).map(
      ([count, kind, received]): ErrorRow => [
        `${received} threads`,
        () => setNumThreads(count as number),
        kind,
        `Expected an integer of at least 1 for count but received ${received}`,
      ],
    ),
  );
});
