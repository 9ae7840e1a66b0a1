#!/bin/sh
# Prints a table of every kernel's registers, spills, stack and barriers per target, read from
# what ptxas said while build/fathom-cuda.so was made:
#   tools/cuda_registers.sh > bench/results/2026-11-28-nvcc13/registers.txt
# Exit status 1 if a kernel spills.
set -u
cd "$(dirname "$0")/.." || exit 2
files=$(find build/cuda/engine/cuda -name '*.ptxas' 2>/dev/null | sort)
[ -n "$files" ] || { echo "no ptxas output: run 'make CUDA=1' first" >&2; exit 2; }
# shellcheck disable=SC2086
table=$(cat $files | c++filt 2>/dev/null | awk '
    /Compiling entry function/ {
        split($0, part, "\047")
        kernel = part[2]; target = part[4]
        sub(/\(.*/, "", kernel); sub(/^void /, "", kernel)
    }
    /bytes stack frame/ { stack = $1; stores = $5; loads = $9 }
    /Used [0-9]+ registers/ {
        for (i = 1; i <= NF; i++) if ($i == "Used") regs = $(i + 1)
        printf "%-44s %-8s %4d registers %4d stack %4d spill stores %4d spill loads\n", kernel, target, regs, stack, stores, loads
    }' | sort)
echo "$table"
! echo "$table" | grep -qv ' 0 spill stores    0 spill loads'
