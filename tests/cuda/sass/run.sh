#!/usr/bin/env bash
# The guard over the kernels' machine code: it sees loads that the compiler moved behind a branch,
# the engine's kernels keep its rules, and none spills on any target. Needs nvcc and no device.
# Exit 0 ok, 77 without nvcc.
set -u
cd "$(dirname "$0")/../../.."
nvcc=$(command -v nvcc || echo /usr/local/cuda/bin/nvcc)
[ -x "$nvcc" ] || { echo "skipped: no nvcc"; exit 77; }
cubin=build/cuda/cubin/test.order_of_loads
mkdir -p build/cuda/cubin
"$nvcc" -std=c++17 -O3 -I. -arch=sm_90a -cubin -o $cubin tests/cuda/sass/order_of_loads.cu || exit 1
said=$(tools/cuda_sass.py $cubin)
if [ $? -ne 1 ] || ! grep -q '^BROKEN mm_bf16_late: [0-5] loads' <<<"$said" || grep -q '^BROKEN mm_bf16_early' <<<"$said"; then
    printf 'the guard does not tell late loads from early ones:\n%s\n' "$said"
    exit 1
fi
tools/cuda_registers.sh >build/cuda/registers.log || { grep -v ' 0 spill stores    0 spill loads' build/cuda/registers.log; exit 1; }
make --no-print-directory cuda-sass >build/cuda/sass.log || { grep BROKEN build/cuda/sass.log; exit 1; }
echo "machine code: $(($(wc -l <build/cuda/sass.log) - 1)) kernels, no rule broken"
