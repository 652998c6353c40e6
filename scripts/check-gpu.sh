#!/usr/bin/env bash
# The checks that need a GPU: the tests, NVIDIA's sanitizer over them, probes, one
# launch a step, and the speed beside PyTorch. Needs a built package with the device
# code (npm ci && npm run build:cuda), compute-sanitizer, nsys, and python3 with
# torch; a check whose tool is missing fails.
#
#   scripts/check-gpu.sh [NODE]
set -uo pipefail
cd "$(dirname "$0")/.." || exit 1
node=${1:-node}
mocha=(node_modules/mocha/bin/mocha.js --timeout 600000)
passed=0 failed=0

check() { # name command...
  local name=$1
  shift
  echo "--- $name"
  if "$@"; then passed=$((passed + 1)); else
    failed=$((failed + 1))
    echo "--- FAILED: $name"
  fi
}

has() { # command
  command -v "$1" >/dev/null || { echo "there is no $1"; return 1; }
}

gpu() {
  "$node" --input-type=module -e '
    const { cuda } = (await import("./dist/lib/index.js")).backendInfo();
    console.log(cuda);
    if (!cuda.available) process.exit(1);'
}

sanitizer() { # tool
  has compute-sanitizer && compute-sanitizer --tool "$1" --target-processes all --error-exitcode 9 "$node" "${mocha[@]}" \
    --grep 'see fresh gradients|by step\(\)|take and give values|on a given stream|at addresses|over 40 steps|the same bits on a GPU' \
    dist/test/20.*.test.js dist/test/55.*.test.js dist/test/90.*.test.js
}

# Ten steps over 148 tensors: ten launches, no waiting and no copy to the host among them. Ten more about which the device
# decides: five launches and a small copy to the host for each, and no waiting but for the oldest of more than eight.
profile() {
  local folder
  folder=$(mktemp -d)
  has nsys && nsys profile --trace cuda --force-overwrite true -o "$folder/steps" "$node" scripts/ten-steps.mjs &&
    nsys stats --report cuda_api_sum,cuda_gpu_kern_sum,cuda_gpu_mem_size_sum "$folder/steps.nsys-rep"
}

check 'a GPU can be used' gpu
check 'the tests' "$node" "${mocha[@]}" dist/test/17.*.test.js dist/test/20.*.test.js \
  dist/test/5[56].*.test.js dist/test/70.*.test.js dist/test/90.*.test.js
check 'memcheck' sanitizer memcheck
check 'initcheck' sanitizer initcheck
check "the probes, without the driver's cache of translated code" \
  env CUDA_CACHE_DISABLE=1 "$node" --no-warnings scripts/gpu-probes.mjs
check 'launches and copies of ten steps' profile
check 'speed beside a copy on the device and PyTorch' "$node" --no-warnings dist/bench/cuda.js
echo "$passed passed, $failed failed"
[ "$failed" = 0 ]
