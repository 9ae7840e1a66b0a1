#!/usr/bin/env bash
# Builds and runs the tests; the closing line counts them all.
#   tools/run_tests.sh all    what `make test` runs
#   tools/run_tests.sh tsan   only the thread tests, already built
# A group that cannot run here says so and counts as skipped, never as passed.
set -u
cd "$(dirname "$0")/.."
passed=0 failed=0 skipped=0
log=build/test-logs
mkdir -p "$log"
jobs=$(nproc)
export WERROR=1

say() { printf '\n== %s\n' "$*"; }
one() { # NAME COMMAND...: a program that is one test
    local name=$1; shift
    if "$@" >"$log/$name.log" 2>&1; then passed=$((passed + 1)); echo "ok   $name"
    else failed=$((failed + 1)); echo "FAIL $name"; tail -40 "$log/$name.log"; fi
}
build() { # a failed build is a failed test, and the end
    if ! make -j"$jobs" --no-print-directory "$@" >"$log/build.log" 2>&1; then
        tail -40 "$log/build.log"; echo "FAIL build: make $*"; failed=$((failed + 1)); finish
    fi
}
criterion() { # NAME BINARY ARGS...
    local name=$1; shift
    # Each worker checks its own leaks (fail_on_leaks); at exit only Criterion's runner is
    # left, which leaks a little of its own.
    LSAN_OPTIONS=leak_check_at_exit=0 "$@" >"$log/$name.log" 2>&1
    local rc=$? line
    line=$(grep -a 'Synthesis: Tested:' "$log/$name.log" | tail -1 | sed 's/\x1b\[[0-9;]*m//g')
    local ok bad
    ok=$(sed -n 's/.*Passing: \([0-9]*\).*/\1/p' <<<"$line")
    bad=$(sed -n 's/.*Failing: \([0-9]*\).*Crashing: \([0-9]*\).*/\1 \2/p' <<<"$line" | awk '{print $1 + $2}')
    if [ -z "$ok" ]; then echo "FAIL $name: no result"; tail -40 "$log/$name.log"; failed=$((failed + 1)); return; fi
    passed=$((passed + ok)) failed=$((failed + bad))
    echo "$name: $ok passed, $bad failed"
    if [ "$bad" -gt 0 ]; then grep -aE 'FAIL|CRASH|Assertion|\[----\]|ERROR|runtime error' "$log/$name.log" | head -60; fi
    # Leaks and sanitizer reports show in the exit status even when every test passed.
    if [ "$rc" -ne 0 ] && [ "$bad" -eq 0 ]; then echo "FAIL $name: exit status $rc"; tail -40 "$log/$name.log"; failed=$((failed + 1)); fi
}
node_tests() { # DIR: node's own runner, its counts added
    local dir=$1 name; name=$(basename "$dir")
    (cd "$dir" && npm ci --no-audit --no-fund --loglevel=error) >"$log/npm-$name.log" 2>&1 || {
        tail -20 "$log/npm-$name.log"; echo "FAIL npm ci in $dir"; failed=$((failed + 1)); return; }
    (cd "$dir" && npm test --silent) >"$log/node-$name.log" 2>&1
    local rc=$? ok bad skip
    ok=$(sed -n 's/^\(# \|ℹ \)pass \([0-9]*\)$/\2/p' "$log/node-$name.log" | awk '{n+=$1} END {print n+0}')
    bad=$(sed -n 's/^\(# \|ℹ \)fail \([0-9]*\)$/\2/p' "$log/node-$name.log" | awk '{n+=$1} END {print n+0}')
    skip=$(sed -n 's/^\(# \|ℹ \)skipped \([0-9]*\)$/\2/p' "$log/node-$name.log" | awk '{n+=$1} END {print n+0}')
    if [ "$rc" -ne 0 ] && [ "$bad" -eq 0 ]; then bad=1; fi
    passed=$((passed + ok)) failed=$((failed + bad)) skipped=$((skipped + skip))
    echo "$name: $ok passed, $bad failed, $skip skipped"
    [ "$bad" -gt 0 ] && { grep -nE '^\s*not ok|✖|failureType|Error' "$log/node-$name.log" | head -60; }
}
finish() {
    printf '\n%d passed, %d failed, %d skipped\n' "$passed" "$failed" "$skipped"
    [ "$failed" -eq 0 ] && [ "$passed" -gt 0 ]
    exit
}
thread_tests() {
    say "threads, under TSan"
    build SAN=thread stress-all
    for t in build/san-thread/stress-*; do
        [ -x "$t" ] && one "$(basename "$t")" env TSAN_OPTIONS=halt_on_error=1 timeout 3600 "$t"
    done
}

case ${1:-all} in
tsan) thread_tests; finish ;;
esac

tools/deps.sh test || { echo "FAIL tools/deps.sh"; failed=1; finish; }
say "layers"
one layers tools/layers.sh
say "build"
build all
build SAN=address,undefined all build/san-address-undefined/unit
say "units, golden cases and properties, under ASan+UBSan"
criterion unit build/san-address-undefined/unit -j"$jobs" ${T:+--filter "$T"}
thread_tests
for hook in tests/*/run.sh; do # other folders bring their own: exit 0 ok, 77 skipped
    [ -x "$hook" ] || continue
    name=$(basename "$(dirname "$hook")")
    say "$name"
    "$hook" >"$log/$name.log" 2>&1
    case $? in
    0) passed=$((passed + 1)); echo "ok   $name"; tail -3 "$log/$name.log" ;;
    77) skipped=$((skipped + 1)); echo "skip $name"; tail -1 "$log/$name.log" ;;
    *) failed=$((failed + 1)); echo "FAIL $name"; tail -40 "$log/$name.log" ;;
    esac
done
for pkg in tests/*/package.json; do
    [ -f "$pkg" ] || continue
    say "$(dirname "$pkg")"
    node_tests "$(dirname "$pkg")"
done
finish
