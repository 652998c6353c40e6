/** Which C library the process runs on. */
import { readFileSync } from 'node:fs';

/** Whether it is musl, in the place of glibc. */
export function isMusl(): boolean {
  if (process.platform !== 'linux') return false;
  const mapped = mappedFiles();
  // musl's library is its loader too: ld-musl-x86_64.so.1, a link to libc.so in some distributions. glibc's is libc.so.6.
  if (mapped !== null) return /\/(?:ld-musl-\w+\.so\.1|libc\.so)$/m.test(mapped);
  // A report takes milliseconds, so it comes second.
  const report = process.report?.getReport() as
    | { readonly header?: { readonly glibcVersionRuntime?: string } }
    | undefined;
  return report?.header !== undefined && report.header.glibcVersionRuntime === undefined;
}

function mappedFiles(): string | null {
  try {
    return readFileSync('/proc/self/maps', 'latin1');
  } catch {
    return null; // node --permission, Deno
  }
}
