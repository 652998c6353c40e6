/** Which C library the process runs on. */
import { readFileSync } from 'node:fs';

/** Whether it is musl, in the place of glibc. */
export function isMusl(): boolean {
  if (process.platform !== 'linux') return false;
  try {
    // musl's library is its loader too: ld-musl-x86_64.so.1, a link to libc.so in some distributions. glibc's is libc.so.6.
    return /\/(?:ld-musl-\w+\.so\.1|libc\.so)$/m.test(readFileSync('/proc/self/maps', 'latin1'));
  } catch {
    return reportsMusl(); // node --permission
  }
}

/** The same by Node's report of itself, which takes milliseconds. */
function reportsMusl(): boolean {
  try {
    const { header } = process.report.getReport() as { readonly header: { readonly glibcVersionRuntime?: string } };
    return header.glibcVersionRuntime === undefined;
  } catch {
    return false; // Deno, which has no build for musl
  }
}
