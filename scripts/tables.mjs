// What the checks of machine code read from the tables in native/core/.
import { readFileSync } from 'node:fs';

const read = (name) => readFileSync(new URL(`../native/core/${name}`, import.meta.url), 'utf8');

/** The update rules, in the order of `Rule`. */
export function ruleNames() {
  const [, list] = /#define FUSED_ADAMW_RULES\(X, argument\)((?:.*\\\n)*.*)/.exec(read('adamw.h'));
  return [...list.matchAll(/X\((\w+), argument\)/g)].map(([, rule]) => rule);
}

/** The dtype configurations in their order: identifiers, and the C++ types by role. */
export function dtypeConfigs() {
  return [...read('dtype-configs.def').matchAll(/^DTYPE_CONFIG\((\w+), *"[^"]*", *(.*)\)$/gm)].map(
    ([, identifier, types]) => ({ identifier, types: types.split(/, */) }),
  );
}
