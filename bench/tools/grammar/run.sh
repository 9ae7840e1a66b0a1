#!/bin/sh
# Builds and runs bench/tools/grammar/grammar.c: processor time to compile a schema and per constrained
# token; and forced.c: tokens that a schema forces, and how many of them are foreseen. Three
# vocabularies: 200,000 entries made by the benchmark, and the 200,000 of o200k_base and its first
# 10,000 (npm package tiktoken, by way of tests/folders/tokenizer).
set -e
cd "$(dirname "$0")/../../.."
folders=build/bench-grammar
make -s build/release/grammar build/release/forced
[ -d tests/node_modules ] || (cd tests && npm ci --silent)
[ -f "$folders/o200k-10k/tokenizer.json" ] || node bench/tools/grammar/tokenizer.mjs "$folders"
build/release/grammar
build/release/grammar o200k-10k "$folders/o200k-10k" 10000 o200k "$folders/o200k" 200000
build/release/forced o200k "$folders/o200k" 200000 o200k-10k "$folders/o200k-10k" 10000 demo models/demo 2048 hops models/hops 352
