#!/usr/bin/env bash
# Mutants of the scheduler and the CPU engine: planted bugs, each a patch, that the property tests must find.
#   make mutants [T=REGEX]
#
# The first line of a patch says what the bug is, the second what finds it: "traffic FLIGHTS..."
# (random workloads with this many launches in flight, each number alone), "plans" (random plans
# against the plain model) or the name of one test. The files that a patch touches are compiled anew and linked before the library.
set -u
cd "$(dirname "$0")/../.."
[ -n "${BUILD:-}" ] || exec make -j"$(nproc)" --no-print-directory mutants
out=$BUILD/mutants
most=3000 # workloads

link() { # PROGRAM OBJECT...
    # shellcheck disable=SC2086
    "$CC" $CFLAGS -o "$@" "$BUILD/tests/property/workload.o" "$BUILD/libtest.a" "$BUILD/libfathom.a" -lcriterion $LIBS
}
found_by() { # DIR FINDER OBJECT...: prints what found the mutant; false: nothing did
    local dir=$1 finder=$2 flights rc; shift 2
    if [[ $finder == plans ]]; then
        link "$dir/plans" "$@" "$BUILD/tests/property/plans.o" "$BUILD/tests/property/test_plans.o" || return 2
        FATHOM_SEED=1 FATHOM_PLANS=100 timeout 300 "$dir/plans" >"$dir/log" 2>&1 && { echo "not found by 100 plans"; return 1; }
        grep -aom1 'FATHOM_SEED=.*' "$dir/log" || { tail -5 "$dir/log"; return 1; }
        return 0
    fi
    if [[ $finder != traffic* ]]; then
        link "$dir/tests" "$@" "$BUILD"/tests/{property/test_tenants,property/test_drafts,unit/test_sched_drafts_life,unit/test_sched_expected}.o || return 2
        FATHOM_SEED=1 timeout 300 "$dir/tests" --filter "$finder" >"$dir/log" 2>&1 && { echo "$finder passes"; return 1; }
        grep -aq 'Failing: [1-9]' "$dir/log" || { tail -5 "$dir/log"; return 1; }
        echo "$finder"
        return 0
    fi
    link "$dir/traffic" "$@" "$BUILD/tests/mutants/traffic.o" || return 2
    for flights in ${finder#traffic}; do
        timeout 300 "$dir/traffic" "$flights" $most >"$dir/log" 2>&1
        rc=$?
        [ $rc -eq 0 ] && { echo "not found by $most workloads with $flights in flight"; return 1; }
        [ $rc -eq 1 ] && echo "$flights in flight: $(tail -1 "$dir/log")" || echo "$flights in flight: exit status $rc"
    done
}
mutant() { # PATCH
    local name dir file objects=() text
    name=$(basename "$1" .patch) dir=$out/$name
    rm -rf "$dir" && mkdir -p "$dir" && cp -r scheduler engine "$dir/"
    patch -s -p1 -d "$dir" <"$1" >"$dir/log" 2>&1 || { echo "FAIL $name: the patch does not apply"; cat "$dir/log"; return 1; }
    for file in $(sed -n 's|^+++ b/||p' "$1"); do
        # shellcheck disable=SC2086
        "$CC" $CFLAGS -I"$dir" -I. -c -o "$dir/$(basename "$file" .c).o" "$dir/$file" || { echo "FAIL $name: $file"; return 1; }
        objects+=("$dir/$(basename "$file" .c).o")
    done
    text=$(found_by "$dir" "$(sed -n '2s/^Found by: //p' "$1")" "${objects[@]}" 2>&1) || { echo "FAIL $name: $text"; return 1; }
    echo "found $name: ${text//$'\n'/; }"
}

export -f link found_by mutant
export out most
printf '%s\n' tests/mutants/*.patch | grep -E "${T:-.}" | xargs -P"$(nproc)" -I{} bash -uc 'mutant {}' || exit 1
