/** Whether the file of a shared library is all there. */
import { closeSync, fstatSync, openSync, readSync } from 'node:fs';

const HEADER = { bytes: 64, magic: 0x7f454c46, class: 4, class64: 2, byteOrder: 5, littleEndian: 1 } as const;
/** Where the header holds the place of the table of sections, the size of an entry, and how many there are. */
const SECTIONS = { place: 0x28, size: 0x3a, count: 0x3c } as const;

/**
 * Loading an ELF file that was cut short, by a full disk say, ends the process
 * by SIGBUS. Its table of sections comes last.
 *
 * @throws Error for such a file
 */
export function checkWhole(path: string): void {
  const header = new DataView(new ArrayBuffer(HEADER.bytes));
  const file = openSync(path, 'r');
  let size: number;
  try {
    size = fstatSync(file).size;
    readSync(file, header);
  } finally {
    closeSync(file);
  }
  if (header.getUint32(0) !== HEADER.magic || header.getUint8(HEADER.class) !== HEADER.class64) return;
  const little = header.getUint8(HEADER.byteOrder) === HEADER.littleEndian;
  const place = Number(header.getBigUint64(SECTIONS.place, little));
  const whole = place + header.getUint16(SECTIONS.size, little) * header.getUint16(SECTIONS.count, little);
  if (size < whole) throw new Error(`the binary was cut short: ${size} of ${whole} bytes`);
}
