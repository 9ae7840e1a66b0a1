#!/bin/sh
# Cache bytes per token of published sizes: see kv_bytes.c. Needs a built build/release.
set -eu
cd "$(dirname "$0")/../.."
out=$(mktemp -d)
trap 'rm -rf "$out"' EXIT
# shellcheck disable=SC2086 # CC may hold words
${CC:-cc} -std=c11 -O1 -I. -o "$out/kv_bytes" bench/tools/kv_bytes.c build/release/libfathom.a -ljansson -lm -lpthread
"$out/kv_bytes" "$@"
