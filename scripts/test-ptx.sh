#!/usr/bin/env bash
# Runs what NVIDIA's compiler made of the kernels: their PTX, translated to C++ and run for every thread by the stand-in
# for the driver in the place of its own kernels, and compared bit for bit with the CPU and with golden data. At the end
# faults are planted into the PTX, each of which the comparison must find. Needs a C++ compiler, CMake and GoogleTest.
#
#   scripts/test-ptx.sh
set -euo pipefail
cd "$(dirname "$0")/.."

build=build/ptx
{
  node scripts/build-cuda.mjs --required
  cmake -S . -B $build -DCMAKE_BUILD_TYPE=Debug -DFUSED_ADAMW_TESTS=ON
  cmake --build $build --parallel 2 --target cuda_tests
} >&2
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
export LD_LIBRARY_PATH=$PWD/$build/stand-in-driver FUSED_ADAMW_STAND_IN_DELAY=0
export FUSED_ADAMW_STAND_IN_KERNELS=$work/kernels.so

translate() { # file
  node scripts/ptx-to-cc.mjs "$1" >"$work/kernels.cc"
  "${CXX:-c++}" -std=c++17 -O2 -ffp-contract=off -fno-math-errno -fno-trapping-math -fPIC -shared -Inative \
    -Itest/native/cuda "$work/kernels.cc" -o "$FUSED_ADAMW_STAND_IN_KERNELS"
}

compare() { # tests
  FUSED_ADAMW_STAND_IN_DEVICES=2 $build/cuda_tests --gtest_brief=1 --gtest_filter="$1"
}

for ptx in .cuda/ptx/compute_*.ptx; do
  echo "$ptx"
  translate "$ptx"
  compare '*Steps.*:StepsInOneLaunch.*:StepsOf.*'
done
# Of the last, which is the one that the package carries.
npx mocha --timeout 300000 dist/test/20.*.test.js dist/test/70.*.test.js dist/test/90.*.test.js

fault() { # what, pattern, replacement in the kernel's first line that matches
  sed "/ adamw_mxnet_bfloat16(/,/$2/s/$2/$3/" "$original" >"$work/faulty.ptx"
  ! cmp -s "$original" "$work/faulty.ptx" || { echo "$1: there is no $2"; return 1; }
}
expect_found() { # what, pattern, replacement
  fault "$@"
  translate "$work/faulty.ptx"
  if compare '*Steps.EqualTheCpu*/LegacyStream' >"$work/log" 2>&1 || ! grep -q 'FAILED.*EqualTheCpu' "$work/log"; then
    cat "$work/log"
    echo "$1 was not found"
    exit 1
  fi
  echo "$1 was found"
}
expect_refused() { # what, pattern, replacement
  fault "$@"
  ! node scripts/ptx-to-cc.mjs "$work/faulty.ptx" >"$work/kernels.cc" || { echo "$1 was translated"; exit 1; }
}
original=.cuda/ptx/compute_75.ptx
expect_found 'a difference for a sum' 'add\.rn\.f32' 'sub.rn.f32'
expect_found 'a wrong constant in rounding to bfloat16' ', 32767;' ', 16383;'
expect_found 'a condition the wrong way round' 'setp\.nan\.f32' 'setp.num.f32'
expect_found 'other random bits' '\(shf\.l\.wrap\.b32.*\), [0-9]*;' '\1, 3;'
expect_refused 'a division that is rounded to zero' 'div\.rn\.f32' 'div.rz.f32'
echo 'the PTX computes what the CPU does, and faults in it are found'
