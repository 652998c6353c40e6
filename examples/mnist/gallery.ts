/** A picture of test digits with the network's answers. */
import { SIDE } from './digits.js';
import { accuracyOf, isRight, type Reading } from './evaluation.js';
import { firstRight, surestWrong } from './samples.js';

const COLUMNS = 10;
const CELL = { width: 86, height: 96 };
/** Size of one pixel of a digit. */
const PIXEL = 2;
const MARGIN = 30;
const HEADING = 44;
const WIDTH = 2 * MARGIN + COLUMNS * CELL.width;
const MOST_WRONG = 3 * COLUMNS;
/** Shades of ink that are drawn. */
const SHADES = 5;

const INK = '#1b1f27';
const PAPER = '#f3f4f7';
const QUIET = '#5b6473';
const WRONG = '#c92a2a';

/** @returns an SVG with its own background, for light and dark pages */
export function drawGallery(readings: readonly Reading[]): string {
  const wrong = surestWrong(readings, MOST_WRONG);
  const sections = [
    section('Read right, the first of each digit', firstRight(readings)),
    section(wrongHeading(readings, wrong), wrong),
  ];
  const title = `${(100 * accuracyOf(readings)).toFixed(1)}% of ${readings.length.toLocaleString('en-US')} test digits are read right`;
  const top = MARGIN + 16;
  const height = sections.reduce((sum, { height }) => sum + height, top) + MARGIN / 2;
  return `${[
    `<svg xmlns="http://www.w3.org/2000/svg" width="${WIDTH}" height="${height}" viewBox="0 0 ${WIDTH} ${height}"`,
    ` font-family="system-ui, Helvetica, Arial, sans-serif">`,
    `<rect width="${WIDTH}" height="${height}" fill="#ffffff"/>`,
    `<text x="${MARGIN}" y="${top}" font-size="18" font-weight="bold" fill="${INK}">${title}</text>`,
    `<g transform="translate(${MARGIN} ${top})">${sections[0].svg}</g>`,
    `<g transform="translate(${MARGIN} ${top + sections[0].height})">${sections[1].svg}</g>`,
    '</svg>',
  ].join('\n')}\n`;
}

function wrongHeading(readings: readonly Reading[], shown: readonly Reading[]): string {
  const count = readings.filter((reading) => !isRight(reading)).length;
  if (count === 0) return 'None is read wrong';
  return count === shown.length ? `Read wrong, all ${count}` : `Read wrong, the surest ${shown.length} of ${count}`;
}

/** A heading, and digits in rows below it. */
function section(heading: string, readings: readonly Reading[]): { svg: string; height: number } {
  const cells = readings.map((reading, i) => {
    const x = (i % COLUMNS) * CELL.width;
    const y = HEADING + Math.floor(i / COLUMNS) * CELL.height;
    return `<g transform="translate(${x} ${y})">${cell(reading)}</g>`;
  });
  const title = `<text y="${HEADING - 14}" font-size="13" fill="${QUIET}">${heading}</text>`;
  const rows = Math.ceil(readings.length / COLUMNS);
  return { svg: [title, ...cells].join('\n'), height: HEADING + rows * CELL.height };
}

/** A digit, the network's answer, and its probability. */
function cell(reading: Reading): string {
  const { label, answer, probability, image } = reading;
  const size = SIDE * PIXEL;
  const left = (CELL.width - size) / 2;
  const middle = CELL.width / 2;
  const [caption, color] = isRight(reading) ? [`${answer}`, INK] : [`${answer}, is ${label}`, WRONG];
  const sureness = `<tspan dx="4" fill="${QUIET}" font-size="11" font-weight="normal">${Math.round(100 * probability)}%</tspan>`;
  return (
    `<g transform="translate(${left} 0) scale(${PIXEL})">` +
    `<rect width="${SIDE}" height="${SIDE}" rx="2" fill="${PAPER}"/>${drawDigit(image)}</g>` +
    `<text x="${middle}" y="${size + 18}" text-anchor="middle" font-size="13" font-weight="bold" fill="${color}">` +
    `${caption}${sureness}</text>`
  );
}

/** A path for each shade, made of its runs along the rows. */
function drawDigit(image: Float32Array): string {
  const runs = Array.from({ length: SHADES + 1 }, () => '');
  for (let y = 0; y < SIDE; y++) {
    for (let x = 0; x < SIDE; ) {
      const shade = shadeOf(image[y * SIDE + x]);
      let end = x + 1;
      while (end < SIDE && shadeOf(image[y * SIDE + end]) === shade) end++;
      runs[shade] += `M${x} ${y}h${end - x}v1h${x - end}z`;
      x = end;
    }
  }
  const paths = runs.map((path, shade) => `<path fill-opacity="${shade / SHADES}" d="${path}"/>`);
  return `<g fill="${INK}" shape-rendering="crispEdges">${paths.slice(1).join('')}</g>`;
}

function shadeOf(pixel: number): number {
  return Math.round(pixel * SHADES);
}
