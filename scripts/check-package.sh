#!/usr/bin/env bash
# Packs what was built last and uses it as a user would: installed into an empty
# project, with and without a compiler on PATH. check-tools.mjs does so in tools.
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

package=$(node "$root/scripts/pack.mjs" "$work")

# npm pack and npm publish leave the same out of package.json while they run.
git clone -q "$root" "$work/clone"
(
  cd "$work/clone" && ln -s "$root/node_modules" node_modules && npx clean-package
  diff package.json <(tar xzOf "$package" package/package.json)
  npx clean-package restore && git diff --exit-code
)

# Nothing that npm or others would run when it is installed, a binary for each platform, and a size that is no burden.
files=$(tar tzf "$package")
for platform in linux-x64 linux-arm64 linuxmusl-x64 linuxmusl-arm64 darwin-x64 darwin-arm64 win32-x64 win32-arm64; do
  grep -qx "package/prebuilds/$platform/fused_adamw.node" <<<"$files" || { echo "no binary for $platform"; exit 1; }
done
grep '^package/prebuilds/[^/]*$' <<<"$files" | diff - <(echo package/prebuilds/fused_adamw.fatbin.br)
[ "$(grep -c 'binding\.gyp$' <<<"$files")" = 1 ] && grep -qx 'package/native/binding.gyp' <<<"$files"
grep -q '^package/native/build/' <<<"$files" && { echo 'it carries the objects of a build'; exit 1; }
tar xzOf "$package" package/package.json | node -e "
  const { gypfile, ...manifest } = JSON.parse(require('node:fs').readFileSync(0, 'utf8'));
  if (gypfile !== false) throw new Error('npm would look for a binding.gyp');
  for (const field of ['scripts', 'binary', 'devDependencies'])
    if (field in manifest) throw new Error('its package.json has ' + field);"
size=$(stat -c %s "$package")
echo "packed: $size bytes"
[ "$size" -lt 4000000 ]

# The tools of the system but its compilers.
mkdir "$work/bin"
for tool in node npm npx sh bash env uname mkdir cp; do ln -s "$(command -v $tool)" "$work/bin/$tool"; done

cat >"$work/use.mjs" <<'JS'
import { AdamW, backendInfo } from 'fused-adamw';
const weight = new Float32Array([1, -2, 3]);
const grad = new Float32Array([0.1, 0.2, -0.3]);
const optimizer = new AdamW({ learningRate: 0.01, wd: 0.01 });
const state = optimizer.createState(0, weight);
for (let step = 0; step < 3; step++) optimizer.update(0, weight, grad, state);
console.log(backendInfo().backend, [...new Uint32Array(weight.buffer)].map((bits) => bits.toString(16)).join(' '));
JS

install_into() { # folder
  set -e
  mkdir "$1" && cp "$work/use.mjs" "$1/" && cd "$1" || exit 1
  npm init -y >/dev/null && npm install --silent --no-audit --no-fund "$package"
  [ ! -e node_modules/fused-adamw/build ] || { echo 'installing built something'; exit 1; }
}

with=$(install_into "$work/with" && node use.mjs)
without=$(export PATH="$work/bin"; install_into "$work/without" && node use.mjs)
typescript=$(cd "$work/with" && FUSED_ADAMW_BACKEND=javascript node use.mjs)
echo "with a compiler:    $with"
echo "without a compiler: $without"
echo "TypeScript:         $typescript"
[ "$with" = "$without" ] && [ "${with#native }" = "${typescript#javascript }" ]
[ "${with%% *}" = native ] && [ "${typescript%% *}" = javascript ]

# npm 11 warns of packages with scripts.
mkdir "$work/npm-11" && echo '{}' >"$work/npm-11/package.json"
(cd "$work/npm-11" && npx --yes npm@11 install --no-audit --no-fund "$package" 2>"$work/warnings")
[ ! -s "$work/warnings" ] || { cat "$work/warnings"; exit 1; }

# The first example of the README, as a reader would paste it.
awk '/^```ts/ { inside = 1; next } /^```/ && inside { exit } inside' "$root/README.md" >"$work/with/readme.mjs"
(cd "$work/with" && node readme.mjs)

# The command, as npx finds it, with this node alone.
(cd "$work/without" && PATH="$work/bin" npx --no fused-adamw doctor --seconds 0.1) || { echo 'the doctor found a problem'; exit 1; }

# Without the binary the package still imports and runs, and says why.
rm -r "$work/without/node_modules/fused-adamw/prebuilds"
bare=$(cd "$work/without" && node use.mjs 2>"$work/warning")
[ "${bare#javascript }" = "${with#native }" ] || { echo "without the binary: $bare"; exit 1; }
grep -q FUSED_ADAMW_FALLBACK "$work/warning" || { echo 'no warning of the fallback'; exit 1; }
if (cd "$work/without" && npx --no fused-adamw doctor --seconds 0); then
  echo 'the doctor found no problem without the binary'
  exit 1
fi

# Then it can be compiled in place; without a compiler that is one line.
failed=$(cd "$work/without" && CC=/nonexistent CXX=/nonexistent npx --no fused-adamw build) && exit 1
echo "$failed"
[ "$(wc -l <<<"$failed")" = 1 ]
(cd "$work/without" && npx --no fused-adamw build)
built=$(cd "$work/without" && node use.mjs)
[ "$built" = "$with" ] || { echo "compiled in place: $built"; exit 1; }

echo 'the package works'
