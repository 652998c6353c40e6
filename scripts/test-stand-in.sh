#!/usr/bin/env bash
# Runs the tests that need a GPU over the stand-in for the driver, which runs
# the kernels on the host, so everything but GPU machine code is tested. Needs a
# C++ compiler, CMake, GoogleTest and the device code (npm run build:cuda).
#
#   scripts/test-stand-in.sh [options of mocha]
set -euo pipefail
cd "$(dirname "$0")/.."

build=build/stand-in
{
  cmake -S . -B $build -DFUSED_ADAMW_TESTS=ON
  cmake --build $build --parallel 2 --target stand-in-driver
} >&2
export LD_LIBRARY_PATH=$PWD/$build/stand-in-driver
export FUSED_ADAMW_STAND_IN_DELAY=${FUSED_ADAMW_STAND_IN_DELAY:-20}

node --input-type=module -e '
  const { cuda } = (await import("./dist/lib/index.js")).backendInfo();
  if (!cuda.available) throw new Error("the stand-in is not taken for a GPU: " + cuda.reason);'
npx mocha --timeout 300000 "$@" \
  dist/test/17.*.test.js dist/test/20.*.test.js dist/test/5[56].*.test.js dist/test/65.*.test.js dist/test/70.*.test.js \
  dist/test/90.*.test.js
# That they run; what they measure means nothing here.
node --no-warnings scripts/gpu-probes.mjs --elements 10000 --report
# What needs a second device.
FUSED_ADAMW_STAND_IN_DEVICES=2 npx mocha --grep 'from one GPU to another|two GPUs' \
  dist/test/90.*.test.js
