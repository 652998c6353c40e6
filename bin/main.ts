#!/usr/bin/env node
/** The command `fused-adamw`, of which each subcommand is a module. */
import * as build from './build.js';
import * as doctor from './doctor.js';

interface Command {
  /** What it does, in a line of the usage. */
  readonly summary: string;
  /** @returns the exit status */
  main(args: readonly string[]): Promise<number>;
}

const COMMANDS: ReadonlyMap<string, Command> = new Map(Object.entries({ build, doctor }));

function usage(): string {
  const lines = [...COMMANDS].map(([name, { summary }]) => `  ${name.padEnd(10)}${summary}`);
  return `Usage: fused-adamw COMMAND [options]\n\n${lines.join('\n')}\n\nfused-adamw COMMAND --help lists the options.`;
}

async function main([name, ...args]: readonly string[]): Promise<number> {
  const command = COMMANDS.get(name ?? '');
  if (command) return command.main(args);
  if (name === '--help') {
    console.log(usage());
    return 0;
  }
  const expected = [...COMMANDS.keys()].join(' or ');
  console.error(
    `Expected ${expected} for COMMAND but received ${name === undefined ? 'nothing' : JSON.stringify(name)}`,
  );
  console.error(usage());
  return 2;
}

process.exitCode = await main(process.argv.slice(2));
