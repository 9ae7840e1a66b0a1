#!/bin/sh
# run.sh - llama.cpp beside Fathom: fetches the prebuilt library and its headers from npm,
# writes the models, measures. Nothing of llama.cpp's enters the repository.
#
#   bench/tools/llama/run.sh [FOLDER] [ROUNDS]     (default /tmp/fathom-llama, 5; 6 GB of files)
#
# MYTHOS=DIR names a mythos_1b made before; TYPES=bf16,q8_0 and THREADS=1,2 choose.
set -eu
VERSION=3.22.1
here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../../.." && pwd)
folder=${1:-/tmp/fathom-llama}
rounds=${2:-5}
fathom=${FATHOM_BIN:-$root/build/release/fathom}
mkdir -p "$folder"
folder=$(cd "$folder" && pwd)

# The library comes prebuilt with a CPU backend for each kind of processor, and picks one; the
# headers come from the source that the main package carries as a git bundle.
if [ ! -e "$folder/lib" ]; then
    cd "$folder"
    rm -rf npm source
    mkdir npm
    (cd npm && npm pack --silent "@node-llama-cpp/linux-x64@$VERSION" "node-llama-cpp@$VERSION" &&
        for f in *.tgz; do mkdir "$f.d" && tar -xzf "$f" -C "$f.d"; done)
    git clone -q "$(find npm -name gitRelease.bundle)" source 2>/dev/null
    ln -s "$(dirname "$(find "$folder/npm" -name 'libllama.v*.so')")" lib
fi
cc -O2 -Wall -o "$folder/drive" "$here/drive.c" -I "$folder/source/include" \
    -I "$folder/source/ggml/include" "$folder"/lib/libllama.v*.so "$folder"/lib/libggml.v*.so \
    "$folder"/lib/libggml-base.so -Wl,-rpath,"$folder/lib"
for type in bf16 q8_0; do
    [ -e "$folder/$type.gguf" ] || { node "$here/gguf.mjs" "$type" "$folder/part" && mv "$folder/part" "$folder/$type.gguf"; }
done
if [ -z "${MYTHOS:-}" ] && [ ! -e "$folder/mythos_1b" ]; then
    "$fathom" init --variant mythos_1b --out "$folder/part" && mv "$folder/part" "$folder/mythos_1b"
fi
git -C "$folder/source" log -1 --format="llama.cpp %h (%cs), node-llama-cpp $VERSION, backend:"
printf 'decode 1 1\n' | "$folder/drive" "$folder/lib" "$folder/bf16.gguf" 1 2>&1 |
    sed -n 's|.*/\(libggml-cpu-[a-z0-9]*\)\.so.*|\1|p'
exec node "$here/side_by_side.mjs" "$folder" "$rounds"
