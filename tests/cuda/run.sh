#!/usr/bin/env bash
# The CUDA tests. Everywhere: all kernels and the whole backend on the CPU, through the shim,
# under ASan and UBSan. Where nvcc is: the self-test is built too and run, which skips itself
# without a device. Exit 0 ok, 77 if neither can be built here.
set -u
cd "$(dirname "$0")/../.."
if [ "$(uname -m)" != x86_64 ] || ! command -v g++ >/dev/null; then
    echo "skipped: the shim needs g++ on x86-64"
    exit 77
fi
jobs=$(nproc)
make -j"$jobs" --no-print-directory -f tests/cuda/shim.mk all || exit 1
# A group a process, from the last: the long ones stand there. The kernels whose shared memory may not
# fit run again with what a thread block has on other devices.
selftest=build/cuda-shim/selftest logs=build/cuda-shim/logs
rm -rf $logs
mkdir -p $logs
runs=$(
    $selftest --list | tac | sed 's/^/227 /'
    printf '99 %s\n' attention flash sample limits errors
    printf '163 %s\n' flash limits errors
)
# shellcheck disable=SC2016
xargs -P "$jobs" -L 1 sh -c 'SHIM_SHARED_KB=$2 $0 $3 >$1/$2-$3 2>&1 || { echo "with $2 KB of shared memory:"; cat $1/$2-$3; exit 1; }' \
    $selftest $logs <<<"$runs" || exit 1
for kb in 227 163 99; do
    for group in $($selftest --list); do
        [ ! -e "$logs/$kb-$group" ] || grep "^$group " "$logs/$kb-$group"
    done | awk -v kb=$kb '{print; n += $2} END {print n " checks with " kb " KB of shared memory, 0 failed"}'
done
# The benchmarks' programs run too, at sizes that measure nothing.
for variant in tiny ouro_tiny huginn_tiny parcae_tiny; do
    build/cuda-shim/kernel-bench "$variant" 70 >/dev/null || exit 1
done
for model in tests/golden/cases/mla tests/golden/families/{ouro,huginn,parcae}; do
    build/cuda-shim/step-bench "$model" 70 1,3 >/dev/null || exit 1
done
# The script for a GPU machine, through its gate, with the shim's programs for the device's.
if command -v python3 >/dev/null && [ -x build/fathom ]; then
    bench/tools/cuda/first_gpu.py --kit . --programs build/cuda-shim:build --device cpu --variant tiny --context 70 --rows 1 --groups ahead \
        --only selftest,steps,engine,http --work build/cuda-shim/work --out build/cuda-shim/first-gpu || exit 1
fi
if [ "${CUDA:-auto}" != 0 ] && { command -v nvcc >/dev/null || [ -x /usr/local/cuda/bin/nvcc ]; }; then
    make -j"$jobs" --no-print-directory build/fathom-cuda-selftest >/dev/null || exit 1
    said=$(build/fathom-cuda-selftest)
    rc=$?
    echo "on the device: $(tail -1 <<<"$said")"
    [ $rc -eq 0 ] || { echo "$said"; exit 1; }
    tests/cuda/sass/run.sh || exit 1
fi
exit 0
