#!/bin/sh
# What loops are for, measured on the hops model: right answers by loops, batching of real questions, and request rates.
#   bench/tools/hops.sh OUT [wall|cpu]      cpu: one thread by its processor time, for a machine that others use
# ROUNDS: how often each question is asked (default 10).
# Writes OUT/hops-*.txt and OUT/hops-*.svg. Needs gnuplot, curl and jq. Some minutes on two quiet cores.
set -eu
[ $# -ge 1 ] || { sed -n '2,5s/^# \{0,1\}//p' "$0"; exit 2; }
mkdir -p "$1"
out=$(cd "$1" && pwd)
clock=${2:-wall}
rounds=${ROUNDS:-10}
cd "$(dirname "$0")/../.."
fathom=build/fathom model=models/hops questions=models/hops/questions.jsonl
case $clock in
wall) engine="--clock wall" ;;
cpu) engine="--clock cpu --threads 1" ;;
*) echo "hops.sh: wall or cpu, not '$clock'" >&2; exit 2 ;;
esac

"$fathom" compare --model $model --questions $questions --plot "$out/hops-staircase.svg" >"$out/hops-compare.txt"

# shellcheck disable=SC2086
"$fathom" bench engine --model $model --prompts $questions --sequences 8,32,64 --rounds "$rounds" --repeat 3 $engine \
    --plot "$out/hops-engine.svg" >"$out/hops-engine.txt"
# The same questions again and again, as a server with a prefix cache sees them.
# shellcheck disable=SC2086
"$fathom" bench engine --model $model --prompts $questions --sequences 8,32,64 --rounds "$rounds" --repeat 3 --prefix-cache $engine \
    --plot "$out/hops-engine-cached.svg" >"$out/hops-engine-cached.txt"

dir=$(mktemp -d)
server=
trap '[ -z "$server" ] || kill "$server"; rm -rf "$dir"' EXIT
trap 'exit 1' INT TERM
jq -c '{prompt, output_tokens: 8}' $questions >"$dir/prompts.jsonl"
"$fathom" serve --model $model --port 0 >"$dir/log" 2>&1 &
server=$!
url=
for _ in $(seq 100); do
    url=$(sed -n 's/.*listening on \(http:[^ ,]*\).*/\1/p' "$dir/log" | head -1)
    [ -n "$url" ] && curl -fs "$url/ready" >/dev/null && break
    sleep 0.1
done
"$fathom" bench --url "$url" --dataset-name custom --dataset-path "$dir/prompts.jsonl" --rates 100,200,400,800,1600,3200 \
    --rate-seconds 5 --return-depth --disable-tqdm --plot "$out/hops-rates.svg" >"$dir/rates.txt"
sed -n '/^ *rate /,$p' "$dir/rates.txt" >"$out/hops-rates.txt"
