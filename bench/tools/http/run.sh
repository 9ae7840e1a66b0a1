#!/usr/bin/env bash
# What HTTP costs, with the model taken out: a backend without arithmetic behind the real
# server, `fathom bench` in front. Processor time per token is the figure to compare: it holds
# on a machine that others use too. Wall-clock rates are shown beside the ceiling of the
# load generator, measured in the same run against bench/tools/http/sse_blast.c.
#
#   bench/tools/http/run.sh [OUT.md]      plots go beside OUT.md; ROUNDS=3 STREAMS=256 TOKENS=1500
set -eu
cd "$(dirname "$0")/../../.."
out=${1:-build/bench-http.md}
dir=$(dirname "$out")
rounds=${ROUNDS:-3} streams=${STREAMS:-256} tokens=${TOKENS:-900}
port=${PORT:-18480}
tmp=$(mktemp -d)
pids=()
trap 'for p in "${pids[@]}"; do kill "$p" 2>/dev/null || true; done; rm -rf "$tmp"' EXIT
mkdir -p "$dir"
gcc -O2 -o "$tmp/sse_blast" bench/tools/http/sse_blast.c

# Processor seconds of each thread of a process. The first is the loop (all sockets and
# JSON), the others the engine thread (scheduler, sampler) and its workers.
thread_seconds() { # PID
    local t name
    for t in /proc/"$1"/task/*; do
        name=engine
        [ "${t##*/}" = "$1" ] && name=loop
        sed 's/.*) //' "$t/stat" 2>/dev/null | awk -v hz="$(getconf CLK_TCK)" -v n=$name '{printf "%s %.2f\n", n, ($12 + $13) / hz}'
    done
}
process_seconds() { thread_seconds "$1" | awk '{s += $2} END {printf "%.2f", s}'; }
field() { jq -r ".$1" "$tmp/$2.json"; }
load() { # NAME URL ARGS...
    local name=$1 url=$2; shift 2
    build/fathom bench --disable-tqdm --url "$url" --model demo --input-len 8 --ignore-eos --percentile-metrics ttft,itl \
        --metric-percentiles 50,99 --result-dir "$tmp" --result-filename "$name.json" "$@" >"$tmp/$name.txt" 2>"$tmp/$name.err" || { cat "$tmp/$name.err"; return 1; }
}
serve() { # ARGS... : sets $server
    build/fathom serve --model models/demo --device fake --port "$port" --max-running 2048 --log-level alert "$@" 2>"$tmp/serve.log" &
    server=$!
    pids+=("$server")
    for _ in $(seq 100); do curl -fs "http://127.0.0.1:$port/ready" >/dev/null 2>&1 && return 0; sleep 0.1; done
    cat "$tmp/serve.log"
    return 1
}
finish() { kill "$1"; wait "$1" 2>/dev/null || true; }
median() { sort -g | awk '{v[NR] = $1} END {print (NR % 2) ? v[(NR + 1) / 2] : (v[NR / 2] + v[NR / 2 + 1]) / 2}'; }

"$tmp/sse_blast" $((port + 1)) &
blast=$!
pids+=("$blast")
serve
: >"$tmp/rows"
for r in $(seq "$rounds"); do
    b0=$(process_seconds "$blast")
    load "ceiling$r" "http://127.0.0.1:$((port + 1))" --num-prompts "$streams" --output-len "$tokens"
    b1=$(process_seconds "$blast")
    thread_seconds "$server" >"$tmp/t0"
    load "instant$r" "http://127.0.0.1:$port" --num-prompts "$streams" --output-len "$tokens" --plot "$tmp/instant.svg"
    thread_seconds "$server" >"$tmp/t1"
    n=$(field total_output_tokens "instant$r")
    awk -v n="$n" 'NR == FNR {a[FNR] = $2; next} {d = $2 - a[FNR]; s += d; printf "%s %.2f\n", $1, 1e6 * d / n} END {printf "server %.2f\n", 1e6 * s / n}' \
        "$tmp/t0" "$tmp/t1" | awk '$2 > 0' >"$tmp/threads$r"
    echo "$(field output_throughput "ceiling$r") $(field output_throughput "instant$r") \
        $(jq '1e6 * .client_cpu_seconds / .client_chunks' "$tmp/ceiling$r.json") $(jq '1e6 * .client_cpu_seconds / .client_chunks' "$tmp/instant$r.json") \
        $(awk '/^server/ {print $2}' "$tmp/threads$r") $(field completed "instant$r") $b0 $b1" >>"$tmp/rows"
done
rss=$(awk '/VmHWM/ {print $2}' /proc/"$server"/status)
finish "$server"

# A thousand streams, one loop for each token, four launches of up to 256 a round: each stream
# gets about twenty tokens a second, in bursts of 256.
serve --fake-us-per-token 12000
t0=$(process_seconds "$server") s0=$(date +%s%N)
load thousand "http://127.0.0.1:$port" --num-prompts 1000 --output-len 100 --extra-body '{"depth":{"max_loops":1}}' --plot "$tmp/thousand.svg"
t1=$(process_seconds "$server") s1=$(date +%s%N)
rss1000=$(awk '/VmHWM/ {print $2}' /proc/"$server"/status)
finish "$server"
finish "$blast"

col() { awk "{print \$$1}" "$tmp/rows" | median; }
{
    echo "# HTTP with the model taken out"
    echo
    echo "\`bench/tools/http/run.sh\`, commit $(git rev-parse --short HEAD), $(date -u +%F), $(nproc) cores of $(sed -n 's/^model name.*: //p' /proc/cpuinfo | head -1), load $(cut -d' ' -f1 /proc/loadavg) when it ended; server, generator and other work share the machine."
    echo "Device fake (no arithmetic; depths 1, 2, 3 by position), demo vocabulary 2,048, greedy choice, one event per token, one send per event. Medians of $rounds rounds, both sides of a round one after the other."
    echo
    echo "| $streams streams × $tokens tokens, as fast as they come | ceiling of the generator (sse_blast) | fathom serve |"
    echo "|---|---|---|"
    printf '| tokens/s, wall clock | %.0f | %.0f |\n' "$(col 1)" "$(col 2)"
    printf '| generator, µs of processor time per token | %.2f | %.2f |\n' "$(col 3)" "$(col 4)"
    printf '| so one core drives, tokens/s | %.0f | %.0f |\n' "$(col 3 | awk '{print 1e6 / $1}')" "$(col 4 | awk '{print 1e6 / $1}')"
    printf '| server, µs of processor time per token, all threads | | %.2f |\n' "$(col 5)"
    printf '| requests completed | | %s of %s |\n' "$(col 6)" "$streams"
    echo
    echo "Server by thread, last round (loop: sockets and JSON; engine: scheduler and sampler; µs of processor time per token):"
    sed 's/^/- /' "$tmp/threads$rounds"
    echo
    echo "Resident at most: $((rss / 1024)) MB with $streams streams, $((rss1000 / 1024)) MB with 1,000."
    echo
    echo "1,000 streams, a token each about twenty times a second, in bursts of 256 (four launches of 12 ms a round):"
    awk -v a="$t0" -v b="$t1" -v s=$(((s1 - s0) / 1000000)) 'BEGIN {printf "- server: %.0f %% of a core\n", 100 * (b - a) / (s / 1000)}'
    echo "- completed $(field completed thousand), failed $(field failed thousand); $(field output_throughput thousand | xargs printf %.0f) tokens/s; inter-token p50 $(field p50_itl_ms thousand | xargs printf %.1f) ms, p99 $(field p99_itl_ms thousand | xargs printf %.1f) ms (48 ms are the engine's)"
    echo
    echo "![instant](http-instant.svg) ![a thousand](http-thousand.svg)"
} >"$out"
cp "$tmp/instant.svg" "$dir/http-instant.svg"
cp "$tmp/thousand.svg" "$dir/http-thousand.svg"
cat "$out"
