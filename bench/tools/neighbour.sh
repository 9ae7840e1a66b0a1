#!/bin/bash
# What a busy neighbour on one core costs the compute pool. In turns: one thread and all
# threads, alone and beside a loop pinned to the last core. The figure is GB/s of a
# weight-bound product; the medians are of ratios within a round. A pool with static shares
# falls below one thread as soon as a core is shared; this one must not.
# usage: bench/tools/neighbour.sh [rounds]
set -u
cd "$(dirname "$0")/../.." || exit 2
rounds=${1:-5}
all=$(nproc)
rate() { # threads -> GB/s of the bf16 product with one row
    build/fathom bench kernels --what gemm --rows 1 --threads "$1" --json |
        jq -r '.runs[] | select(.dtype == "BF16") | .gb_per_s'
}
ratio() { awk -v a="$1" -v b="$2" 'BEGIN {print a / b}'; }
median() { printf '%s\n' "$@" | sort -g | awk '{v[NR] = $1} END {print v[int((NR + 1) / 2)]}'; }
alone=() ; beside=() ; cost=()
for ((i = 0; i < rounds; i++)); do
    one=$(rate 1)
    many=$(rate "$all")
    taskset -c $((all - 1)) sh -c 'while :; do :; done' &
    loop=$!
    one_beside=$(rate 1)
    many_beside=$(rate "$all")
    kill "$loop"
    wait "$loop" 2>/dev/null
    echo "round $i: alone $one and $many GB/s, beside a neighbour $one_beside and $many_beside GB/s (1 and $all threads)"
    alone+=("$(ratio "$many" "$one")")
    beside+=("$(ratio "$many_beside" "$one_beside")")
    cost+=("$(ratio "$many_beside" "$many")")
done
echo "medians: $all threads to one: alone $(median "${alone[@]}"), beside a neighbour $(median "${beside[@]}"); neighbour to alone, $all threads: $(median "${cost[@]}")"
