#!/usr/bin/env bash
# A published model's size with random weights on this machine's CPU: start, memory, kernels beside
# the probes, and depth-wise batching against computing every loop, at the exit thresholds given.
#
#   bench/tools/family.sh VARIANT [THRESHOLD...]
#
#   bench/tools/family.sh ouro_1.4b 0.37 0.58
#   PROMPT=4 OUTPUT=8 bench/tools/family.sh huginn_0125 0.05
#   bench/tools/family.sh nanbeige_3b
#
# MEAN_DEPTH     mean loops of the random weights (ouro_1.4b: 2.5; else as fathom init chooses)
# SEQUENCES, PROMPT, OUTPUT, REPEAT    of the comparison (default 8, 12, 16 tokens, 1)
# KV             memory for the cache (default 3G)
#
# The folder build/VARIANT, the model in bfloat16, is made if it is absent. Nothing else should run
# on the machine.
set -eu
cd "$(dirname "$0")/../.."
variant=${1:?usage: bench/tools/family.sh VARIANT [THRESHOLD...]}
shift
folder=build/$variant
fathom=build/fathom
depth=${MEAN_DEPTH:-}
[ -n "$depth" ] || [ "$variant" != ouro_1.4b ] || depth=2.5
[ -f "$folder/model.safetensors" ] || $fathom init --variant "$variant" ${depth:+--mean-depth $depth} --out "$folder"

echo "commit $(git rev-parse --short HEAD), $(date -u +%F), $(grep -m1 'model name' /proc/cpuinfo | cut -d: -f2-), $(nproc) cores, load $(cut -d' ' -f1 /proc/loadavg)"
echo
echo "== start, memory, one sequence of 24 tokens"
/usr/bin/env time -f '%e s in all, %M kB at most' $fathom generate --model "$folder" --ids "1 2 3 4 5 6 7 8" \
    --max-tokens 24 --kv-memory 1G 2>&1 | grep -v packing || true
echo
echo "== kernels"
kernels() { $fathom bench kernels --model "$folder" --threads 2 --what "$@"; }
kernels 'recurrent step' --rows 1
kernels 'recurrent step' --rows 8
kernels attention --rows 1
kernels feed-forward --rows 1
kernels 'coda and head' --rows 1
kernels 'recurrent prompt'
for threshold; do
    echo
    echo "== exit threshold $threshold"
    $fathom bench engine --model "$folder" --exit-threshold "$threshold" --kv-memory "${KV:-3G}" \
        --sequences "${SEQUENCES:-8}" --prompt-tokens "${PROMPT:-12}" --output-tokens "${OUTPUT:-16}" \
        --repeat "${REPEAT:-1}" --modes full,depthwise 2>/dev/null
done
