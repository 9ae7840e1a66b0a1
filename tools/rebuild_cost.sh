#!/usr/bin/env bash
# What a change costs to compile: a cold build, and a build after touching one header, in objects and in
# seconds of processor and wall time.
#   tools/rebuild_cost.sh [-n] [HEADER...]   -n: only count objects; compiles once, for the dependencies
# It builds in build/rebuild-cost, without ccache, on all cores.
set -euo pipefail
cd "$(dirname "$0")/.."
count_only=
[ "${1:-}" = -n ] && { count_only=1; shift; }
[ $# -gt 0 ] || set -- base/err.h engine/backend.h scheduler/scheduler.h api/api.h server/server_internal.h
[ -n "$count_only" ] || export CCACHE_DISABLE=1
args=(--no-print-directory CUDA=0 MPI=0 MODE=rebuild-cost all)

row() { # NAME: what a build takes now
    local objects
    objects=$(make -n "${args[@]}" | grep -c ' CC ' || true)
    if [ -n "$count_only" ]; then printf '| %-26s | %7d |\n' "$1" "$objects"; return; fi
    local TIMEFORMAT='%R %U %S' times
    times=$({ time make "${args[@]}" >/dev/null; } 2>&1 | tail -1)
    read -r wall user sys <<<"$times"
    printf '| %-26s | %7d | %6.1f | %9.1f |\n' "$1" "$objects" "$wall" "$(awk "BEGIN { print $user + $sys }")"
}
if [ -n "$count_only" ]; then printf '| after                      | objects |\n|---|---:|\n'
else printf '| after                      | objects | wall s | processor s |\n|---|---:|---:|---:|\n'; fi
rm -rf build/rebuild-cost
row "nothing (cold)"
# Counts need the dependencies of every object, which only compiling writes.
[ -z "$count_only" ] || make "${args[@]}" >/dev/null
for header; do
    touch "$header"
    row "$header"
    [ -z "$count_only" ] || make -t "${args[@]}" >/dev/null
done
rm -rf build/rebuild-cost
