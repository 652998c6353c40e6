#!/usr/bin/env bash
# Builds binaries of prebuilds/ again, in another folder and without a cache:
# the same sources give the same bytes.
#
#   scripts/check-prebuild.sh TARGET...
set -euo pipefail
cd "$(dirname "$0")/.."
root=$PWD
copy=$(mktemp -d)
trap 'rm -rf "$copy"' EXIT

git ls-files -co --exclude-standard native scripts package.json | tar cf - -T - | tar xf - -C "$copy"
mkdir -p "$copy/node_modules" "$copy/.zig"
cp -r node_modules/node-addon-api node_modules/node-api-headers "$copy/node_modules"
ln -s "$root"/.zig/ziglang==* "$copy/.zig" # the compiler, and not what it keeps

(cd "$copy" && node scripts/prebuild.mjs --required "$@")
for target; do cmp "$copy/prebuilds/$target/fused_adamw.node" "prebuilds/$target/fused_adamw.node"; done
echo "the same bytes: $*"
