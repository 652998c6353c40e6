#!/usr/bin/env bash
# Runs the tests that use the addon's memory on one that is built with
# AddressSanitizer and UndefinedBehaviorSanitizer (GCC, or a CC and CXX that take
# the same flags). Their output comes only where something fails.
#
#   scripts/test-sanitized.sh [options of mocha other than --grep]
set -euo pipefail
cd "$(dirname "$0")/.."

build=build/sanitized
log=$(mktemp)
trap 'rm -f "$log"' EXIT
quietly() {
  "$@" >"$log" 2>&1 || {
    cat "$log"
    exit 1
  }
}
quietly npx cmake-js compile --out $build --parallel 2 --CDFUSED_ADAMW_SANITIZE=address,undefined
FUSED_ADAMW_SKIP_ADDON=1 quietly node scripts/build.mjs

# node itself is not built with it: the runtime must be there before anything is allocated, and the one of C++ with it.
library() { "${CC:-cc}" -print-file-name="$1"; }
export FUSED_ADAMW_BINARY=$build/Release/fused_adamw.node FUSED_ADAMW_BACKEND=native
export ASAN_OPTIONS=detect_leaks=0:allocator_may_return_null=1:quarantine_size_mb=16 UBSAN_OPTIONS=print_stacktrace=1
tests=(dist/test/{1?,2?,3[0678],41,43,44,5[1356],6[01678],7?}.*.test.js)
# AddressSanitizer keeps memory that was freed for a while, so how much the process has says nothing, and its frames make
# a search for the stack's end slow. What runs in TypeScript alone is left out.
left_out='should not leak memory|TypeScript|an overflow of the stack|every depth of the stack'
LD_PRELOAD="$(library libasan.so):$(library libstdc++.so)" quietly node node_modules/mocha/bin/mocha.js \
  --timeout 600000 --invert --grep "$left_out" "$@" "${tests[@]}"
