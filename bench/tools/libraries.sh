#!/bin/sh
# Builds and runs bench/tools/libraries.c where Debian's libdnnl-dev and libopenblas-dev are
# installed; says so and ends well where they are not.
cd "$(dirname "$0")/../.." || exit 2
if [ ! -f /usr/include/dnnl.h ] || ! ldconfig -p | grep -q libopenblas; then
    echo "libraries: skipped (apt-get install libdnnl-dev libopenblas-dev)"
    exit 0
fi
[ -f build/release/libfathom.a ] || make
gcc -std=c11 -D_GNU_SOURCE -O2 -I. $(pkg-config --cflags openblas 2>/dev/null) -o build/libraries bench/tools/libraries.c \
    build/release/libfathom.a -ldnnl -lopenblas -ljansson -lm -lpthread || exit 1
OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 build/libraries
