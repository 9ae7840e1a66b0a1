#!/usr/bin/env bash
# Static analysers over the C of the tree: cppcheck, gcc -fanalyzer, clang-tidy (.clang-tidy).
# Exit status 0: nothing found by those that are installed.
#   tools/analyse.sh [cppcheck|gcc|tidy]...   all of them by default; FILES='a.c b.c' picks files
# What is not heeded stands here with its reason, or beside the code it is about.
set -u
cd "$(dirname "$0")/.."
flags=(-std=c11 -D_GNU_SOURCE -DFATHOM_VERSION='"0"' -fno-strict-aliasing -Wno-psabi -I. ${CFLAGS:-})
read -ra files <<<"${FILES:-$(find base model text engine scheduler runtime api server loadgen cli -name '*.c' -not -path 'engine/cuda/*' -not -path 'engine/mpi/*' | sort | tr '\n' ' ')}"
jobs=$(nproc)
failed=0
log=$(mktemp)
trap 'rm -f "$log"' EXIT

have() { command -v "$1" >/dev/null || { echo "skip $2: $1 is not installed"; return 1; }; }
verdict() { # NAME STATUS: prints what was found
    if [ "$2" -eq 0 ] && ! grep -qE 'warning:|error:' "$log"; then echo "ok   $1"; return; fi
    echo "FAIL $1"; grep -vE '^[0-9]+ warnings? generated' "$log"; failed=1
}

# What cppcheck gets wrong, by file.
cppcheck_exceptions=(
    --suppress=invalidFunctionArg:cli/compare.c  # a vocabulary has at least one token, so the sum is not 0
    --suppress=uninitvar:cli/bench_engine.c      # --repeat is at least 1, so the first rate is there
    --suppress=autoVariables:engine/cpu/weights.c # the tensor is read before the function returns
    --suppress=uninitvar:scheduler/prefix.c      # hash_sip_end fills both halves
)

run_cppcheck() {
    have cppcheck cppcheck || return
    # Headers of the system are not read: the library models of cppcheck stand for them.
    cppcheck --std=c11 --enable=warning,portability,performance --inline-suppr --quiet -j"$jobs" \
        -D_GNU_SOURCE -DFATHOM_VERSION='"0"' -I. --suppress=missingIncludeSystem "${cppcheck_exceptions[@]}" \
        --error-exitcode=1 "${files[@]}" >"$log" 2>&1
    verdict cppcheck $?
}

# What gcc 12's analyzer gets wrong in all files: it loses a pointer that is kept in a list, an out
# parameter or a member, and calls it leaked (LeakSanitizer watches every test); and it takes the
# number of values in a vector for the width of one, and calls its shifts too wide.
gcc_flags="-O1 -fanalyzer -Wno-analyzer-malloc-leak -Wno-analyzer-file-leak -Wno-analyzer-shift-count-overflow"
gcc_exception() { # FILE: what it gets wrong there
    case $1 in
    api/write.c) echo -Wno-analyzer-null-dereference ;; # a token has alternatives only where tops[] was grown
    cli/bench_kernels.c) echo -Wno-analyzer-null-dereference ;; # the plan is there whenever the model is
    esac
}

run_gcc() {
    have gcc "gcc -fanalyzer" || return
    local f
    for f in "${files[@]}"; do echo "$(gcc_exception "$f") $f"; done |
        xargs -P"$jobs" -L1 gcc "${flags[@]}" $gcc_flags -c -o /dev/null >"$log" 2>&1
    verdict "gcc -fanalyzer" $?
}

# The CPU kernels are gcc's: clang builds neither their target pragmas nor their assembler. The
# checks that are off stand in .clang-tidy.
run_tidy() {
    have clang-tidy clang-tidy || return
    printf '%s\n' "${files[@]}" | grep -v '^engine/cpu/' | xargs -P"$jobs" -n4 sh -c \
        'clang-tidy --quiet "$@" -- '"$(printf "'%s' " "${flags[@]}")" sh >"$log" 2>&1
    verdict clang-tidy $?
}

[ $# -gt 0 ] || set -- cppcheck gcc tidy
for one; do "run_$one"; done
exit $failed
