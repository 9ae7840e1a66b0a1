#!/bin/sh
# `fathom bench engine` and `fathom compare` on the demo model: what they print is whole, and
# every mode of one policy puts out the same tokens.
set -eu
cd "$(dirname "$0")/../.."
fathom=build/fathom
out=$(mktemp -d)
trap 'rm -rf "$out"' EXIT
fail() { echo "FAIL: $*"; exit 1; }

"$fathom" bench engine --model models/demo --device cpu --sequences 2,6 --repeat 1 --prompt-tokens 12 \
    --output-tokens 12 --json >"$out/bench.json" 2>/dev/null
jq -e '.runs | length == 10' "$out/bench.json" >/dev/null || fail "not ten runs"
jq -e '[.runs[].tokens_differing] | add == 0' "$out/bench.json" >/dev/null || fail "tokens differ between modes"
jq -e '[.runs[] | select(.tokens_compared > 0)] | length >= 6' "$out/bench.json" >/dev/null || fail "nothing compared"
jq -e 'all(.runs[]; .tokens_per_s > 0 and .ratio_to_full > 0 and .bound_ratio > 0 and .percent_of_bound > 0
    and .cache_bytes > 0 and .mean_depth >= 1 and .mean_depth <= .max_loops
    and (.depth_histogram | add) == .positions)' "$out/bench.json" >/dev/null || fail "a figure is off"
jq -e '[.runs[] | select(.policy == "last") | .cache_bytes < .cache_bytes_all_loops] | all' "$out/bench.json" \
    >/dev/null || fail "last stores every loop"

"$fathom" compare --model models/demo --device cpu --text models/demo/held_out.txt --first 1024 --at-loops 1 \
    --json >"$out/compare.json" 2>/dev/null
jq -e '.runs[0].mean_kl == 0 and .runs[0].top1_agreement == 1' "$out/compare.json" >/dev/null || fail "exact is not itself"
jq -e '.runs[1].policy == "last" and .runs[1].mean_kl < 0.001 and .runs[1].top1_agreement > 0.98' \
    "$out/compare.json" >/dev/null || fail "last is far from exact"
jq -e '.runs[2].mean_depth == 1 and .runs[2].mean_kl > 0.5' "$out/compare.json" >/dev/null || fail "one loop costs nothing"

for bad in "bench engine --model models/demo --sequences 0" "bench engine --model models/demo --modes none" \
    "bench engine --model models/demo --sequences 2 --prompt-tokens 900 --output-tokens 900" \
    "bench engine --model models/demo --clock cpu" "compare --model models/demo --text nowhere" \
    "compare --model models/demo --text models/demo/held_out.txt --at-loops 0" \
    "compare --model models/demo --text models/demo/held_out.txt --window 2000"; do
    # shellcheck disable=SC2086
    if "$fathom" $bad --device cpu >/dev/null 2>&1; then fail "accepted: $bad"; fi
done
echo "bench engine and compare: ok"
