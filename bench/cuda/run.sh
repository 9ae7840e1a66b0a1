#!/usr/bin/env bash
# Everything that needs a GPU, unattended, in about ten minutes; writes one JSON.
#
#   bench/cuda/run.sh [OUT.json]          build/bench-cuda.json
#   OPENMYTHOS=PATH   also times the published PyTorch generate of that checkout (needs torch)
#   VARIANT=mythos_1b CONTEXT=1024 BUDGET=600 (seconds) WORK=build/bench-cuda
#   CUDA_ARCHS=90a    builds for this device alone, which is quicker
#
# Steps, in order of what they prove; one that fails or finds no time left is written as
# {"failed": REASON} and the rest go on: the self-test, the probes and kernels, one recurrent
# step (as graph and as single launches: the gaps), the modes of `fathom bench engine`, the
# published model, HTTP from end to end, compute-sanitizer on the self-test.
set -u
cd "$(dirname "$0")/../.."
out=${1:-build/bench-cuda.json}
variant=${VARIANT:-mythos_1b} context=${CONTEXT:-1024} budget=${BUDGET:-600}
work=${WORK:-build/bench-cuda}
port=${PORT:-18490}
start=$(date +%s)
server=
trap '[ -n "$server" ] && kill "$server" 2>/dev/null' EXIT
mkdir -p "$work" "$(dirname "$out")"

left() { echo $((budget - ($(date +%s) - start))); }
text() { tr -d '\r' <"$1" | tail -5 | sed 's/\\/\\\\/g; s/"/\\"/g; s/\t/ /g' | tr '\n' ' '; }
is_json() { head -c 1 "$1" | grep -q '[[{]'; }
# NAME SECONDS COMMAND...: its stdout, a JSON value, becomes a member of the result.
step() {
    local name=$1 most=$2 rc; shift 2
    [ "$most" -gt "$(left)" ] && most=$(left)
    echo "== $name" >&2
    if [ "$most" -lt 5 ]; then echo "no time left" >"$work/$name.err"; rc=1
    else timeout "$most" "$@" >"$work/$name.json" 2>"$work/$name.err"; rc=$?; fi
    if [ $rc -eq 0 ] && is_json "$work/$name.json"; then return 0; fi
    tail -3 "$work/$name.err" >&2
    printf '{"failed":"exit status %s: %s"}\n' "$rc" "$(text "$work/$name.err")" >"$work/$name.json"
    return 1
}
finish() {
    {
        printf '{"date":"%s","commit":"%s","variant":"%s"' "$(date -u +%FT%TZ)" \
            "$(git rev-parse --short HEAD 2>/dev/null || echo unknown)" "$variant"
        printf ',"gpu":"%s"' "$(nvidia-smi --query-gpu=name,driver_version,clocks.max.sm --format=csv,noheader 2>/dev/null | head -1)"
        for f in self_test kernels steps engine published http memcheck racecheck; do
            [ -s "$work/$f.json" ] && printf ',\n"%s":' "$f" && cat "$work/$f.json"
        done
        printf '}\n'
    } >"$out"
    echo "written: $out ($(($(date +%s) - start)) s)" >&2
}

rm -f "$work"/*.json
if ! nvidia-smi >/dev/null 2>&1; then
    echo "skipped: no CUDA device" >&2
    exit 77
fi
if ! make -j"$(nproc)" CUDA=1 all cuda >"$work/build.log" 2>&1; then
    tail -20 "$work/build.log" >&2
    exit 1
fi

self_test() {
    build/fathom-cuda-selftest >"$work/selftest.log" 2>&1
    local rc=$?
    tail -1 "$work/selftest.log" | sed -n 's/^\([0-9]*\) checks, \([0-9]*\) failed$/{"checks":\1,"failed":\2}/p'
    [ $rc -eq 0 ] || cat "$work/selftest.log" >&2
}
model=$work/$variant
http() {
    build/fathom serve --model "$model" --device cuda --port "$port" --max-running 512 --log-level warn 2>"$work/serve.log" &
    server=$!
    for _ in $(seq 240); do
        curl -fs "http://127.0.0.1:$port/ready" >/dev/null && break
        kill -0 $server 2>/dev/null || { cat "$work/serve.log" >&2; return 1; }
        sleep 0.25
    done
    build/fathom bench --disable-tqdm --url "http://127.0.0.1:$port" --num-prompts 256 --input-len 128 --output-len 64 \
        --ignore-eos --max-concurrency 128 --result-dir "$work" --result-filename http_result.json >&2 || return 1
    kill $server; wait $server 2>/dev/null; server=
    cat "$work/http_result.json"
}
sanitize() { # TOOL
    local log=$work/$1.log rc=0
    command -v compute-sanitizer >/dev/null || { echo "compute-sanitizer is not installed" >&2; return 1; }
    for group in rows ahead moe attention flash sample mm; do
        compute-sanitizer --tool "$1" --error-exitcode 9 build/fathom-cuda-selftest $group >>"$log" 2>&1 || rc=$?
    done
    printf '{"clean":%s,"summary":"%s"}\n' "$([ $rc -eq 0 ] && echo true || echo false)" \
        "$(grep -h 'SUMMARY' "$log" | sort | uniq -c | tr -s ' ' | tr '\n' ';' | sed 's/"//g')"
}

# `timeout` runs programs, not functions: the functions above run in a child of this shell.
export -f self_test http sanitize
export work model port
child() { step "$1" "$2" bash -c 'server=; trap "[ -n \"\$server\" ] && kill \$server 2>/dev/null" EXIT; "$@"' child "${@:3}"; }

child self_test 120 self_test
step kernels 90 build/fathom-cuda-bench "$variant" "$context"
if [ ! -f "$model/config.json" ]; then
    echo "== random weights" >&2
    rm -rf "$model"
    timeout 120 build/fathom init --variant "$variant" --out "$model" --dtype float32 --mean-depth 6 >&2 || rm -rf "$model"
fi
step steps 60 build/fathom-cuda-step "$model" "$context"
step engine 200 build/fathom bench engine --model "$model" --device cuda --sequences 1,8,32,128,512 \
    --prompt-tokens 64 --output-tokens 16 --repeat 1 --json
if [ -n "${OPENMYTHOS:-}" ]; then
    step published 120 python3 bench/cuda/published.py --openmythos "$OPENMYTHOS" --model "$model"
fi
child http 60 http
child memcheck 90 sanitize memcheck
child racecheck 90 sanitize racecheck
finish
grep -q '"failed":0' "$work/self_test.json"
