#!/usr/bin/env bash
# Builds and runs the tests; the closing line counts them all.
#   tools/run_tests.sh all    what `make test` runs
#   tools/run_tests.sh tsan   only the thread tests
#   tools/run_tests.sh tsan-http [FILE...]   the whole server under TSan: the HTTP tests, or these files of them
# A group that cannot run here says so and counts as skipped, never as passed. Groups run in two
# lanes, since half of them wait for sockets and timers and the others compute; each prints
# what it says in one piece when it ends. What failed is said again at the very end.
set -u
cd "$(dirname "$0")/.."
log=build/test-logs
mkdir -p "$log"
: >"$log/counts"
rm -f "$log"/*.ended "$log/failures"
jobs=$(nproc)
export WERROR=1

count() { # PASSED FAILED SKIPPED [LOG of what failed]
    echo "$1 $2 $3" >>"$log/counts"
    [ "$2" -eq 0 ] || printf '\n-- failed in %s\n%s\n' "$group" "$([ -z "${4-}" ] || reasons "$4")" >>"$log/failures"
}
reasons() { # LOG: the lines a reader of a failure wants first, of each kind of test
    if grep -q '^✖ failing tests:' "$1"; then sed -n '/^✖ failing tests:/,$p' "$1" | grep -v '^ *at ' | head -40
    elif grep -q '^ *not ok ' "$1"; then grep -A14 '^ *not ok ' "$1" | head -60
    elif grep -qaE '\[----\]|ERROR: |WARNING: Thread' "$1"; then grep -aE -A3 '\[----\]|ERROR: |WARNING: Thread|SUMMARY' "$1" | head -30
    else tail -12 "$1"; fi | cut -c1-300
}
group=start
group() { # NAME COMMAND...
    local group=$1 out="$log/${1//\//-}.out" start=$SECONDS; shift
    printf '\n== %s\n' "$group" >"$out"
    "$@" >>"$out" 2>&1
    local rc=$?
    echo "   $((SECONDS - start)) s" >>"$out"
    flock "$log/lock" cat "$out"
    return $rc
}
build() { # a failed build is a failed test, and the end of what needs it
    local text
    if ! text=$(make -j"$jobs" --no-print-directory "$@" 2>&1); then
        tail -40 <<<"$text" | tee "$log/$group.log"; echo "FAIL build: make $*"; count 0 1 0 "$log/$group.log"; return 1
    fi
}
one() { # NAME COMMAND...: a program that is one test
    local name=$1; shift
    if "$@" >"$log/$name.log" 2>&1; then count 1 0 0; echo "ok   $name"
    else count 0 1 0 "$log/$name.log"; echo "FAIL $name"; tail -40 "$log/$name.log"; fi
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
    if [ -z "$ok" ]; then echo "FAIL $name: no result"; tail -40 "$log/$name.log"; count 0 1 0 "$log/$name.log"; return; fi
    count "$ok" "$bad" 0 "$log/$name.log"
    echo "$name: $ok passed, $bad failed"
    if [ "$bad" -gt 0 ]; then grep -aE 'FAIL|CRASH|Assertion|\[----\]|ERROR|runtime error' "$log/$name.log" | head -60; fi
    # Leaks and sanitizer reports show in the exit status even when every test passed.
    if [ "$rc" -ne 0 ] && [ "$bad" -eq 0 ]; then echo "FAIL $name: exit status $rc"; tail -40 "$log/$name.log"; count 0 1 0 "$log/$name.log"; fi
}
hook() { # DIR/run.sh: exit 0 ok, 77 skipped
    local name; name=$(dirname "${1#tests/}"); name=${name//\//-}
    "$1" >"$log/$name.log" 2>&1
    case $? in
    0) count 1 0 0; echo "ok   $name"; tail -3 "$log/$name.log" ;;
    77) count 0 0 1; echo "skip $name"; tail -1 "$log/$name.log" ;;
    *) count 0 1 0 "$log/$name.log"; echo "FAIL $name"; tail -40 "$log/$name.log" ;;
    esac
}
node_tests() { # DIR [FILE...]: node's own runner, its counts added
    local dir=$1 name; name=${dir#tests/}; name=${name//\//-}; shift
    (cd "$dir" && npm test --silent -- "$@") >"$log/node-$name.log" 2>&1
    local rc=$? ok bad skip
    ok=$(sed -n 's/^\(# \|ℹ \)pass \([0-9]*\)$/\2/p' "$log/node-$name.log" | awk '{n+=$1} END {print n+0}')
    bad=$(sed -n 's/^\(# \|ℹ \)fail \([0-9]*\)$/\2/p' "$log/node-$name.log" | awk '{n+=$1} END {print n+0}')
    skip=$(sed -n 's/^\(# \|ℹ \)skipped \([0-9]*\)$/\2/p' "$log/node-$name.log" | awk '{n+=$1} END {print n+0}')
    if [ "$rc" -ne 0 ] && [ "$bad" -eq 0 ]; then bad=1; fi
    count "$ok" "$bad" "$skip" "$log/node-$name.log"
    echo "$name: $ok passed, $bad failed, $skip skipped"
    [ "$bad" -gt 0 ] && { grep -nE '^\s*not ok|✖|failureType|Error' "$log/node-$name.log" | head -60; }
}
node_packages() { # one npm workspace serves every folder of node tests
    (cd tests && npm ci --no-audit --no-fund --loglevel=error) >"$log/npm.log" 2>&1 && return
    tail -20 "$log/npm.log"; echo "FAIL npm ci in tests"; count 0 1 0 "$log/npm.log"; return 1
}
thread_tests() {
    build SAN=thread stress-all || return
    for t in build/san-thread/stress-*; do
        [ -x "$t" ] && one "$(basename "$t")" env TSAN_OPTIONS=halt_on_error=1 timeout 3600 "$t"
    done
}
# A server that races ends with status 66, which no test takes for a clean end. No suppressions: the
# libraries that TSan is not built into run on the loop's thread, or hand over under locks it sees.
http_under_tsan() { # FILE...
    build SAN=thread all || return
    node_packages || return
    export FATHOM_BIN=$PWD/build/san-thread/fathom
    export TSAN_OPTIONS="halt_on_error=1:exitcode=66:second_deadlock_stack=1"
    node_tests tests/http "$@"
}
finish() {
    [ ! -e "$log/failures" ] || cat "$log/failures"
    awk '{p += $1; f += $2; s += $3}
         END {printf "\n%d passed, %d failed, %d skipped\n", p, f, s; exit !(p && !f)}' "$log/counts"
    exit
}

# Hooks that compile and compute; the other hooks wait for processes most of the time.
computed=(tests/cuda/run.sh tests/mutants/run.sh tests/ports/run.sh tests/packages/run.sh tests/deploy/image/run.sh)
computing() { # the lane that needs the processor
    group "units, golden cases and properties, under ASan+UBSan" \
        criterion unit build/san-address-undefined/unit -j"$jobs" ${T:+--filter "$T"}
    group "threads, under TSan" thread_tests
    local file
    for file in "${computed[@]}"; do group "$(dirname "$file")" hook "$file"; done
}
waiting() { # the lane of servers, clients and commands; folders bring their own hook or package
    local file
    if group "packages of the node tests" node_packages; then
        for file in tests/*/package.json tests/*/*/package.json; do
            [[ $file == */node_modules/* ]] || group "$(dirname "$file")" node_tests "$(dirname "$file")"
        done
    fi
    for file in tests/*/run.sh tests/*/*/run.sh; do
        [ -x "$file" ] && [[ " ${computed[*]} tests/cuda/sass/run.sh " != *" $file "* ]] && group "$(dirname "$file")" hook "$file"
    done
}

# A lane that is killed would leave its groups uncounted.
lane() { "$1"; touch "$log/$1.ended"; }
ended() { [ -e "$log/$1.ended" ] || { echo "FAIL the lane of $1 groups did not end"; count 0 1 0; }; }

case ${1:-all} in
tsan) group "threads, under TSan" thread_tests; finish ;;
tsan-http) shift; group "the server, under TSan" http_under_tsan "$@"; finish ;;
esac

tools/deps.sh test || { echo "FAIL tools/deps.sh"; count 0 1 0; finish; }
group layers one layers tools/layers.sh
# nvcc takes one core for minutes; the sanitized build has the other.
group build build all build/release/jinja-render &
group "build under ASan+UBSan" build SAN=address,undefined all build/san-address-undefined/unit
sanitized=$?
wait $! && [ $sanitized -eq 0 ] || finish
group circles one circles tools/circles.py build/release/scheduler/*.o
lane waiting &
lane computing
wait
ended waiting
ended computing
finish
