#!/usr/bin/env bash
# Does Fathom build and compute the same elsewhere?   tests/ports/run.sh [arm64] [debian13]
# Without words: arm64. Exit status: 0 passed, 1 failed, 77 nothing could run.
set -u
cd "$(dirname "$0")" || exit 1
[ $# -gt 0 ] || set -- arm64
ran=0 failed=0
for port; do
    case $port in
    arm64) ./arm64.sh ;;
    debian13) ./debian.sh trixie ;;
    *) sed -n '2,3s/^# //p' run.sh >&2; exit 2 ;;
    esac
    rc=$?
    [ $rc -eq 77 ] || ran=1
    [ $rc -eq 0 ] && echo "ok   $port"
    [ $rc -eq 0 ] || [ $rc -eq 77 ] || { echo "FAIL $port"; failed=1; }
done
[ $failed -eq 0 ] || exit 1
[ $ran -eq 1 ] || exit 77
