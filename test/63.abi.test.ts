/** A package whose tables differ from those that its addon was built with: the addon is not used. */
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { copyPackage, temporaryFolder } from './support/child.js';
import { binary, itUnless, noNative } from './support/conditions.js';
import { expectFallback } from './support/fallback.js';

/** The one match of a pattern in a text. */
function onlyMatch(text: string, pattern: RegExp): string {
  const matches = [...text.matchAll(new RegExp(pattern, `${pattern.flags}g`))];
  if (matches.length !== 1) throw new Error(`${pattern} matches ${matches.length} times, not once`);
  return matches[0][0];
}

/** Exchanges two entries of a list that a module exports. */
function swapped(source: string, list: string, first: RegExp, second: RegExp): string {
  const declaration = onlyMatch(source, new RegExp(`^exports.${list} = \\[[^\\]]*\\];$`, 'm'));
  const [a, b] = [onlyMatch(declaration, first), onlyMatch(declaration, second)];
  return source.replace(
    declaration,
    declaration.replace(new RegExp(`${first.source}|${second.source}`, 'g'), (entry) => (entry === a ? b : a)),
  );
}

/** An entry of a list of objects, by its name. */
function named(name: string): RegExp {
  return new RegExp(`\\{\\s*name: '${name}',[^}]*\\}`);
}

interface Difference {
  readonly what: string;
  /** The property of the ABI that the reason names. */
  readonly property: string;
  readonly change: (source: string) => string;
}

const DIFFERENCES: readonly Difference[] = [
  {
    what: 'version',
    property: 'version',
    change: (source) => source.replace(onlyMatch(source, /\bVERSION = \d+/), 'VERSION = 1000'),
  },
  { what: 'order of rules', property: 'rules', change: (source) => swapped(source, 'RULES', /'coupled'/, /'pytorch'/) },
  {
    what: 'order of roles',
    property: 'roles',
    change: (source) => swapped(source, 'ROLES', named('mean'), named('variance')),
  },
  {
    what: 'order of dtype configurations',
    property: 'dtypeConfigs',
    change: (source) => swapped(source, 'DTYPE_CONFIGS', named('float32'), named('bfloat16')),
  },
  {
    what: 'order of the scalars of a step',
    property: 'stepScalars',
    change: (source) => swapped(source, 'STEP_SCALARS', /'beta1'/, /'beta2'/),
  },
  {
    what: 'order of the scalars of a group',
    property: 'groupScalars',
    change: (source) => swapped(source, 'GROUP_SCALARS', /'lr'/, /'wd'/),
  },
];

describe('an addon that was built with other tables', () => {
  const folder = temporaryFolder();

  for (const { what, property, change } of DIFFERENCES) {
    itUnless(noNative, `should be refused with a reason and one warning: another ${what}`, () => {
      const root = copyPackage(join(folder.path, property), binary);
      const path = join(root, 'dist/lib/backend/abi.js');
      writeFileSync(path, change(readFileSync(path, 'utf8')));
      expectFallback(root, new RegExp(`^the binary belongs to another version of the package\\b.*\\b${property}\\b`));
    });
  }
});
