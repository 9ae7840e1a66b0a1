#!/usr/bin/env bash
# Ouro 1.4B with random weights on this machine's CPU: start, memory, kernels beside the probes,
# and depth-wise batching against computing every loop, at the thresholds given.
#
#   bench/ouro.sh [FOLDER] [THRESHOLD...]     default: build/ouro_1.4b, thresholds 0.37 and 0.58
#
# The folder (2.9 GB) is made if it is absent. Nothing else should run on the machine.
set -eu
cd "$(dirname "$0")/.."
folder=${1:-build/ouro_1.4b}
[ $# -gt 0 ] && shift
[ $# -gt 0 ] || set -- 0.37 0.58
fathom=build/fathom
[ -f "$folder/model.safetensors" ] || $fathom init --variant ouro_1.4b --mean-depth 2.5 --out "$folder"

echo "commit $(git rev-parse --short HEAD), $(date -u +%F), $(grep -m1 'model name' /proc/cpuinfo | cut -d: -f2-), $(nproc) cores, load $(cut -d' ' -f1 /proc/loadavg)"
echo
echo "== start, memory, one sequence"
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
    $fathom bench engine --model "$folder" --exit-threshold "$threshold" --kv-memory 3G --sequences 8 \
        --prompt-tokens 12 --output-tokens 16 --repeat "${REPEAT:-1}" --modes full,depthwise 2>/dev/null
done
