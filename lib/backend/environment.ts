/** An environment variable; undefined also where the process may not read it, as under Deno without --allow-env. */
export function environment(name: string): string | undefined {
  try {
    return process.env[name];
  } catch {
    return undefined;
  }
}
