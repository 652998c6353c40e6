// Mocha in this process: its own program starts another for node's options, which an emulator does not start.
import { main } from 'mocha/lib/cli/cli.js';

main(['--no-config', '--exit', '--timeout', '600000', ...process.argv.slice(2)]);
