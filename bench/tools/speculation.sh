#!/bin/sh
# Speculation against the plain run, side by side in one run: one stream and several, on models with random weights, on hops, and on a
# simulated H100 with the costs of bench/reports/h100.md.
#   bench/tools/speculation.sh OUT [wall|cpu]     cpu: one thread by its processor time, for a machine that others use
# MODELS: what to measure, of b (111 M weights), mythos8, mythos16, ouro, hops, h100 (default: all). STREAMS: default 1,8,32.
# REPEAT: runs of each mode in turn (default 3). TOKENS: mean output length (default 32). WEIGHTS: a folder for 5.2 GB of weights, made if
# they are absent (default: a temporary one). SPECULATE: default off,auto. SIMULATED_TOKENS: mean output length on the H100 (default 64).
# FATHOM: the program (default build/fathom). Writes OUT/speculation-*.txt.
set -eu
[ $# -ge 1 ] || { sed -n '2,9s/^# \{0,1\}//p' "$0"; exit 2; }
mkdir -p "$1"
out=$(cd "$1" && pwd)
clock=${2:-wall}
models=${MODELS:-b mythos8 mythos16 ouro hops h100}
weights=${WEIGHTS:-}
cd "$(dirname "$0")/../.."
fathom=${FATHOM:-build/fathom}
case $clock in
wall) engine="--device cpu --clock wall" ;;
cpu) engine="--device cpu --clock cpu --threads 1" ;;
*) echo "speculation.sh: wall or cpu, not '$clock'" >&2; exit 2 ;;
esac
if [ -z "$weights" ]; then
    weights=$(mktemp -d)
    trap 'rm -rf "$weights"' EXIT
    trap 'exit 1' INT TERM
fi
common="--max-concurrency ${STREAMS:-1,8,32} --repeat ${REPEAT:-3} --speculate ${SPECULATE:-off,auto}"
lengths="--input-len 16 --output-len ${TOKENS:-32}"

made() { # NAME OPTIONS...
    folder=$weights/$1
    shift
    [ -e "$folder/config.json" ] || "$fathom" init "$@" --agreement 0.94 --out "$folder" >/dev/null
}
made_mythos() { made mythos --variant mythos_1b --mean-depth 16; }
made_ouro() { made ouro --variant ouro_1.4b; }
run() { # OUTPUT OPTIONS...
    text=$out/speculation-$1.txt
    shift
    # shellcheck disable=SC2086
    "$fathom" bench engine $common "$@" >>"$text" 2>"$out/error" || { cat "$out/error"; exit 1; }
    rm "$out/error"
}
# For each agreement after loop 1, with one launch at once and with two. Of the folder only the shape counts.
simulated() { # OUTPUT FOLDER LOOPS COSTS
    for agreement in 0.8 0.94 1; do
        for flights in 1 2; do
            echo "agreement $agreement after loop 1, $flights launches at once" >>"$out/speculation-$1.txt"
            run "$1" --model "$weights/$2" --simulate --flights $flights --costs "$4" --max-loops "$3" --mean-depth "$3" \
                --agreement $agreement --modes depthwise/exact --input-len 64 --output-len "${SIMULATED_TOKENS:-64}" --rounds 4 --kv-memory 40G
        done
    done
}

for model in $models; do
    case $model in h100) rm -f "$out"/speculation-h100-*.txt ;; *) rm -f "$out/speculation-$model.txt" ;; esac
    # shellcheck disable=SC2086
    case $model in
    b)
        made b --config-json bench/tools/configs/depthwise-b.json --mean-depth 16
        run b --model "$weights/b" $engine --modes depthwise/exact $lengths ;;
    mythos8 | mythos16)
        made_mythos
        run "$model" --model "$weights/mythos" $engine --max-loops "${model#mythos}" --modes depthwise/exact $lengths ;;
    ouro)
        made_ouro
        run ouro --model "$weights/ouro" $engine --modes depthwise/exact $lengths ;;
    hops) run hops --model models/hops $engine --prompts models/hops/questions.jsonl --output-len 16 --modes depthwise ;;
    h100)
        mythos='prelude=111233,352 recurrent=145077,1264,5237 coda=185881,384 host=2049,321'
        made_mythos
        made_ouro
        simulated h100-mythos8 mythos 8 "$mythos"
        simulated h100-mythos16 mythos 16 "$mythos"
        simulated h100-ouro ouro 4 'prelude=7700,70 recurrent=1406000,23400 coda=101900,125 host=2049,321' ;;
    *) echo "speculation.sh: no model '$model'" >&2; exit 2 ;;
    esac
done
