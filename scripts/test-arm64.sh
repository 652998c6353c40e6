#!/bin/sh
# Builds the native tests for arm64 and runs them under emulation. Needs the
# cross compiler, QEMU's user-mode emulator and GoogleTest's sources; on Debian
# g++-aarch64-linux-gnu, qemu-user-static, googletest, cmake and make.
#
#   scripts/test-arm64.sh [arguments of the tests]
set -eu
cd "$(dirname "$0")/.."

sysroot=${ARM64_SYSROOT:-/usr/aarch64-linux-gnu}
googletest=${GOOGLETEST:-/usr/src/googletest}
build=build/arm64
cross="-DCMAKE_SYSTEM_NAME=Linux -DCMAKE_SYSTEM_PROCESSOR=aarch64 -DCMAKE_CXX_COMPILER=aarch64-linux-gnu-g++
  -DCMAKE_C_COMPILER=aarch64-linux-gnu-gcc"

for command in cmake aarch64-linux-gnu-g++ qemu-aarch64-static; do
  command -v $command >/dev/null || { echo "test-arm64: there is no $command" >&2; exit 1; }
done
[ -f "$googletest/CMakeLists.txt" ] || { echo "test-arm64: there are no sources in $googletest" >&2; exit 1; }

# shellcheck disable=SC2086 # $cross is several arguments
{
  cmake --no-warn-unused-cli -S "$googletest" -B $build/googletest $cross -DCMAKE_INSTALL_PREFIX="$PWD/$build/prefix" -DBUILD_GMOCK=OFF
  cmake --build $build/googletest --parallel 2 --target install
  cmake --no-warn-unused-cli -S . -B $build/tests $cross -DFUSED_ADAMW_TESTS=ON -DCMAKE_PREFIX_PATH="$PWD/$build/prefix"
  cmake --build $build/tests --parallel 2 --target native_tests
} >&2
exec qemu-aarch64-static -L "$sysroot" $build/tests/native_tests --gtest_brief=1 "$@"
