/** Where no GPU can be used: each reason is provoked, reported, and the CPU does the work. */

import { randomBytes } from 'node:crypto';
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { brotliCompressSync } from 'node:zlib';
import { expect } from 'chai';
import { copyPackage, expectedDigest, reportOf, repository, temporaryFolder } from './support/child.js';
import { binary, compileLibrary, either, itUnless, noCompiler, noNative, notLinux } from './support/conditions.js';

const EXAMPLE = { length: 100 };

/** The driver's functions that the addon calls. */
const FUNCTIONS = [
  ...readFileSync(join(repository, 'native/cuda/driver.h'), 'utf8').matchAll(/^ {2}X\((cu\w+),/gm),
].map(([, name]) => name);

/** The start of an uncompressed fat binary whose header gives a larger size than the file has. */
const TRUNCATED = Buffer.alloc(64);
TRUNCATED.writeUInt32LE(0xba55ed50, 0);
TRUNCATED.writeUInt16LE(1, 4);
TRUNCATED.writeUInt16LE(16, 6);
TRUNCATED.writeBigUInt64LE(1_000_000n, 8);

interface Absence {
  readonly title: string;
  /** Bodies of driver functions that do not just return success. */
  readonly bodies?: Readonly<Record<string, string>>;
  /** A function that the driver lacks. */
  readonly lacks?: string;
  /** What the package carries as its device code; by default something that the driver takes. */
  readonly deviceCode?: 'none' | Buffer;
  /** Whether the driver's file is not a library. */
  readonly broken?: boolean;
  readonly reason: RegExp;
  /** Whether it is known before a device is initialized. */
  readonly toldAtOnce: boolean;
}

const ABSENCES: readonly Absence[] = [
  {
    title: 'a library that cannot be opened',
    broken: true,
    reason: /^there is no CUDA driver: .*libcuda\.so\.1.*/,
    toldAtOnce: true,
  },
  {
    title: 'a driver that lacks a function',
    lacks: 'cuLaunchKernel',
    reason: /^the CUDA driver is too old: it has no cuLaunchKernel$/,
    toldAtOnce: true,
  },
  {
    title: 'a driver that is too old',
    bodies: { cuDriverGetVersion: 'int* version = a; *version = 11080; return 0;' },
    reason: /^the CUDA driver is too old: it is for CUDA 11\.8, and 12\.0 or later is needed$/,
    toldAtOnce: true,
  },
  {
    title: 'a driver that does not start',
    bodies: { cuInit: 'return 999;' },
    reason: /^the CUDA driver does not start: NAME OF 999 \(text of 999\)$/,
    toldAtOnce: true,
  },
  {
    title: 'no device',
    bodies: { cuDeviceGetCount: 'int* count = a; *count = 0; return 0;' },
    reason: /^there is no CUDA device$/,
    toldAtOnce: true,
  },
  {
    title: 'a driver that does not start without a device',
    bodies: { cuInit: 'return 100;' },
    reason: /^there is no CUDA device$/,
    toldAtOnce: true,
  },
  {
    title: 'no device code',
    deviceCode: 'none',
    reason: /^no device code is usable: the package carries none$/,
    toldAtOnce: true,
  },
  {
    title: 'device code that is truncated',
    deviceCode: brotliCompressSync(TRUNCATED),
    reason: /^no device code is usable: it is truncated$/,
    toldAtOnce: false,
  },
  {
    title: 'a file of device code that is truncated',
    deviceCode: brotliCompressSync(randomBytes(1000)).subarray(0, 500),
    reason: /^no device code is usable: .*fused_adamw\.fatbin\.br: unexpected end of file$/,
    toldAtOnce: true,
  },
  {
    title: 'device code for other devices',
    bodies: { cuModuleLoadData: 'return 209;' },
    reason: /^no device code is usable: CUDA failed in cuModuleLoadData: NAME OF 209 \(text of 209\)$/,
    toldAtOnce: false,
  },
  {
    title: 'no memory at the start',
    bodies: { cuDevicePrimaryCtxRetain: 'return 2;' },
    reason: /^CUDA failed in cuDevicePrimaryCtxRetain: NAME OF 2 \(text of 2\)$/,
    toldAtOnce: false,
  },
];

/** A driver with one device whose functions do nothing but what `bodies` say. */
function driverSource({ bodies = {}, lacks }: Absence): string {
  const all: Record<string, string> = {
    cuGetErrorName: 'static char name[32]; sprintf(name, "NAME OF %d", (int)(long)a); *(char**)b = name; return 0;',
    cuGetErrorString: 'static char text[32]; sprintf(text, "text of %d", (int)(long)a); *(char**)b = text; return 0;',
    cuDeviceGetCount: 'int* count = a; *count = 1; return 0;',
    cuDriverGetVersion: 'int* version = a; *version = 13000; return 0;',
    cuModuleLoadData: '*(void**)a = (void*)1; return 0;',
    cuDevicePrimaryCtxRetain: 'setenv("CONTEXT", "retained", 1); return 0;',
    cuDevicePrimaryCtxRelease_v2: 'unsetenv("CONTEXT"); return 0;',
    ...bodies,
  };
  const functions = FUNCTIONS.filter((name) => name !== lacks).map(
    (name) => `int ${name}(void* a, void* b) { (void)a; (void)b; ${all[name] ?? 'return 0;'} }`,
  );
  return ['#include <stdio.h>', '#include <stdlib.h>', ...functions].join('\n');
}

const SOURCE = `
  const library = await import(libraryUrl);
  const { AdamW, backendInfo, Tensor } = library;
  const reasonOf = (run) => { try { return run(); } catch (error) { return String(error); } };
  const before = backendInfo().cuda;
  const weight = Tensor.zeros(3, { device: 'auto' });
  const optimizer = new AdamW();
  optimizer.update(0, weight, Tensor.zeros(3).to('auto'), optimizer.createState(0, weight));
  report({
    before,
    after: backendInfo().cuda,
    auto: [weight.device, weight.to('auto').device],
    thrown: reasonOf(() => Tensor.zeros(3, { device: 'cuda' })),
    moved: reasonOf(() => weight.to('cuda:0')),
    digest: exampleDigest(library, ${JSON.stringify(EXAMPLE)}),
    context: process.env.CONTEXT ?? 'released',
  });`;

interface Report {
  readonly before: { available: boolean; reason?: string };
  readonly after: { available: boolean; reason?: string };
  readonly auto: string[];
  readonly thrown: string;
  readonly moved: string;
  readonly digest: string;
  readonly context: string;
}

function expectAbsent(report: Report, reason: RegExp, toldAtOnce: boolean): void {
  expect(report.after.available).to.equal(false);
  expect(report.after.reason).to.match(reason);
  if (toldAtOnce) expect(report.before).to.deep.equal(report.after);
  expect(report.auto).to.deep.equal(['cpu', 'cpu']);
  expect(report.thrown).to.equal(
    `RangeError: Expected a usable device for device but received 'cuda' (${report.after.reason})`,
  );
  expect(report.moved).to.equal(
    `RangeError: Expected a usable device for device but received 'cuda:0' (${report.after.reason})`,
  );
  expect(report.digest).to.equal(expectedDigest(EXAMPLE));
  expect(report.context).to.equal('released');
}

describe('where no GPU can be used', () => {
  const folder = temporaryFolder();

  for (const absence of ABSENCES) {
    const { title, broken, deviceCode, reason, toldAtOnce } = absence;
    itUnless(either(notLinux, noNative, noCompiler), `should report it and use the CPU: ${title}`, () => {
      const place = join(folder.path, title.replaceAll(' ', '-'));
      const root = copyPackage(join(place, 'package'), binary);
      const drivers = join(place, 'driver');
      mkdirSync(drivers, { recursive: true });
      const library = join(drivers, 'libcuda.so.1');
      if (broken) {
        writeFileSync(library, 'no library');
      } else {
        writeFileSync(join(place, 'driver.c'), driverSource(absence));
        compileLibrary(join(place, 'driver.c'), library, ['-Wl,-soname,libcuda.so.1', '-Wno-int-to-pointer-cast']);
      }
      if (deviceCode !== 'none') {
        mkdirSync(join(root, 'prebuilds'), { recursive: true });
        writeFileSync(
          join(root, 'prebuilds/fused_adamw.fatbin.br'),
          deviceCode ?? brotliCompressSync('fused-adamw device code of a test'),
        );
      }
      expectAbsent(reportOf(SOURCE, { root, env: { LD_LIBRARY_PATH: drivers } }) as Report, reason, toldAtOnce);
    });
  }

  itUnless(noNative, 'should report it and use the CPU: FUSED_ADAMW_DEVICE', () => {
    const report = reportOf(SOURCE, { env: { FUSED_ADAMW_DEVICE: 'cpu' } }) as Report;
    expectAbsent(report, /^FUSED_ADAMW_DEVICE is cpu$/, true);
  });

  it('should report it and use the CPU: the TypeScript backend', () => {
    const report = reportOf(SOURCE, { env: { FUSED_ADAMW_BACKEND: 'javascript' } }) as Report;
    expectAbsent(report, /^CUDA needs the native backend: FUSED_ADAMW_BACKEND is javascript$/, true);
  });

  it('should have a synchronize() that returns at once', () => {
    const source = 'const { synchronize } = await import(libraryUrl); synchronize(); report("done");';
    expect(reportOf(source, { env: { FUSED_ADAMW_DEVICE: 'cpu' } })).to.equal('done');
  });

  it('should give ordinary memory if page-locked memory is requested', () => {
    const source = `
      const { Tensor } = await import(libraryUrl);
      report([...Tensor.zeros(3, { pinned: true }).set([1, 2, 3]).data]);`;
    expect(reportOf(source, { env: { FUSED_ADAMW_DEVICE: 'cpu' } })).to.deep.equal([1, 2, 3]);
  });
});
