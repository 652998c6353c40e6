// Prints the folder of libomp on macOS (Homebrew's), or nothing: binding.gyp asks.
import { existsSync } from 'node:fs';

const folders = ['/opt/homebrew/opt/libomp', '/usr/local/opt/libomp'];
const found = process.platform === 'darwin' ? folders.find((at) => existsSync(`${at}/lib/libomp.dylib`)) : undefined;
console.log(found ?? '');
