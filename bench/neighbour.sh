#!/bin/bash
# What a busy neighbour on one core costs the compute pool. In turns: one thread alone, all
# threads alone, all threads beside a loop pinned to the last core. Prints GB/s of a
# weight-bound product and medians of the ratios to all threads alone. A pool with static
# shares falls below one thread; the fair share beside the loop is (cores - 0.5) / cores.
# usage: bench/neighbour.sh [rounds]
set -u
cd "$(dirname "$0")/.." || exit 2
rounds=${1:-5}
fathom=build/fathom
last=$(($(nproc) - 1))
rate() { # threads -> GB/s of the bf16 product with one row
    "$fathom" bench kernels --what gemm --rows 1 --threads "$1" --json |
        jq -r '.runs[] | select(.dtype == "BF16" and .rows == 1) | .gb_per_s'
}
median() { sort -g | awk '{v[NR] = $1} END {print v[int((NR + 1) / 2)]}'; }
one=() ; busy=()
for ((i = 0; i < rounds; i++)); do
    a=$(rate 1)
    b=$(rate "$(nproc)")
    taskset -c "$last" sh -c 'while :; do :; done' &
    loop=$!
    c=$(rate "$(nproc)")
    kill "$loop"
    wait "$loop" 2>/dev/null
    echo "round $i: one thread $a, $(nproc) threads $b, $(nproc) threads and a neighbour $c GB/s"
    one+=("$(echo "$a $b" | awk '{print $1 / $2}')")
    busy+=("$(echo "$c $b" | awk '{print $1 / $2}')")
done
echo "median of the ratio to $(nproc) threads alone: one thread $(printf '%s\n' "${one[@]}" | median), beside a neighbour $(printf '%s\n' "${busy[@]}" | median)"
