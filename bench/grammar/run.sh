#!/bin/sh
# Builds and runs bench/grammar/grammar.c: processor time per constrained token.
cd "$(dirname "$0")/../.." || exit 2
make -s build/release/grammar && build/release/grammar
