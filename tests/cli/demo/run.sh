#!/usr/bin/env bash
# tools/demo.sh, which `make run` ends in: what it shows, a port that is taken, and what it leaves behind.
set -eu
cd "$(dirname "$0")/../../.."
dir=$(mktemp -d)
pids=()
trap 'for p in "${pids[@]}"; do kill "$p" 2>/dev/null || true; done; rm -rf "$dir"' EXIT
fail() { echo "FAIL $1"; cat "$dir/out" "$dir/err" 2>/dev/null; exit 1; }
await() { # FILE TEXT: the limit is for what never comes; it judges no speed
    for _ in $(seq 1200); do grep -q "$2" "$1" 2>/dev/null && return; sleep 0.1; done
    fail "'$2' never came"
}
servers() { pgrep -f "fathom serve --model $1 " || true; }

# A model folder of its own name, so that no other server is counted.
cp -r models/hops "$dir/model"
# Neither curl nor jq: only what every system has.
mkdir "$dir/bin"
for tool in bash sed awk grep head tail cat cp rm sleep seq dirname setsid setpriv env; do
    at=$(command -v $tool) && ln -s "$at" "$dir/bin/$tool"
done

# It shows the answers at one loop, at two and at the model's own depth, and stops by SIGTERM.
PATH=$dir/bin PORT=0 MODEL=$dir/model tools/demo.sh >"$dir/out" 2>"$dir/err" &
demo=$!
pids+=("$demo")
await "$dir/out" 'to stop'
for line in 'at most 1 loop .* Kim. .*1 loop$' 'at most 2 loops .* Bob. .*2 loops$' 'its own depth .* Zoe. .*3 loops$' \
    'Mean of 60 tokens: 2.[0-9]* of 8 loops' 'the page .*http://127.0.0.1:[0-9]*/$'; do
    grep -q "$line" "$dir/out" || fail "it does not show '$line'"
done
[ ! -s "$dir/err" ] || fail "it complains"
[ -n "$(servers "$dir/model")" ] || fail "no server runs"
kill -TERM "$demo"
wait "$demo" || fail "it ends with status $? by SIGTERM"
[ -z "$(servers "$dir/model")" ] || fail "it leaves a server behind"

# A killed demo takes its server along. The words of the demo before it must not stand in the file:
# this demo would be killed before it starts a server, and the test would prove nothing.
: >"$dir/out"
PORT=0 MODEL=$dir/model tools/demo.sh >"$dir/out" 2>"$dir/err" &
demo=$!
await "$dir/out" 'to stop'
kill -KILL "$demo"
wait "$demo" 2>/dev/null || true
for _ in $(seq 600); do [ -z "$(servers "$dir/model")" ] && break; sleep 0.1; done
[ -z "$(servers "$dir/model")" ] || fail "a killed demo leaves a server behind"

# Another program on the port is named and never asked.
build/fathom serve --model models/demo --port 0 --log-level debug >"$dir/stranger" 2>&1 &
pids+=($!)
await "$dir/stranger" 'ready on'
port=$(sed -n 's/.*ready on http:[^ ]*:\([0-9]*\).*/\1/p' "$dir/stranger")
rc=0
PORT=$port MODEL=$dir/model tools/demo.sh >"$dir/out" 2>"$dir/err" || rc=$?
[ $rc -eq 1 ] || fail "status $rc on a taken port"
grep -q "another program has the port $port" "$dir/err" || fail "a taken port is not named"
if grep -q 'Fathom is serving' "$dir/out"; then fail "it says that it serves on a stranger's port"; fi
if grep -qE 'GET |POST |/ready|/v1/' "$dir/stranger"; then fail "the stranger was asked: $(tail -3 "$dir/stranger")"; fi

rc=0
PORT=0 MODEL=$dir/nothing tools/demo.sh >"$dir/out" 2>"$dir/err" || rc=$?
[ $rc -eq 1 ] && grep -q 'No such file' "$dir/err" || fail "status $rc without a model, or no reason"
echo "demo: ok"
